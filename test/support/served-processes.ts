/** A gateway and a tunnel client as processes, with an application in the process of the test: for signals. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer, request as httpRequest, type RequestListener, type Server } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join, resolve } from 'node:path';
import type { TestContext } from 'node:test';
import { DOMAIN, fetchOnce, portHost } from './gateway.ts';
import { runProcess, startProcess, type StartedProcess } from './processes.ts';
import { temporaryDirectory } from './programs.ts';
import { until } from './runner.ts';

const ROOT = resolve(import.meta.dirname, '../..');
export const GATEWAY_MAIN = join(ROOT, 'gateway/src/main.ts');
const TUNNEL_CLIENT_MAIN = join(ROOT, 'tunnel-client/src/main.ts');
const ENVIRONMENT = 'demo';

export interface ServedProcesses {
  readonly gateway: StartedProcess;
  readonly client: StartedProcess;
  readonly application: Server;
  readonly gatewayConfig: string;
  readonly https: number;
  /** Of the port that is shared. */
  readonly host: string;
  /** What `/readyz` of the gateway says; 0 when it is gone. */
  ready(): Promise<number>;
  /** A further tunnel client of the same runner, with the same key; up when this resolves. */
  startSecondClient(): Promise<StartedProcess>;
}

export const startServedProcesses = async (
  t: TestContext,
  listener: RequestListener,
  options: { readonly gateway?: object; readonly client?: object } = {},
): Promise<ServedProcesses> => {
  const directory = await temporaryDirectory(t);
  const application = createServer(listener).listen(0, '127.0.0.1');
  await once(application, 'listening');
  t.after(() => {
    application.closeAllConnections();
    application.close();
  });
  const { port } = application.address() as AddressInfo;
  const gatewayConfig = join(directory, 'gateway.yaml');
  const socketPath = join(directory, 'gateway.sock');
  await writeFile(
    gatewayConfig,
    JSON.stringify({
      listeners: { https: ['127.0.0.1:0'], quic: ['127.0.0.1:0'], internal: `unix:${socketPath}` },
      stateDir: join(directory, 'gateway'),
      ...options.gateway,
    }),
  );
  const node = (...args: string[]): StartedProcess => startProcess(t, process.execPath, args);
  const gateway = node(GATEWAY_MAIN, 'serve', '--config', gatewayConfig);
  const [, bound] = await gateway.waitForOutput(/"https":\["127\.0\.0\.1:(\d+)"\].*the gateway serves/);
  const https = Number(bound);
  const created = await runProcess(process.execPath, [
    ...[GATEWAY_MAIN, 'runner', 'create', '--name', 'test'],
    ...['--config', gatewayConfig, '--json'],
  ]);
  assert.equal(created.code, 0, created.stderr);
  const runner = JSON.parse(created.stdout) as { id: string; exchangeToken: string };

  const startClient = async (name: string): Promise<StartedProcess> => {
    const config = join(directory, `${name}.yaml`);
    await writeFile(
      config,
      JSON.stringify({
        gateway: `https://api.${DOMAIN}:${https}`,
        runnerId: runner.id,
        exchangeToken: runner.exchangeToken,
        stateDir: join(directory, 'runner'),
        ca: join(directory, 'gateway/self-signed/certificate.pem'),
        internal: `unix:${join(directory, `${name}.sock`)}`,
        logFormat: 'json',
        environments: [{ id: ENVIRONMENT, ports: [{ port, admission: 'everyone' }] }],
        ...options.client,
      }),
    );
    const client = node(TUNNEL_CLIENT_MAIN, 'run', '--config', config);
    await client.waitForOutput(/environment accepted/);
    return client;
  };
  const client = await startClient('first');
  const host = portHost(ENVIRONMENT, port);
  await until(async () => (await fetchOnce(https, host).catch(() => undefined))?.status === 200);
  return {
    gateway,
    client,
    application,
    gatewayConfig,
    https,
    host,
    ready: () =>
      new Promise((done) => {
        const asked = httpRequest({ socketPath, path: '/readyz', agent: false }, (response) => {
          response.resume().on('end', () => done(response.statusCode ?? 0));
        });
        asked.on('error', () => done(0)).end();
      }),
    startSecondClient: () => startClient('second'),
  };
};

export interface LoadResult {
  readonly sent: number;
  readonly answered: number;
  /** TCP connections that were refused: ms after the beginning of the load. */
  readonly refused: readonly number[];
  /** Everything else. */
  readonly failures: readonly string[];
}

export interface Load {
  /** Sends no more, and waits for the answers that are out. */
  stop(): Promise<LoadResult>;
  readonly sent: number;
  readonly startedAt: number;
}

/** Requests come in groups, ms apart: timers are no finer. */
const GROUP_MS = 20;

/**
 * So many requests a second, whatever becomes of the ones before: every fifth on a connection of its own, the others on
 * connections that are kept. `total` ends it.
 */
export const startLoad = (
  t: TestContext,
  target: { readonly https: number; readonly host: string },
  options: { readonly perSecond: number; readonly body: string; readonly total?: number },
): Load => {
  // In turn, so that none of them idles.
  const kept = new Agent({ keepAlive: true, maxSockets: 16, scheduling: 'fifo' });
  const startedAt = performance.now();
  const open = new Set<Promise<void>>();
  const refused: number[] = [];
  const failures: string[] = [];
  let sent = 0;
  let answered = 0;
  const one = (): Promise<void> =>
    new Promise((resolveOne) => {
      const number = (sent += 1);
      const fail = (why: string): void => {
        failures.push(`request ${number}: ${why}`);
        resolveOne();
      };
      const request = httpsRequest(
        {
          host: '127.0.0.1',
          port: target.https,
          servername: target.host,
          path: `/load/${number}`,
          agent: number % 5 === 0 ? false : kept,
          rejectUnauthorized: false,
          headers: { host: `${target.host}:${target.https}` },
        },
        (response) => {
          let body = '';
          response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
          response.on('error', (error) => fail(`the answer broke off: ${error.message}`));
          response.on('end', () => {
            if (response.statusCode !== 200 || body !== options.body) {
              return fail(`${response.statusCode} ${String(response.headers['gateway-error'] ?? body.slice(0, 80))}`);
            }
            answered += 1;
            resolveOne();
          });
        },
      );
      request.on('error', (error: NodeJS.ErrnoException) => {
        if (error.code !== 'ECONNREFUSED') return fail(`${error.code} ${request.reusedSocket ? 'kept' : 'new'}`);
        refused.push(performance.now() - startedAt);
        resolveOne();
      });
      request.end();
    });
  const timer = setInterval(() => {
    // As many as are due: a timer that comes late is made up for.
    const due = Math.floor(((performance.now() - startedAt) / 1_000) * options.perSecond);
    while (sent < Math.min(due, options.total ?? Infinity)) {
      const running = one();
      open.add(running);
      void running.then(() => open.delete(running));
    }
    if (sent === options.total) clearInterval(timer);
  }, GROUP_MS);
  t.after(() => {
    clearInterval(timer);
    kept.destroy();
  });
  return {
    startedAt,
    get sent() {
      return sent;
    },
    async stop() {
      clearInterval(timer);
      await Promise.all(open);
      kept.destroy();
      return { sent, answered, refused, failures };
    },
  };
};
