/** What the demo keeps in `demo-state/`: its runner, and the configuration files of the two programs. */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { text } from 'node:stream/consumers';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createSampleLogin, type SampleLogin } from './sample-login.ts';
import type { ScmSettings } from './sample-scm-main.ts';

export interface DemoSettings {
  /** The checkout. */
  readonly root: string;
  /** State of the gateway. */
  readonly stateDir: string;
  /** State of the demo: logs, the tunnel client's state and configuration. */
  readonly demoDir: string;
  readonly httpsPort: number;
  readonly quicPort: number;
  readonly internalPort: number;
  readonly clientInternalPort: number;
  readonly appPort: number;
  /** The sample SCM. */
  readonly scmPort: number;
}

/** Where the demo application writes its log, which the tunnel client serves. */
export const appLogPath = (settings: DemoSettings): string => join(settings.demoDir, 'demo.log');

/** Origin of one of the demo's hosts at the gateway. */
export const originOf = (settings: DemoSettings, label = ''): string =>
  `https://${label === '' ? '' : `${label}.`}gateway.localhost${settings.httpsPort === 443 ? '' : `:${settings.httpsPort}`}`;

const isDefault = (settings: DemoSettings): boolean =>
  settings.httpsPort === 8443 &&
  settings.quicPort === 4242 &&
  settings.internalPort === 9090 &&
  settings.stateDir === join(settings.root, 'state');

/** Arguments that tell the gateway its configuration: none as long as its defaults are what is wanted. */
export const writeGatewayConfig = async (settings: DemoSettings): Promise<string[]> => {
  if (isDefault(settings)) return [];
  const path = join(settings.demoDir, 'gateway.yaml');
  const config = `listeners:
  https: ['[::]:${settings.httpsPort}']
  quic: ['0.0.0.0:${settings.quicPort}', '[::]:${settings.quicPort}']
  internal: 127.0.0.1:${settings.internalPort}
stateDir: ${JSON.stringify(settings.stateDir)}
`;
  await writeFile(path, config, { mode: 0o600 });
  return ['--config', path];
};

export interface DemoRunner {
  readonly id: string;
  /** Present until the runner has joined with it. */
  readonly exchangeTokenFile: string | undefined;
}

const runnerStateDir = (settings: DemoSettings): string => join(settings.demoDir, 'runner');

/** Runs the gateway's command line with `--json` and gives what it says. */
const askGateway = async (
  settings: DemoSettings,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  signal: AbortSignal,
): Promise<unknown> => {
  const child = spawn(process.execPath, ['gateway/src/main.ts', ...args, '--json'], {
    cwd: settings.root,
    env,
    signal,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const exited = new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  const [output, errors, code] = await Promise.all([text(child.stdout), text(child.stderr), exited]);
  if (code !== 0) throw new Error(`gateway ${args.join(' ')} failed: ${errors.trim() || output.trim()}`);
  return JSON.parse(output);
};

const readJson = async (path: string): Promise<unknown> => {
  const content = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  return content === undefined ? undefined : JSON.parse(content);
};

/**
 * The runner of the last start if the gateway still knows it, else a new one. A start that was broken off between
 * creating and joining left a runner without a key: it gets a fresh token.
 */
export const prepareRunner = async (
  settings: DemoSettings,
  config: readonly string[],
  env: NodeJS.ProcessEnv,
  signal: AbortSignal,
): Promise<DemoRunner> => {
  const recordPath = join(settings.demoDir, 'runner.json');
  const tokenPath = join(settings.demoDir, 'exchange-token');
  const ask = (...args: string[]): Promise<unknown> => askGateway(settings, [...args, ...config], env, signal);

  const remembered = (await readJson(recordPath)) as { id: string } | undefined;
  const runners = (await ask('runner', 'list')) as { id: string; joinedAt?: unknown; revokedAt?: unknown }[];
  const known = remembered && runners.find(({ id }) => id === remembered.id);
  const hasKey = (await readJson(join(runnerStateDir(settings), 'membership.json'))) !== undefined;
  if (known && known.joinedAt && !known.revokedAt && hasKey) return { id: known.id, exchangeTokenFile: undefined };

  // What the client kept belongs to a runner or an authority that is gone.
  await rm(runnerStateDir(settings), { recursive: true, force: true });
  const made = (await (known ? ask('runner', 'token', known.id) : ask('runner', 'create', '--name', 'demo'))) as {
    id: string;
    exchangeToken: string;
  };
  await rm(tokenPath, { force: true });
  await writeFile(tokenPath, `${made.exchangeToken}\n`, { mode: 0o600 });
  await writeFile(recordPath, `${JSON.stringify({ id: made.id })}\n`, { mode: 0o600 });
  return { id: made.id, exchangeTokenFile: tokenPath };
};

/** A URL that shows the log of the demo in a browser; the token in it is good for an hour. */
export const prepareLogViewer = async (
  settings: DemoSettings,
  config: readonly string[],
  env: NodeJS.ProcessEnv,
  signal: AbortSignal,
): Promise<string> => {
  const args = ['token', 'create', '--scope', 'logs', '--environment', 'demo', ...config];
  const { viewerUrl } = (await askGateway(settings, args, env, signal)) as { viewerUrl: string };
  return viewerUrl;
};

export interface PreparedLogin {
  readonly login: SampleLogin;
  /** What the sample SCM is started with. */
  readonly scmSettingsPath: string;
}

/** The sample login of the application, and the settings of the SCM that it goes to. */
export const prepareLogin = async (settings: DemoSettings, runner: DemoRunner): Promise<PreparedLogin> => {
  const client = {
    id: 'demo',
    secret: randomBytes(32).toString('hex'),
    redirectUri: `${originOf(settings, runner.id)}/oauth/sample/callback`,
  };
  const issuer = originOf(settings, `${settings.scmPort}--demo`);
  const direct = `http://127.0.0.1:${settings.scmPort}`;
  const login = createSampleLogin({
    key: randomBytes(32),
    client,
    scm: {
      authorizationEndpoint: `${issuer}/auth`,
      tokenEndpoint: `${direct}/token`,
      userEndpoint: `${direct}/me`,
    },
    home: originOf(settings, `${settings.appPort}--demo`),
  });
  const scmSettingsPath = join(settings.demoDir, 'sample-scm.json');
  const scmSettings: ScmSettings = { port: settings.scmPort, issuer, client };
  await writeFile(scmSettingsPath, JSON.stringify(scmSettings), { mode: 0o600 });
  return { login, scmSettingsPath };
};

/** Writes the tunnel client's configuration and gives its path. */
export const writeTunnelClientConfig = async (settings: DemoSettings, runner: DemoRunner): Promise<string> => {
  const path = join(settings.demoDir, 'tunnel-client.yaml');
  const port = settings.httpsPort === 443 ? '' : `:${settings.httpsPort}`;
  const token = runner.exchangeTokenFile ? `exchangeTokenFile: ${JSON.stringify(runner.exchangeTokenFile)}\n` : '';
  const config = `gateway: https://api.gateway.localhost${port}
runnerId: ${runner.id}
${token}stateDir: ${JSON.stringify(runnerStateDir(settings))}
ca: ${JSON.stringify(join(settings.stateDir, 'self-signed/certificate.pem'))}
internal: 127.0.0.1:${settings.clientInternalPort}
oauth: { target: 'http://127.0.0.1:${settings.appPort}' }
environments:
  - id: demo
    host: 127.0.0.1
    creator: demo
    ports:
      - { port: ${settings.appPort}, protocol: http, admission: everyone, name: demo }
      - { port: ${settings.scmPort}, protocol: http, admission: everyone, name: sample SCM }
    logs: { file: ${JSON.stringify(appLogPath(settings))} }
`;
  await writeFile(path, config, { mode: 0o600 });
  return path;
};
