/** `gateway environment block|unblock`, `gateway organization block|unblock|list`: what an operator lets nothing be served of. */
import { isOrganization } from '../../../shared/src/identity/membership.ts';
import { ID_RULE, isId } from '../../../shared/src/hostname.ts';
import { formatTable } from '../../../shared/src/terminal-text.ts';
import type { Block } from '../directory/directory.ts';
import { CliError, loadConfig, withDirectory, type CliWorld } from './context.ts';
import { formatJson, formatTime, jsonTime } from './output.ts';

export interface BlockOptions {
  readonly config?: string;
  readonly json?: boolean;
}

type Subject = Pick<Block, 'kind' | 'subject'>;

/** Whether there is such an environment or organization does not matter: it may come. */
const checkSubject = ({ kind, subject }: Subject): void => {
  if (kind === 'environment' && !isId(subject)) {
    throw new CliError(`"${subject}" is no id of an environment: ${ID_RULE}`);
  }
  if (kind === 'organization' && !isOrganization(subject)) {
    throw new CliError(`"${subject}" is no name of an organization`);
  }
};

const PHRASES: Readonly<Record<Block['kind'], (subject: string) => string>> = {
  environment: (subject) => `environment ${subject}`,
  organization: (subject) => `environments of organization ${subject}`,
};

export const block = async (world: CliWorld, of: Subject, options: BlockOptions): Promise<void> => {
  checkSubject(of);
  const config = await loadConfig(world, options.config);
  await withDirectory(config, (directory) => directory.block(of));
  if (options.json) return void world.stdout.write(formatJson({ ...of, blocked: true }));
  world.stdout.write(
    `No port of ${PHRASES[of.kind](of.subject)} is served from now on; what is open is cut within seconds.\n`,
  );
};

export const unblock = async (world: CliWorld, of: Subject, options: BlockOptions): Promise<void> => {
  checkSubject(of);
  const config = await loadConfig(world, options.config);
  const wasBlocked = await withDirectory(config, (directory) => directory.unblock(of));
  if (!wasBlocked) throw new CliError(`The ${of.kind} ${of.subject} is not blocked. See: gateway environment blocks`);
  if (options.json) return void world.stdout.write(formatJson({ ...of, blocked: false }));
  world.stdout.write(`Ports of ${PHRASES[of.kind](of.subject)} are served again.\n`);
};

export const listBlocks = async (world: CliWorld, options: BlockOptions): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const blocks = await withDirectory(config, (directory) => directory.blocks());
  if (options.json) {
    return void world.stdout.write(
      formatJson(blocks.map(({ kind, subject, blockedAt }) => ({ kind, subject, blockedAt: jsonTime(blockedAt) }))),
    );
  }
  if (blocks.length === 0) return void world.stdout.write('Nothing is blocked.\n');
  const rows = blocks.map(({ kind, subject, blockedAt }) => [kind, subject, formatTime(blockedAt)]);
  world.stdout.write(`${formatTable(['what', 'id', 'blocked'], rows)}\n`);
};
