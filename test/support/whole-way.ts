/** What tests of the whole way share: a gateway, a runner and an environment, and real clients. */
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { connect as connectHttp2, type ClientHttp2Session } from 'node:http2';
import { request as httpsRequest, type RequestOptions } from 'node:https';
import { connect as connectTcp, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls';
import type { EnvironmentInput } from '../../tunnel-client/src/client.ts';
import { portHost, startTestGateway, type GatewayOptions, type TestGateway } from './gateway.ts';
import { startTestRunner, type TestRunner, type TestRunnerOptions } from './runner.ts';

export interface WholeWay {
  readonly gateway: TestGateway;
  readonly runner: TestRunner;
  /** Announces ports as open to everyone, unless they say otherwise. */
  expose(environmentId: string, ports: readonly PortInput[], host?: string): Promise<void>;
  /** `https` options of a request to the host. */
  to(host: string, path?: string, options?: RequestOptions): RequestOptions;
  connect(host: string, options?: ConnectionOptions): Promise<TLSSocket>;
  /** The same with the TCP connection below it, for how it ends. */
  connectOver(host: string): Promise<{ readonly socket: TLSSocket; readonly tcp: Socket }>;
  connectH2(host: string): Promise<ClientHttp2Session>;
  close(): Promise<void>;
}

export type PortInput = number | NonNullable<EnvironmentInput['ports']>[number];

/** Window of an HTTP/2 client that downloads, bytes. */
const H2_WINDOW_BYTES = 4 << 20;

export const startWholeWay = async (
  options: GatewayOptions & { readonly runner?: TestRunnerOptions } = {},
): Promise<WholeWay> => {
  const gateway = await startTestGateway(options);
  const runner = await startTestRunner(gateway, options.runner);
  const clients = new Set<{ destroy(): unknown }>();
  const connect = async (host: string, more: ConnectionOptions = {}): Promise<TLSSocket> => {
    const socket = connectTls({
      host: '127.0.0.1',
      port: gateway.httpsPort,
      servername: host,
      rejectUnauthorized: false,
      ALPNProtocols: ['http/1.1'],
      // Passed on to the TCP socket; not in Node's types for TLS.
      allowHalfOpen: true,
      ...more,
    } as ConnectionOptions);
    clients.add(socket);
    socket.once('close', () => clients.delete(socket));
    await once(socket, 'secureConnect');
    socket.on('error', () => undefined);
    return socket;
  };
  return {
    gateway,
    runner,
    async expose(environmentId, ports, host) {
      const verdict = await runner.announce({
        id: environmentId,
        ...(host === undefined ? {} : { host }),
        ports: ports.map((port) => ({
          admission: 'everyone' as const,
          ...(typeof port === 'number' ? { port } : port),
        })),
      });
      if (!verdict.accepted) throw new Error(`${environmentId} was refused: ${verdict.code}`);
    },
    to: (host, path = '/', more = {}) => ({
      host: '127.0.0.1',
      port: gateway.httpsPort,
      servername: host,
      path,
      agent: false,
      rejectUnauthorized: false,
      ...more,
      headers: { host: `${host}:${gateway.httpsPort}`, ...more.headers },
    }),
    connect,
    async connectOver(host) {
      const tcp = connectTcp({ host: '127.0.0.1', port: gateway.httpsPort, allowHalfOpen: true });
      await once(tcp, 'connect');
      tcp.on('error', () => undefined);
      return { tcp, socket: await connect(host, { socket: tcp }) };
    },
    async connectH2(host) {
      const socket = await connect(host, { ALPNProtocols: ['h2'] });
      const session = connectHttp2(`https://${host}:${gateway.httpsPort}`, {
        createConnection: () => socket,
        settings: { initialWindowSize: H2_WINDOW_BYTES },
      });
      session.on('error', () => undefined);
      clients.add(session);
      session.once('close', () => clients.delete(session));
      await once(session, 'connect');
      session.setLocalWindowSize(H2_WINDOW_BYTES);
      return session;
    },
    async close() {
      for (const client of clients) client.destroy();
      await runner.close();
      await gateway.close();
    },
  };
};

/** A request that has no body; resolves with its response, which nobody has read yet. */
export const open = async (options: RequestOptions): Promise<IncomingMessage> => {
  const outgoing = httpsRequest(options);
  outgoing.end();
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  // A cut shows as an error of the response.
  outgoing.on('error', () => undefined);
  return response;
};

/** The text of a request with `Connection: close`; lines as they are. */
export const requestText = (method: string, path: string, lines: readonly string[]): string =>
  `${method} ${path} HTTP/1.1\r\n${lines.map((line) => `${line}\r\n`).join('')}\r\n`;

/** Starts it for one test, and ends it with the test. */
export const during = async <T extends { close(): Promise<void> }>(t: TestContext, start: Promise<T>): Promise<T> => {
  const started = await start;
  t.after(() => started.close());
  return started;
};

export { portHost };
