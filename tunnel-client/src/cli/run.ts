import { readFile } from 'node:fs/promises';
import { pino } from 'pino';
import { systemClock } from '../../../shared/src/clock.ts';
import { describeError } from '../../../shared/src/errors.ts';
import { loadOrCreateInternalToken } from '../../../shared/src/identity/internal-token.ts';
import { formatHostPort } from '../../../shared/src/transport/address.ts';
import { parseCertificates } from '../certificate-trust.ts';
import { connectRunner, type GivenMembership, type RunnerClient } from '../client.ts';
import { type ClientConfig, parseClientConfig, parseEnvironmentsOfFile } from '../config.ts';
import { suspiciousVariables } from '../config-sources.ts';
import { watchFile } from '../environment-file.ts';
import { type InternalListener, listenInternal } from '../internal-listener.ts';
import { type Logger, silentLogger } from '../logger.ts';
import { collectMetrics } from '../metrics.ts';
import { createOutbound } from '../outbound.ts';
import { ConfigError } from '../problems.ts';
import { startRemoteWrite } from '../remote-write.ts';
import { createResolver } from '../resolver.ts';
import { VERSION } from '../version.ts';
import { type CliIo, CommandError, EXIT } from './io.ts';
import { closedPortNotice, reportTo } from './reporter.ts';
import { type ConfigFlagsWithFile, readSources } from './sources.ts';

/** What never stands in a log. */
const REDACTED = ['exchangeToken', 'key', 'token', 'membership', 'authorization'].flatMap((key) => [key, `*.${key}`]);

const createLogger = (config: ClientConfig, io: CliIo): Logger =>
  pino(
    {
      level: config.logLevel,
      base: null,
      redact: REDACTED,
      timestamp: pino.stdTimeFunctions.isoTime,
      // The word, as in the gateway's log.
      formatters: { level: (label) => ({ level: label }) },
    },
    { write: io.err },
  );

export const readCa = async (path: string): Promise<string> => {
  try {
    const pem = await readFile(path, 'utf8');
    parseCertificates(pem);
    return pem;
  } catch (error) {
    const fault = error instanceof RangeError ? describeError(error) : `cannot be read: ${describeError(error)}`;
    const message = `the file ${path} ${fault}`;
    throw new ConfigError([{ path: 'ca', message }], { cause: error });
  }
};

/** The token is needed once: without the file a runner that has joined goes on. */
const readExchangeToken = async (config: ClientConfig, warn: (text: string) => void): Promise<string | undefined> => {
  const path = config.exchangeTokenFile;
  if (path === undefined) return config.exchangeToken;
  try {
    const token = (await readFile(path, 'utf8')).trim();
    if (token !== '') return token;
    warn(`The exchange token file ${path} is empty; going on with the key in ${config.stateDir}`);
  } catch (error) {
    warn(
      `The exchange token file cannot be read (${describeError(error)}); going on with the key in ${config.stateDir}`,
    );
  }
  return undefined;
};

/** What log commands get to see. */
export const withoutSecrets = (env: CliIo['env']): CliIo['env'] => ({
  ...env,
  TUNNEL_EXCHANGE_TOKEN: undefined,
  TUNNEL_KEY: undefined,
  TUNNEL_MEMBERSHIP: undefined,
});

const openInternal = async (client: RunnerClient, config: ClientConfig, log: Logger): Promise<InternalListener> => {
  const { internal } = config;
  const token = await loadOrCreateInternalToken(config.stateDir);
  return listenInternal({ client, token, log }, internal).catch((error: unknown) => {
    const where = internal.kind === 'unix' ? internal.path : formatHostPort(internal.host, internal.port);
    const isInUse = (error as NodeJS.ErrnoException).code === 'EADDRINUSE';
    const hint = isInUse ? 'it is in use; choose another one with --internal HOST:PORT' : describeError(error);
    throw new CommandError(`The internal listener cannot use ${where}: ${hint}`, { cause: error });
  });
};

/** Takes over the environments of the file whenever it changes; a broken file changes nothing. */
const followFile = (
  client: RunnerClient,
  file: { path: string; text: string },
  fixed: { environments: ClientConfig['environments']; reload: (text: string) => ClientConfig['environments'] },
  say: { info: (text: string) => void; warn: (text: string) => void },
): { close(): void } =>
  watchFile(
    {
      clock: systemClock,
      onChange: (text) => {
        try {
          const environments = fixed.reload(text);
          client.environments.replaceAll(environments);
          say.info(`${file.path} has changed: ${environments.length} environments are announced`);
        } catch (error) {
          say.warn(
            `${file.path} has changed and is not usable; the environments stay as they are.\n${describeError(error)}`,
          );
        }
      },
      onError: (error) => say.warn(`${file.path} cannot be read: ${describeError(error)}`),
    },
    file,
  );

export const readKeyFile = (path: string): Promise<string> =>
  readFile(path, 'utf8').catch((error: unknown) => {
    throw new ConfigError([{ path: 'keyFile', message: `${path} cannot be read: ${describeError(error)}` }]);
  });

export const membershipOf = ({ membership, membershipFile }: ClientConfig): GivenMembership | undefined => {
  if (membershipFile !== undefined) return { file: membershipFile };
  return membership === undefined ? undefined : { token: membership };
};

/** Resolves when the process is asked to end (true) or the client has ended by itself (false). */
const untilEnd = (client: RunnerClient, stop: AbortSignal): Promise<boolean> =>
  new Promise((resolve) => {
    if (stop.aborted) return resolve(true);
    stop.addEventListener('abort', () => resolve(true), { once: true });
    client.on('state', (state) => {
      if (state === 'closed') resolve(false);
    });
  });

export const runCommand = async (flags: ConfigFlagsWithFile, io: CliIo): Promise<number> => {
  const sources = await readSources(flags, io);
  const config = parseClientConfig(sources);
  const isHuman = config.logFormat === 'human' || (config.logFormat === 'auto' && io.isTerminal);
  const log = isHuman ? { ...silentLogger, error: printErrors(io) } : createLogger(config, io);
  const say = {
    info: (text: string): void => (isHuman ? io.err(`${text}\n`) : log.info({}, text)),
    warn: (text: string): void => (isHuman ? io.err(`! ${text}\n`) : log.warn({}, text)),
  };
  suspiciousVariables(io.env).forEach(say.warn);

  const exchangeToken = await readExchangeToken(config, say.warn);
  const key = config.keyFile === undefined ? config.key : await readKeyFile(config.keyFile);
  const membership = membershipOf(config);
  const ca = config.ca === undefined ? undefined : await readCa(config.ca);
  let internal: InternalListener | undefined;
  const client = connectRunner({
    gateway: config.gateways,
    ...(config.reselectAfterMs === undefined ? {} : { reselectAfterMs: config.reselectAfterMs }),
    runnerId: config.runnerId,
    stateDir: config.stateDir,
    environments: config.environments,
    logger: log,
    ownPorts: () => (internal?.port === undefined ? [] : [internal.port]),
    ...(exchangeToken === undefined ? {} : { exchangeToken }),
    ...(key === undefined ? {} : { key }),
    ...(membership === undefined ? {} : { membership }),
    ...(ca === undefined ? {} : { ca }),
    proxy: config.proxy,
    transport: config.transport,
    ...(config.oauth === undefined ? {} : { oauth: config.oauth }),
    inspector: config.inspector,
    commandVariables: withoutSecrets(io.env),
  });
  if (isHuman) reportTo(client, (line) => io.err(`${line}\n`));
  const ended = untilEnd(client, io.stop);
  try {
    internal = await openInternal(client, config, log);
  } catch (error) {
    await client.close();
    throw error;
  }
  say.info(
    `tunnel-client ${VERSION}: runner ${config.runnerId}, gateway ${config.gateways.join(' or ')}, internal ${internal.address}` +
      (config.proxy.server ? `, proxy ${config.proxy.server.url}` : ''),
  );
  if (config.inspector) {
    const { address } = internal;
    const where = internal.port === undefined ? 'tunnel-client inspect' : `http://${address}/inspector`;
    say.warn(`The inspector is on: the last requests are kept in memory, with what users send and get: ${where}`);
  }
  const notice = closedPortNotice(config.environments);
  if (notice !== undefined) say.warn(notice);
  if (config.environments.length === 0)
    say.warn('No environments are announced: use --expose PORT or a configuration file');
  const { file } = sources;
  const fromElsewhere = file ? config.environments.slice(parseEnvironmentsOfFile(file).length) : [];
  const followed = file
    ? followFile(
        client,
        file,
        {
          environments: config.environments,
          reload: (text) => [...parseEnvironmentsOfFile({ path: file.path, text }), ...fromElsewhere],
        },
        say,
      )
    : undefined;

  const metrics = config.remoteWrite
    ? startRemoteWrite(
        {
          collect: () => collectMetrics(client.status()),
          ...{ clock: systemClock, log },
          outbound: createOutbound(
            { clock: systemClock, resolver: createResolver({ clock: systemClock }) },
            { proxy: config.proxy, ...(ca === undefined ? {} : { ca }) },
          ),
        },
        { target: config.remoteWrite, labels: { job: 'tunnel-client', instance: config.runnerId } },
      )
    : undefined;

  const wasAsked = await ended;
  await metrics?.close();
  followed?.close();
  if (wasAsked) say.info('ending: open streams may finish; once more to end at once');
  await client.close({ drain: wasAsked ? config.drainTimeoutMs : false });
  await internal.close();
  return wasAsked ? EXIT.ok : EXIT.failed;
};

const printErrors =
  (io: CliIo): Logger['error'] =>
  ({ err }, message) =>
    io.err(`! ${message}${err === undefined ? '' : `: ${describeError(err)}`}\n`);
