/** A gateway and a tunnel client as processes, with an application in the process of the test: for signals. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer, request as httpRequest, type RequestListener, type Server } from 'node:http';
import { connect as connectHttp2, constants, type ClientHttp2Session } from 'node:http2';
import { Agent, request as httpsRequest } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join, resolve } from 'node:path';
import type { TestContext } from 'node:test';
import { connect as connectTls } from 'node:tls';
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
  /** TCP connections that were refused so far. */
  readonly refusals: number;
  readonly startedAt: number;
}

/** Requests come in groups, ms apart: timers are no finer. */
const GROUP_MS = 20;

/** HTTP/2 connections of the load: each is used until the gateway says that it goes. */
const SESSIONS = 4;

interface Http2Answer {
  readonly status: number;
  readonly body: string;
}

/** Sends GETs in turn on a few HTTP/2 connections; one that has got a GOAWAY is left, and another one takes its place. */
const createHttp2Sender = (target: { readonly https: number; readonly host: string }) => {
  const authority = `${target.host}:${target.https}`;
  const sessions: (ClientHttp2Session | undefined)[] = Array.from({ length: SESSIONS }, () => undefined);
  const open = new Set<ClientHttp2Session>();
  let turn = 0;
  const sessionOfTurn = (): ClientHttp2Session => {
    turn = (turn + 1) % SESSIONS;
    const known = sessions[turn];
    if (known && !known.closed && !known.destroyed) return known;
    const session = connectHttp2(`https://${authority}`, {
      createConnection: () =>
        connectTls({
          host: '127.0.0.1',
          port: target.https,
          servername: target.host,
          ALPNProtocols: ['h2'],
          rejectUnauthorized: false,
        }),
    });
    sessions[turn] = session;
    open.add(session);
    // Its requests tell.
    session.on('error', () => undefined);
    session.on('close', () => open.delete(session));
    return session;
  };
  const send = (path: string): Promise<Http2Answer> =>
    new Promise((resolveOne, reject) => {
      const session = sessionOfTurn();
      const stream = session.request({ ':path': path });
      let status = 0;
      let body = '';
      stream.on('response', (headers) => (status = headers[':status'] ?? 0));
      stream.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
      stream.on('end', () => resolveOne({ status, body }));
      stream.on('error', (error) => {
        // It passed GOAWAY on its way: it was not begun, and clients send it again (RFC 9113 section 8.7).
        if (stream.rstCode === constants.NGHTTP2_REFUSED_STREAM && session.closed) resolveOne(send(path));
        else reject(error);
      });
      stream.on('close', () => reject(new Error(`closed with code ${stream.rstCode}`)));
    });
  return {
    send,
    close: () => open.forEach((session) => session.destroy()),
  };
};

/**
 * So many requests a second, whatever becomes of the ones before: every fifth on a connection of its own, every fifth over
 * HTTP/2, the others on connections that are kept. `total` ends it.
 */
export const startLoad = (
  t: TestContext,
  target: { readonly https: number; readonly host: string },
  options: { readonly perSecond: number; readonly body: string; readonly total?: number },
): Load => {
  // In turn, so that none of them idles.
  const kept = new Agent({ keepAlive: true, maxSockets: 16, scheduling: 'fifo' });
  const http2 = createHttp2Sender(target);
  const startedAt = performance.now();
  const open = new Set<Promise<void>>();
  const refused: number[] = [];
  const failures: string[] = [];
  let sent = 0;
  let answered = 0;
  const oneOverHttp2 = async (): Promise<void> => {
    const number = (sent += 1);
    try {
      const { status, body } = await http2.send(`/load/${number}`);
      if (status === 200 && body === options.body) answered += 1;
      else failures.push(`request ${number}: ${status} over HTTP/2`);
    } catch (error) {
      // A request that waited for its connection fails with that connection's error as its cause.
      const { cause = error } = error as Error;
      const { code, message } = cause as NodeJS.ErrnoException;
      if (code === 'ECONNREFUSED') refused.push(performance.now() - startedAt);
      else failures.push(`request ${number}: ${code} ${message} over HTTP/2`);
    }
  };
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
      const running = sent % 5 === 0 ? oneOverHttp2() : one();
      open.add(running);
      void running.then(() => open.delete(running));
    }
    if (sent === options.total) clearInterval(timer);
  }, GROUP_MS);
  t.after(() => {
    clearInterval(timer);
    kept.destroy();
    http2.close();
  });
  return {
    startedAt,
    get sent() {
      return sent;
    },
    get refusals() {
      return refused.length;
    },
    async stop() {
      clearInterval(timer);
      await Promise.all(open);
      kept.destroy();
      http2.close();
      return { sent, answered, refused, failures };
    },
  };
};
