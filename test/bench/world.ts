/** Gateway, tunnel client and application as processes of their own, for what has to be measured from outside. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { cleanEnvironment, runProcess } from '../support/processes.ts';

const ROOT = resolve(import.meta.dirname, '../..');
/** A program that has not come up by then will not, ms. */
const START_TIMEOUT_MS = 60_000;
const STOP_GRACE_MS = 5_000;
/** USER_HZ of Linux, a second. */
const CLOCK_TICKS = 100;
export const DOMAIN = 'gateway.localhost';

export interface Program {
  readonly pid: number;
  readonly child: ChildProcess;
  /** Resident memory, bytes. */
  rss(): Promise<number>;
  /** Time on processors so far, all threads, s. Says more than the clock where other programs run too. */
  cpuSeconds(): Promise<number>;
  stop(): Promise<void>;
}

export interface World {
  readonly gateway: Program;
  readonly tunnelClient: Program;
  /** Of the first environment, and of all unless they have their own. */
  readonly application: Program;
  readonly applicationPort: number;
  readonly httpsPort: number;
  readonly quicPort: number;
  /** Where the gateway's state is. */
  readonly stateDir: string;
  readonly ca: string;
  readonly environments: readonly string[];
  /** Host name of the application in an environment. */
  host(environmentId?: string): string;
  /** Lines of the gateway's log with these words. */
  logged(words: string): number;
  stop(): Promise<void>;
}

export interface WorldOptions {
  readonly environments?: readonly string[];
  /** An application process for each environment instead of one for all. */
  readonly separateApplications?: boolean;
  readonly limits?: Readonly<Record<string, number>>;
  /** Arguments of Node, by program: for profiles. */
  readonly nodeArgs?: Readonly<{ gateway?: readonly string[]; tunnelClient?: readonly string[] }>;
}

/** Kept of what a program says: enough to see why it failed. */
const KEPT_OUTPUT_CHARACTERS = 1 << 20;

interface Started extends Program {
  output(): string;
  waitFor(pattern: RegExp): Promise<RegExpExecArray>;
}

const start = (args: readonly string[], nodeArgs: readonly string[] = []): Started => {
  const child = spawn(process.execPath, [...nodeArgs, ...args], {
    cwd: ROOT,
    env: cleanEnvironment(),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  let check = (): void => {};
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      if (text.length > 2 * KEPT_OUTPUT_CHARACTERS) text = text.slice(-KEPT_OUTPUT_CHARACTERS);
      check();
    });
  }
  const { pid } = child;
  if (pid === undefined) throw new Error(`${args[0]} cannot be started`);
  const hasEnded = (): boolean => child.exitCode !== null || child.signalCode !== null;
  return {
    pid,
    child,
    output: () => text,
    waitFor: (pattern) =>
      new Promise((resolve, reject) => {
        const finish = (settle: () => void): void => {
          clearTimeout(timer);
          child.off('exit', onExit);
          check = () => {};
          settle();
        };
        const onExit = (): void => finish(() => reject(new Error(`${args[0]} ended:\n${text}`)));
        const timer = setTimeout(
          () => finish(() => reject(new Error(`${args[0]} did not print ${pattern}:\n${text}`))),
          START_TIMEOUT_MS,
        );
        child.once('exit', onExit);
        check = () => {
          const match = pattern.exec(text);
          if (match) finish(() => resolve(match));
        };
        check();
      }),
    async rss() {
      const status = await readFile(`/proc/${pid}/status`, 'utf8');
      return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1_024;
    },
    async cpuSeconds() {
      const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
      // proc(5): utime and stime are fields 14 and 15; the name before them may hold anything but the last bracket.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS;
    },
    async stop() {
      if (hasEnded()) return;
      child.kill('SIGTERM');
      const killer = setTimeout(() => child.kill('SIGKILL'), STOP_GRACE_MS);
      await once(child, 'exit');
      clearTimeout(killer);
    },
  };
};

export interface GatewayWorld {
  readonly gateway: Started;
  readonly directory: string;
  readonly config: string;
  readonly httpsPort: number;
  readonly quicPort: number;
  readonly certificate: string;
}

/** A gateway on free ports of 127.0.0.1. */
export const startGatewayProcess = async (directory: string, options: WorldOptions = {}): Promise<GatewayWorld> => {
  const config = join(directory, 'gateway.yaml');
  await writeFile(
    config,
    JSON.stringify({
      domains: [DOMAIN],
      listeners: { https: ['127.0.0.1:0'], quic: ['127.0.0.1:0'], internal: '127.0.0.1:0' },
      stateDir: join(directory, 'gateway'),
      drainTimeout: '0s',
      limits: options.limits ?? {},
    }),
  );
  const gateway = start(['gateway/src/main.ts', 'serve', '--config', config], options.nodeArgs?.gateway);
  const [, https, quic] = await gateway.waitFor(
    /"https":\["127\.0\.0\.1:(\d+)"\].*"quic":\["127\.0\.0\.1:(\d+)"\].*the gateway serves/,
  );
  return {
    gateway,
    directory,
    config,
    httpsPort: Number(https),
    quicPort: Number(quic),
    certificate: join(directory, 'gateway/self-signed/certificate.pem'),
  };
};

export const startWorld = async (options: WorldOptions = {}): Promise<World> => {
  const directory = await mkdtemp(join(tmpdir(), 'gateway-bench-'));
  const environments = options.environments ?? ['demo'];
  const ports = new Map<string, number>();
  const started: Started[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(started.map((program) => program.stop()));
    await rm(directory, { recursive: true, force: true });
  };
  try {
    const startApplication = async (): Promise<{ program: Started; port: number }> => {
      const program = start(['test/bench/upstream-app.ts']);
      started.push(program);
      return { program, port: Number((await program.waitFor(/listening on (\d+)/))[1]) };
    };
    const { program: application, port: applicationPort } = await startApplication();
    for (const id of environments) {
      const isShared = ports.size === 0 || !options.separateApplications;
      ports.set(id, isShared ? applicationPort : (await startApplication()).port);
    }
    const { gateway, config, httpsPort, quicPort, certificate } = await startGatewayProcess(directory, options);
    started.push(gateway);
    const created = await runProcess(process.execPath, [
      join(ROOT, 'gateway/src/main.ts'),
      ...['runner', 'create', '--name', 'bench', '--config', config, '--json'],
    ]);
    const runner = JSON.parse(created.stdout) as { id: string; exchangeToken: string };
    const clientConfig = join(directory, 'tunnel-client.yaml');
    await writeFile(
      clientConfig,
      JSON.stringify({
        gateway: `https://api.${DOMAIN}:${httpsPort}`,
        runnerId: runner.id,
        exchangeToken: runner.exchangeToken,
        stateDir: join(directory, 'runner'),
        ca: certificate,
        internal: '127.0.0.1:0',
        environments: environments.map((id) => ({
          id,
          ports: [{ port: ports.get(id), protocol: 'http', admission: 'everyone' }],
        })),
      }),
    );
    const tunnelClient = start(
      ['tunnel-client/src/main.ts', 'run', '--config', clientConfig],
      options.nodeArgs?.tunnelClient,
    );
    started.push(tunnelClient);
    for (const id of environments) await tunnelClient.waitFor(new RegExp(`https://${ports.get(id)}--${id}\\.`));
    return {
      gateway,
      tunnelClient,
      application,
      applicationPort,
      httpsPort,
      quicPort,
      stateDir: join(directory, 'gateway'),
      ca: await readFile(certificate, 'utf8'),
      environments,
      host: (id = environments[0] ?? '') => `${ports.get(id)}--${id}.${DOMAIN}`,
      logged: (words) => gateway.output().split(words).length - 1,
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
};
