/** `gateway runner …` */
import { join } from 'node:path';
import { publicUrl } from '../../../shared/src/hostname.ts';
import { keyFingerprint } from '../../../shared/src/identity/keys.ts';
import { formatTable } from '../../../shared/src/terminal-text.ts';
import type { GatewayConfig } from '../config.ts';
import type { ExchangeToken, Runner } from '../directory/directory.ts';
import { CliError, loadConfig, withDirectory } from './context.ts';
import type { CliWorld } from './context.ts';
import { formatFields, formatJson, formatTime, jsonTime, shellWord } from './output.ts';
import { writeTokenFile } from './token-file.ts';

export interface RunnerOptions {
  readonly config?: string;
  readonly json?: boolean;
}

interface TokenOptions extends RunnerOptions {
  readonly tokenFile?: string;
}

/** Where the file is that the printed command reads, when the token was not written to one already. */
const DEFAULT_TOKEN_FILE = 'exchange-token';

const statusOf = (runner: Runner): string => {
  if (runner.revokedAt !== undefined) return 'revoked';
  return runner.joinedAt === undefined ? 'not joined' : 'joined';
};

const toJson = (runner: Runner) => ({
  id: runner.id,
  name: runner.name,
  organization: runner.organization ?? null,
  status: statusOf(runner).replace(' ', '_'),
  createdAt: jsonTime(runner.createdAt),
  joinedAt: jsonTime(runner.joinedAt),
  revokedAt: jsonTime(runner.revokedAt),
  key: runner.publicKey ? keyFingerprint(runner.publicKey) : null,
  issuer: runner.issuer ?? null,
});

/** URL at which runners join. */
const apiUrl = (config: GatewayConfig): string => {
  const publicPort = config.publicPort ?? config.listeners.https[0]!.port;
  return publicUrl(`api.${config.domains[0]!}`, publicPort, '');
};

/** The command for the runner's machine. Started from its sources, the product's own commands run through npm. */
const joinCommand = (config: GatewayConfig, runnerId: string, tokenFile: string): string => {
  const program = import.meta.filename.endsWith('.ts') ? ['npm', 'run', 'tunnel-client', '--'] : ['tunnel-client'];
  const args = ['run', '--gateway', apiUrl(config), '--runner', runnerId, '--exchange-token-file', tokenFile];
  // A self-signed gateway is trusted by its certificate, which has to be carried to the runner as well.
  const ca = config.tls.length === 0 ? ['--ca', join(config.stateDir, 'self-signed', 'certificate.pem')] : [];
  return [...program, ...args, ...ca, '--expose', '3000'].map(shellWord).join(' ');
};

/** Prints a token once, or writes it to the file that was asked for. */
const presentToken = async (
  world: CliWorld,
  config: GatewayConfig,
  runner: Runner,
  { exchangeToken, expiresAt }: ExchangeToken,
  options: TokenOptions & { readonly title: string },
): Promise<void> => {
  const { tokenFile } = options;
  if (tokenFile !== undefined) await writeTokenFile(tokenFile, exchangeToken);
  const command = joinCommand(config, runner.id, tokenFile ?? DEFAULT_TOKEN_FILE);
  if (options.json) {
    const token = tokenFile === undefined ? { exchangeToken } : { exchangeTokenFile: tokenFile };
    world.stdout.write(formatJson({ ...toJson(runner), ...token, expiresAt: jsonTime(expiresAt), command }));
    return;
  }
  const write = `(umask 077; printf '%s\\n' ${exchangeToken} > ${DEFAULT_TOKEN_FILE})`;
  world.stdout.write(
    [
      `${options.title}\n\n`,
      formatFields({
        id: runner.id,
        name: runner.name,
        ...(runner.organization === undefined ? {} : { organization: runner.organization }),
        [tokenFile === undefined ? 'token' : 'token file']: tokenFile ?? exchangeToken,
        expires: formatTime(expiresAt),
      }),
      tokenFile === undefined
        ? '\nThe token is shown this once. It works once, for the first key that comes with it.\n'
        : '',
      '\nNext, where the runner is:\n\n',
      tokenFile === undefined ? `  ${write}\n` : '',
      `  ${command}\n`,
      '\nPorts are private. Those that everybody may open need --admission everyone as well.\n',
    ].join(''),
  );
};

export const createRunner = async (
  world: CliWorld,
  options: TokenOptions & { readonly name: string; readonly org?: string },
): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const { authority } = config;
  if (authority?.only) {
    throw new CliError(
      `Runners come from ${authority.issuer}: this gateway learns of one when its tunnel client connects with a membership ` +
        'that was signed there. There is nothing to create here',
    );
  }
  if (authority && !options.json) {
    world.stderr.write(`Runners of ${authority.issuer} need not be created here: they are known once they connect.\n`);
  }
  await withDirectory(config, async (directory) => {
    const { name, org } = options;
    const { runner, ...token } = await directory
      .createRunner({ name, ...(org === undefined ? {} : { organization: org }) })
      .catch((error: unknown) => {
        throw error instanceof TypeError ? new CliError(`No runner was created: ${error.message}`) : error;
      });
    await presentToken(world, config, runner, token, { ...options, title: 'Runner created.' });
  });
};

export const listRunners = async (world: CliWorld, options: RunnerOptions): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const runners = await withDirectory(config, (directory) => directory.runners());
  if (options.json) return void world.stdout.write(formatJson(runners.map(toJson)));
  if (runners.length === 0)
    return void world.stdout.write(
      `There are no runners in ${config.stateDir} yet: gateway runner create --name NAME\n`,
    );
  const rows = runners.map((runner) => [
    runner.id,
    runner.name,
    runner.organization ?? '-',
    statusOf(runner),
    formatTime(runner.createdAt),
    runner.publicKey ? keyFingerprint(runner.publicKey) : '-',
  ]);
  world.stdout.write(`${formatTable(['id', 'name', 'organization', 'status', 'created', 'key'], rows)}\n`);
};

export const createToken = async (world: CliWorld, id: string, options: TokenOptions): Promise<void> => {
  const config = await loadConfig(world, options.config);
  await withDirectory(config, async (directory) => {
    const token = await directory.createExchangeToken(id);
    const runner = (await directory.runner(id))!;
    const title =
      'A new token. Earlier ones that were not used are void; a new key that joins with it replaces the old one.';
    await presentToken(world, config, runner, token, { ...options, title });
  });
};

export const revokeRunner = async (world: CliWorld, id: string, options: RunnerOptions): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const runner = await withDirectory(config, async (directory) => {
    await directory.revokeRunner(id);
    return (await directory.runner(id))!;
  });
  if (options.json) return void world.stdout.write(formatJson(toJson(runner)));
  world.stdout.write(
    `Runner ${runner.id} (${runner.name}) is revoked. A running gateway cuts its legs within 10 seconds.\n` +
      (runner.issuer === undefined
        ? `To enrol it again: gateway runner token ${runner.id}\n`
        : `It stays out, whatever ${runner.issuer} signs for it.\n`),
  );
};
