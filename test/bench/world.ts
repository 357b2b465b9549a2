/** Gateway, tunnel client and application as processes of their own, for what has to be measured from outside. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { runProcess } from '../support/processes.ts';
import { type Program, spawnProgram } from './program.ts';

const ROOT = resolve(import.meta.dirname, '../..');
export const DOMAIN = 'gateway.localhost';

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

const start = (args: readonly string[], nodeArgs: readonly string[] = []): Program =>
  spawnProgram([process.execPath, ...nodeArgs, ...args], { cwd: ROOT });

export interface GatewayWorld {
  readonly gateway: Program;
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
  const started: Program[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(started.map((program) => program.stop()));
    await rm(directory, { recursive: true, force: true });
  };
  try {
    const startApplication = async (): Promise<{ program: Program; port: number }> => {
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
