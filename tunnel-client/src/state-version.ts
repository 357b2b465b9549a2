/** `<stateDir>/version`: how the files of a state directory are to be read. */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeSecretFile } from '../../shared/src/identity/secret-file.ts';

/**
 * 1: `runner-key.json`, `membership.json`, `internal.token`, `logs/`. Directories from before there was the file are of
 * this version too. To be raised when an older client could not read, or would spoil, what a newer one has written.
 */
export const STATE_VERSION = 1;

/** Makes the file where there is none. Rejects, and leaves everything alone, when a newer tunnel client has been here. */
export const checkStateVersion = async (stateDir: string): Promise<void> => {
  const path = join(stateDir, 'version');
  let text: string | undefined;
  try {
    text = (await readFile(path, 'utf8')).trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw new Error(`${path} cannot be read`, { cause: error });
  }
  if (text === undefined) {
    await mkdir(stateDir, { recursive: true, mode: 0o700 });
    await writeSecretFile(path, `${STATE_VERSION}\n`);
    return;
  }
  if (!/^[1-9]\d{0,5}$/.test(text))
    throw new Error(`${path} is broken: it holds the version of the directory, a number`);
  if (Number(text) > STATE_VERSION) {
    throw new Error(
      `The state directory ${stateDir} was written by a newer tunnel client (version ${text}, this one knows ${STATE_VERSION}). ` +
        'Update this one, or use another state directory',
    );
  }
};
