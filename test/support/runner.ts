/** A real runner in the process of the test: enrolled at a test gateway, with applications of the test behind it. */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type RequestListener, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import {
  connectRunner,
  type EnvironmentEvent,
  type EnvironmentInput,
  type RunnerClient,
  type RunnerOptions,
  type TransportChoice,
} from '../../tunnel-client/src/client.ts';
import type { TestGateway } from './gateway.ts';

/** What does not happen within this will not happen, ms. */
const WAIT_MS = 15_000;

export interface TestRunner {
  readonly id: string;
  readonly client: RunnerClient;
  readonly stateDir: string;
  /** Announces `environment` and waits for the gateway's verdict. */
  announce(environment: EnvironmentInput): Promise<EnvironmentEvent>;
  /** The next verdict on an environment. */
  verdict(environmentId: string): Promise<EnvironmentEvent>;
  close(options?: { drain?: boolean | number }): Promise<void>;
}

export interface TestRunnerOptions extends Partial<RunnerOptions> {
  readonly name?: string;
  readonly organization?: string;
  /** Comes up again with the key and id of another one. */
  readonly like?: TestRunner;
}

/** What runners of tests use when the test does not say: whole test files are run over each transport this way. */
const { TEST_TRANSPORT } = process.env;

/** Enrols a runner at `gateway`, connects it, and waits until its first leg is up. */
export const startTestRunner = async (gateway: TestGateway, options: TestRunnerOptions = {}): Promise<TestRunner> => {
  const { name = 'test', organization, like, ...rest } = options;
  const stateDir = rest.stateDir ?? like?.stateDir ?? (await mkdtemp(join(tmpdir(), 'runner-test-')));
  let runnerId = like?.id;
  let exchangeToken: string | undefined;
  if (runnerId === undefined) {
    const created = await gateway.gateway.directory.createRunner({ name, ...(organization ? { organization } : {}) });
    runnerId = created.runner.id;
    exchangeToken = created.exchangeToken;
  }
  const client = connectRunner({
    gateway: gateway.url,
    runnerId,
    ...(exchangeToken ? { exchangeToken } : {}),
    ca: gateway.ca,
    ...(TEST_TRANSPORT === undefined ? {} : { transport: TEST_TRANSPORT as TransportChoice }),
    ...rest,
    stateDir,
  });
  await client.ready({ signal: AbortSignal.timeout(WAIT_MS) });
  const verdict = (environmentId: string): Promise<EnvironmentEvent> =>
    new Promise((resolve, reject) => {
      const finish = (): void => {
        clearTimeout(timer);
        client.off('environment', onEvent);
      };
      const onEvent = (event: EnvironmentEvent): void => {
        if (event.id !== environmentId) return;
        finish();
        resolve(event);
      };
      const timer = setTimeout(() => {
        finish();
        reject(new Error(`no verdict on ${environmentId}`));
      }, WAIT_MS);
      client.on('environment', onEvent);
    });
  return {
    id: runnerId,
    client,
    stateDir,
    verdict,
    announce(environment) {
      const result = verdict(environment.id);
      client.environments.set(environment);
      return result;
    },
    async close(closeOptions) {
      await client.close(closeOptions);
      if (!like && rest.stateDir === undefined) await rm(stateDir, { recursive: true, force: true });
    },
  };
};

export interface TestUpstream {
  readonly server: Server;
  readonly port: number;
  /** Requests that arrived. */
  requests(): number;
  close(): Promise<void>;
}

/** An application on a free port of 127.0.0.1. */
export const startUpstream = async (listener: RequestListener): Promise<TestUpstream> => {
  let requests = 0;
  const server = createServer((request, response) => {
    requests += 1;
    listener(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    server,
    port: (server.address() as AddressInfo).port,
    requests: () => requests,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
};

/** Waits until `holds`; looks again every 20 ms. For what has no event to wait for. */
export const until = async (holds: () => boolean | Promise<boolean>, timeoutMs = WAIT_MS): Promise<void> => {
  const end = performance.now() + timeoutMs;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error('it did not come about in time');
    await new Promise((resolve) => {
      setTimeout(resolve, 20);
    });
  }
};
