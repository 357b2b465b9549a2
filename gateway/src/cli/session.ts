/** `gateway session …` */
import { systemClock } from '../../../shared/src/clock.ts';
import { formatTable } from '../../../shared/src/terminal-text.ts';
import { MAX_USER_LENGTH } from '../access/tokens.ts';
import { REVOCATION_LIFETIME_MS } from '../access/revocations.ts';
import { CliError, loadConfig, withDirectory } from './context.ts';
import type { CliWorld } from './context.ts';
import { formatJson, formatTime, jsonTime } from './output.ts';

export interface SessionOptions {
  readonly config?: string;
  readonly json?: boolean;
}

/** Sessions are in the browsers' cookies alone; what is kept, and listed, is which of them were ended. */
export const listSessions = async (world: CliWorld, options: SessionOptions): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const revocations = await withDirectory(config, (directory) => directory.revocations());
  if (options.json) {
    const rows = revocations.map(({ kind, subject, revokedAt, expiresAt }) => ({
      kind,
      subject,
      revokedAt: jsonTime(revokedAt),
      expiresAt: jsonTime(expiresAt),
    }));
    return void world.stdout.write(formatJson(rows));
  }
  if (revocations.length === 0) {
    return void world.stdout.write(
      'No session was ended in the last hours. End some: gateway session revoke --user ID\n',
    );
  }
  const rows = revocations.map(({ kind, subject, revokedAt, expiresAt }) => [
    kind === 'user' ? 'all of user' : 'session',
    subject,
    formatTime(revokedAt),
    formatTime(expiresAt),
  ]);
  world.stdout.write(`${formatTable(['ended', 'id', 'at', 'kept until'], rows)}\n`);
};

export const revokeSessions = async (
  world: CliWorld,
  options: SessionOptions & { readonly user?: string; readonly session?: string },
): Promise<void> => {
  const { user, session } = options;
  const subject = user ?? session;
  if (subject === undefined || (user !== undefined && session !== undefined)) {
    throw new CliError('Name either --user ID, for all sessions of a user, or --session ID');
  }
  if (subject === '' || subject.length > MAX_USER_LENGTH)
    throw new CliError(`An id has 1 to ${MAX_USER_LENGTH} characters`);
  const kind = user === undefined ? 'session' : 'user';
  const config = await loadConfig(world, options.config);
  const revokedAt = systemClock.now();
  const revocation = { kind, subject, revokedAt, expiresAt: revokedAt + REVOCATION_LIFETIME_MS } as const;
  await withDirectory(config, (directory) => directory.revoke(revocation));
  if (options.json) return void world.stdout.write(formatJson({ kind, subject, revokedAt: jsonTime(revokedAt) }));
  world.stdout.write(
    (kind === 'user'
      ? `Every session of user ${subject} that began before now has ended.\n`
      : `Session ${subject} has ended.\n`) +
      'Running gateways refuse it, and cut what it has open, within 10 seconds.\n',
  );
};
