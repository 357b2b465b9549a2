/**
 * `npm start`: a gateway on its defaults, a runner with the environment `demo`, and an application behind it.
 * Prints the URLs once they answer. Ctrl-C ends all of it; so does the end of any part.
 */
import { createWriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { createDemoApp } from './app.ts';
import { lastLogLines, startChild, type Child } from './children.ts';
import { busyPorts, type WantedPort } from './ports.ts';
import {
  appLogPath,
  originOf,
  prepareLogViewer,
  prepareLogin,
  prepareRunner,
  writeGatewayConfig,
  writeTunnelClientConfig,
  type DemoSettings,
} from './settings.ts';
import { answers } from './wait.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const USAGE = `npm start -- [options]

  --https-port PORT              HTTPS of the gateway (8443)
  --quic-port PORT               UDP port for tunnels (4242)
  --internal-port PORT           internal listener of the gateway (9090)
  --client-internal-port PORT    internal listener of the tunnel client (9091)
  --app-port PORT                the demo application (3000)
  --scm-port PORT                the sample SCM that one signs in with (3001)
  --dir DIRECTORY                where state/ and demo-state/ are kept (here)
`;

const parseSettings = (): DemoSettings => {
  const port = (fallback: number) => ({ type: 'string', default: String(fallback) }) as const;
  const { values } = parseArgs({
    options: {
      'https-port': port(8443),
      'quic-port': port(4242),
      'internal-port': port(9090),
      'client-internal-port': port(9091),
      'app-port': port(3000),
      'scm-port': port(3001),
      dir: { type: 'string', default: '.' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    process.exit(0);
  }
  const portOf = (name: Exclude<keyof typeof values, 'dir' | 'help'>): number => {
    const number = Number(values[name]);
    if (!Number.isInteger(number) || number < 1 || number > 65_535)
      throw new Error(`--${name} is no port: ${values[name]}`);
    return number;
  };
  return {
    root: ROOT,
    stateDir: resolve(values.dir, 'state'),
    demoDir: resolve(values.dir, 'demo-state'),
    httpsPort: portOf('https-port'),
    quicPort: portOf('quic-port'),
    internalPort: portOf('internal-port'),
    clientInternalPort: portOf('client-internal-port'),
    appPort: portOf('app-port'),
    scmPort: portOf('scm-port'),
  };
};

const wantedPorts = (settings: DemoSettings): WantedPort[] => [
  {
    protocol: 'tcp',
    host: '::',
    port: settings.httpsPort,
    purpose: 'the gateway (HTTPS)',
    option: '--https-port',
    setting: 'gateway option listeners.https',
  },
  ...['0.0.0.0', '::'].map((host): WantedPort => ({
    protocol: 'udp',
    host,
    port: settings.quicPort,
    purpose: 'the gateway (tunnels over QUIC)',
    option: '--quic-port',
    setting: 'gateway option listeners.quic',
  })),
  {
    protocol: 'tcp',
    host: '127.0.0.1',
    port: settings.internalPort,
    purpose: "the gateway's internal listener",
    option: '--internal-port',
    setting: 'gateway option listeners.internal',
  },
  {
    protocol: 'tcp',
    host: '127.0.0.1',
    port: settings.clientInternalPort,
    purpose: "the tunnel client's internal listener",
    option: '--client-internal-port',
    setting: 'tunnel client option internal',
  },
  {
    protocol: 'tcp',
    host: '127.0.0.1',
    port: settings.appPort,
    purpose: 'the demo application',
    option: '--app-port',
    setting: 'the port that the environment exposes',
  },
  {
    protocol: 'tcp',
    host: '127.0.0.1',
    port: settings.scmPort,
    purpose: 'the sample SCM',
    option: '--scm-port',
    setting: 'another port that the environment exposes',
  },
];

const say = (text: string): void => void process.stdout.write(`${text}\n`);

/** Settings in variables would change the demo: it is the same on every machine. */
const childEnvironment = (): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(?:GATEWAY|TUNNEL)_/.test(name)));

const printUrls = (settings: DemoSettings, viewerUrl: string): void => {
  const url = `${originOf(settings, `${settings.appPort}--demo`)}/`;
  const here = (path: string): string => {
    const short = relative(process.cwd(), path);
    return short.startsWith('..') ? path : short;
  };
  const gatewayUrl = `${originOf(settings)}/`;
  const certificate = here(join(settings.stateDir, 'self-signed/certificate.pem'));
  say(`
  Open    ${url}
          ${gatewayUrl}   (the gateway itself)
  Sign in ${url}login   (with a sample SCM, through the runner's callback URL)
  Log     ${viewerUrl}
          (of the application, live; the link is good for an hour)

  curl    curl -k ${url}

  The certificate is self-signed, so a browser asks once whether to go on. To do without the question, let the
  browser or the system trust ${certificate}
  (curl: --cacert ${certificate} instead of -k).

  Files   ${here(join(settings.demoDir, 'gateway.log'))}, ${here(join(settings.demoDir, 'tunnel-client.log'))}
  Ctrl-C ends all of it.
`);
};

const main = async (settings: DemoSettings, stopping: AbortController): Promise<void> => {
  const busy = [...new Set(await busyPorts(wantedPorts(settings)))];
  if (busy.length > 0) throw new Error(busy.join('\n'));
  await mkdir(settings.demoDir, { recursive: true, mode: 0o700 });

  const children: Child[] = [];
  const appLog = createWriteStream(appLogPath(settings), { flags: 'w', mode: 0o600 });
  const app = createDemoApp({ log: (line) => void appLog.write(`${line}\n`) });
  const signal = stopping.signal;
  /** Starts a part; its end is the end of all. */
  const start = (name: string, args: readonly string[]): void => {
    const logPath = join(settings.demoDir, `${name}.log`);
    const child = startChild({ name, args, cwd: ROOT, env: childEnvironment(), logPath });
    children.unshift(child);
    void child.ended.then((how) => {
      if (signal.aborted) return;
      stopping.abort(new ChildDiedError(child, how));
    });
  };

  try {
    await app.listen({ host: '127.0.0.1', port: settings.appPort });
    say('Starting the gateway …');
    const config = await writeGatewayConfig(settings);
    start('gateway', ['gateway/src/main.ts', 'serve', ...config]);
    await answers('gateway.localhost', '/_health', settings, signal);

    say('Starting the tunnel client …');
    const runner = await prepareRunner(settings, config, childEnvironment(), signal);
    const { login, scmSettingsPath } = await prepareLogin(settings, runner);
    app.setLogin(login);
    start('sample-scm', ['deploy/demo/sample-scm-main.ts', scmSettingsPath]);
    const clientConfig = await writeTunnelClientConfig(settings, runner);
    start('tunnel-client', ['tunnel-client/src/main.ts', 'run', '--config', clientConfig]);
    await answers(`${settings.appPort}--demo.gateway.localhost`, '/', settings, signal);

    await answers(`${settings.scmPort}--demo.gateway.localhost`, '/.well-known/openid-configuration', settings, signal);

    printUrls(settings, await prepareLogViewer(settings, config, childEnvironment(), signal));
    await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
  } finally {
    stopping.abort();
    // The application first: then nothing is open any more that a drain would wait for.
    await app.close();
    for (const child of children) await child.stop();
    appLog.end();
  }
};

class ChildDiedError extends Error {
  readonly child: Child;
  constructor(child: Child, how: string) {
    super(`The ${child.name} ${how}.`);
    this.child = child;
  }
}
class InterruptedError extends Error {}

const stopping = new AbortController();
for (const [signal, exitCode] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  process.on(signal, () => {
    if (!stopping.signal.aborted) say('\nStopping …');
    process.exitCode = exitCode;
    stopping.abort(new InterruptedError(signal));
  });
}

try {
  await main(parseSettings(), stopping);
} catch (error) {
  if (!(error instanceof InterruptedError)) {
    process.exitCode = 1;
    process.stderr.write(`\n${error instanceof Error ? error.message : String(error)}\n`);
    if (error instanceof ChildDiedError) {
      process.stderr.write(`  The last lines of ${error.child.logPath}:\n${await lastLogLines(error.child.logPath)}\n`);
    }
  }
}
