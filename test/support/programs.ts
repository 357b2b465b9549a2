/** Gateway and tunnel client as programs of their own, on free ports: what a person starts from the command line. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { TestContext } from 'node:test';
import { runProcess, startProcess, type StartedProcess } from './processes.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const GATEWAY_MAIN = join(ROOT, 'gateway/src/main.ts');
const TUNNEL_CLIENT_MAIN = join(ROOT, 'tunnel-client/src/main.ts');

/** A directory that is gone after the test. */
export const temporaryDirectory = async (t: TestContext): Promise<string> => {
  const directory = await mkdtemp(join(tmpdir(), 'gateway-test-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  return directory;
};

export interface GatewayProgram {
  readonly process: StartedProcess;
  readonly directory: string;
  readonly httpsPort: number;
  readonly certificate: string;
  /** Runs `gateway … --json` beside the running gateway. */
  command(...args: string[]): Promise<unknown>;
}

export const startGatewayProgram = async (
  t: TestContext,
  { domains = ['gateway.localhost'] }: { domains?: readonly string[] } = {},
): Promise<GatewayProgram> => {
  const directory = await temporaryDirectory(t);
  const config = join(directory, 'gateway.yaml');
  // JSON is YAML.
  await writeFile(
    config,
    JSON.stringify({
      domains,
      listeners: { https: ['127.0.0.1:0'], quic: ['127.0.0.1:0'], internal: '127.0.0.1:0' },
      stateDir: join(directory, 'state'),
    }),
  );
  const started = startProcess(t, process.execPath, [GATEWAY_MAIN, 'serve', '--config', config]);
  const [, https] = await started.waitForOutput(/"https":\["127\.0\.0\.1:(\d+)"\].*the gateway serves/);
  return {
    process: started,
    directory,
    httpsPort: Number(https),
    certificate: join(directory, 'state/self-signed/certificate.pem'),
    command: async (...args) => {
      const done = await runProcess(process.execPath, [GATEWAY_MAIN, ...args, '--config', config, '--json']);
      assert.equal(done.code, 0, `gateway ${args.join(' ')} failed: ${done.stderr}`);
      return JSON.parse(done.stdout);
    },
  };
};

export interface ProgramEnvironment {
  readonly id: string;
  readonly ports: readonly { port: number; admission: 'everyone'; hostHeader?: 'preserve' | 'local' }[];
}

/** Enrols a new runner and starts its tunnel client. Resolves when the URL of every port was printed. */
export const startTunnelClientProgram = async (
  t: TestContext,
  gateway: GatewayProgram,
  environments: readonly ProgramEnvironment[],
): Promise<StartedProcess> => {
  const directory = await temporaryDirectory(t);
  const runner = (await gateway.command('runner', 'create', '--name', 'test')) as { id: string; exchangeToken: string };
  const config = join(directory, 'tunnel-client.yaml');
  await writeFile(
    config,
    JSON.stringify({
      gateway: `https://api.gateway.localhost:${gateway.httpsPort}`,
      runnerId: runner.id,
      exchangeToken: runner.exchangeToken,
      stateDir: join(directory, 'state'),
      ca: gateway.certificate,
      internal: '127.0.0.1:0',
      environments,
    }),
  );
  const started = startProcess(t, process.execPath, [TUNNEL_CLIENT_MAIN, 'run', '--config', config]);
  for (const { id, ports } of environments) {
    for (const { port } of ports) await started.waitForOutput(new RegExp(`https://${port}--${id}\\.`));
  }
  return started;
};
