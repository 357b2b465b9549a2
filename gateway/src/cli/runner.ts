/** `gateway runner …` */
import { join } from 'node:path';
import { publicUrl } from '../../../shared/src/hostname.ts';
import { keyFingerprint } from '../../../shared/src/identity/keys.ts';
import { parseHostPort } from '../../../shared/src/transport/address.ts';
import { formatTable } from '../../../shared/src/terminal-text.ts';
import type { GatewayConfig } from '../config.ts';
import type { ExchangeToken, Runner } from '../directory/directory.ts';
import { CliError, loadConfig, withDirectory } from './context.ts';
import type { CliWorld } from './context.ts';
import { VERSION } from '../version.ts';
import { askStatus, type GatewayStatusAnswer } from './internal.ts';
import { formatFields, formatJson, formatTime, jsonTime, listedWith, shellWord } from './output.ts';
import { isPrivateAddress } from './private-address.ts';
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

/** What the running gateway knows of a runner. */
interface Presence {
  readonly isOnline: boolean;
  readonly transports: readonly string[];
  readonly addresses: readonly string[];
  /** Whether its legs come from networks of one's own, or over the internet. */
  readonly connection: 'private' | 'public' | undefined;
  readonly environments: number;
  /** RFC 3339. */
  readonly lastSeenAt: string | undefined;
}

const hostOf = (address: string): string => parseHostPort(address).host;

const presenceOf = ({ legs, environments, lastSeen }: GatewayStatusAnswer, runnerId: string): Presence => {
  const own = legs.filter((leg) => leg.runnerId === runnerId);
  const addresses = [...new Set(own.map(({ remoteAddress }) => hostOf(remoteAddress)))];
  return {
    isOnline: own.length > 0,
    transports: [...new Set(own.map(({ transport }) => transport))],
    addresses,
    connection: own.length === 0 ? undefined : addresses.every(isPrivateAddress) ? 'private' : 'public',
    environments: environments.filter((environment) => environment.runnerId === runnerId).length,
    lastSeenAt: own.length > 0 ? new Date().toISOString() : lastSeen.find((entry) => entry.runnerId === runnerId)?.at,
  };
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

/** A self-signed gateway is trusted by its certificate, which has to be carried to the runner as well. */
const selfSigned = (config: GatewayConfig): string | undefined =>
  config.tls.length === 0 ? join(config.stateDir, 'self-signed', 'certificate.pem') : undefined;

/**
 * The command for the runner's machine, in words that belong together. Started from its sources, the product's own
 * commands run through npm.
 */
const joinCommand = (config: GatewayConfig, runnerId: string, tokenFile: string): string[] => {
  const program = import.meta.filename.endsWith('.ts') ? ['npm', 'run', 'tunnel-client', '--'] : ['tunnel-client'];
  const ca = selfSigned(config);
  return [
    [...program, 'run'],
    ['--gateway', apiUrl(config)],
    ['--runner', runnerId],
    ['--exchange-token-file', tokenFile],
    ...(ca === undefined ? [] : [['--ca', ca]]),
    ['--expose', '3000'],
  ].map((words) => words.map(shellWord).join(' '));
};

/** The same with the container image. The token is not in its arguments, which everybody on the machine can read. */
const containerCommand = (config: GatewayConfig, runnerId: string, tokenFile: string): string[] => {
  const ca = selfSigned(config);
  return [
    `TUNNEL_EXCHANGE_TOKEN="$(cat ${shellWord(tokenFile)})" docker run --detach`,
    '--name tunnel-client --restart unless-stopped --network host',
    '--volume tunnel-client:/var/lib/tunnel-client',
    `--env TUNNEL_GATEWAY=${shellWord(apiUrl(config))}`,
    `--env TUNNEL_RUNNER_ID=${shellWord(runnerId)}`,
    '--env TUNNEL_EXCHANGE_TOKEN',
    ...(ca === undefined
      ? []
      : [`--volume ${shellWord(`${ca}:/certificate.pem:ro`)}`, '--env TUNNEL_CA=/certificate.pem']),
    `gitpod-tunnel-client:${VERSION} run --expose 3000`,
  ];
};

/** For people: a part a line, which a shell takes as one command. */
const inLines = (parts: readonly string[]): string => `  ${parts.join(' \\\n    ')}\n`;

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
  const file = tokenFile ?? DEFAULT_TOKEN_FILE;
  const command = joinCommand(config, runner.id, file);
  if (options.json) {
    const token = tokenFile === undefined ? { exchangeToken } : { exchangeTokenFile: tokenFile };
    world.stdout.write(
      formatJson({ ...toJson(runner), ...token, expiresAt: jsonTime(expiresAt), command: command.join(' ') }),
    );
    return;
  }
  const write = `(umask 077; printf '%s\\n' \\\n    ${exchangeToken} > ${DEFAULT_TOKEN_FILE})`;
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
        ? '\nThe token is shown once. It works once, for the first key that comes with it.\n'
        : '',
      '\nNext, where the runner is:\n\n',
      tokenFile === undefined ? `  ${write}\n` : '',
      inLines(command),
      '\nor in a container:\n\n',
      inLines(containerCommand(config, runner.id, file)),
      '\nPorts are private. Those that everybody may open need --admission everyone too.\n',
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

const presenceToJson = (presence: Presence | undefined) => ({
  online: presence?.isOnline ?? null,
  transports: presence?.transports ?? [],
  addresses: presence?.addresses ?? [],
  connection: presence?.connection ?? null,
  environments: presence?.environments ?? null,
  lastSeenAt: presence?.lastSeenAt ?? null,
});

/** Lines of at most 42 characters, as far as names are short: beside an id, which has 36, they fit into 80 columns. */
const describeRunner = (runner: Runner, presence: Presence | undefined): string[] => {
  const { name, organization } = runner;
  const lines = [organization === undefined ? name : `${name} (${organization})`];
  if (presence?.isOnline) {
    const { transports, connection, addresses, environments } = presence;
    lines.push(
      `online, ${transports.join(' and ')}, ${connection}, ${environments} ${environments === 1 ? 'environment' : 'environments'}`,
    );
    lines.push(...addresses.map((address) => `from ${address}`));
  } else {
    const state = statusOf(runner);
    const seen = presence?.lastSeenAt === undefined ? '' : `, seen ${formatTime(Date.parse(presence.lastSeenAt))}`;
    lines.push(state === 'joined' && presence ? `offline${seen}` : state);
  }
  lines.push(`created ${formatTime(runner.createdAt)}`);
  return lines;
};

export const listRunners = async (world: CliWorld, options: RunnerOptions): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const runners = await withDirectory(config, (directory) => directory.runners());
  // Of a gateway that does not run, or at which another address was set since, the directory alone tells.
  const status = await askStatus(config, world.stop).catch((error: unknown) => {
    if (!(error instanceof CliError)) throw error;
    return undefined;
  });
  const listed = runners.map((runner) => ({ runner, presence: status && presenceOf(status, runner.id) }));
  if (options.json) {
    const described = listed.map(({ runner, presence }) => ({ ...toJson(runner), ...presenceToJson(presence) }));
    return void world.stdout.write(formatJson(described));
  }
  if (runners.length === 0)
    return void world.stdout.write(
      `There are no runners in ${config.stateDir} yet: gateway runner create --name NAME\n`,
    );
  const rows = listed.flatMap(({ runner, presence }) => listedWith(runner.id, describeRunner(runner, presence)));
  world.stdout.write(`${formatTable(['runner', 'name and state'], rows)}\n`);
  if (!status) world.stderr.write('No gateway runs with this configuration: who is online is not known.\n');
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
