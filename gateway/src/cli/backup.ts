/** `gateway backup FILE`: everything of the state directory that a gateway cannot make anew, while it runs. */
import { access, mkdtemp, open, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { backUpEmbeddedDirectory } from '../directory/embedded-backup.ts';
import { CliError, loadConfig } from './context.ts';
import type { CliWorld } from './context.ts';
import { formatJson, shellWord } from './output.ts';
import { writeTar, type TarEntry } from './tar.ts';

const DIRECTORY_FILE = 'directory.sqlite';
/** Kept beside the directory, each if it is there. */
const OTHER_FILES = ['gateway-key.json', 'internal.token', 'self-signed/certificate.pem', 'self-signed/key.pem'];

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

export const backUp = async (
  world: CliWorld,
  file: string,
  options: { readonly config?: string; readonly json?: boolean },
): Promise<void> => {
  const { stateDir } = await loadConfig(world, options.config);
  const source = join(stateDir, DIRECTORY_FILE);
  if (!(await exists(source))) throw new CliError(`There is no directory in ${stateDir} to back up`);
  const target = resolve(file);
  // Beside the target, so that the copy is never somewhere that others can read.
  const place = await mkdtemp(join(dirname(target), '.gateway-backup-')).catch((cause: unknown) => {
    throw new CliError(`The backup cannot be written to ${dirname(target)}`, { cause });
  });
  const copy = join(place, DIRECTORY_FILE);
  const entries: TarEntry[] = [{ name: DIRECTORY_FILE, path: copy }];
  try {
    await backUpEmbeddedDirectory(source, copy);
    for (const name of OTHER_FILES) {
      const path = join(stateDir, name);
      if (await exists(path)) entries.push({ name, path });
    }
    const archive = await open(target, 'wx', 0o600).catch((cause: unknown) => {
      throw new CliError(`The backup cannot be written to ${target}. Name a new file`, { cause });
    });
    try {
      await writeTar(archive, entries);
      await archive.sync();
      await archive.close();
    } catch (error) {
      await archive.close().catch(() => undefined);
      await rm(target, { force: true });
      throw error;
    }
  } finally {
    await rm(place, { recursive: true, force: true });
  }
  const files = entries.map(({ name }) => name);
  if (options.json) return void world.stdout.write(formatJson({ file: target, files }));
  world.stdout.write(
    `${target} holds ${files.join(', ')}.\nWhoever has it is this gateway: keep it as you keep its keys.\n\n` +
      `To restore, with the gateway stopped and an empty state directory:\n\n` +
      `  (umask 077; mkdir -p ${shellWord(stateDir)} && tar -xpf ${shellWord(target)} -C ${shellWord(stateDir)})\n`,
  );
};
