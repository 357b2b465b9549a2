/** Applications of tests: servers on free ports that know how much of anything came to them. */
import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { createServer as createNetServer, type AddressInfo, type Server as NetServer, type Socket } from 'node:net';
import { createSecureContext } from 'node:tls';
import { makeTestCertificate } from './certificate.ts';

/** An application that knows how much of anything came to it. */
export interface Application<S extends NetServer = NetServer> {
  readonly server: S;
  readonly port: number;
  /** Connections so far. */
  connections(): number;
  /** Bytes so far, over all connections. */
  bytes(): number;
  /** Connections that are open now. */
  open(): number;
  close(): Promise<void>;
}

/** Listens on a free port of `host`. */
export const listenOn = async <S extends NetServer>(server: S, host: string): Promise<Application<S>> => {
  const sockets = new Set<Socket>();
  let connections = 0;
  let bytesOfEnded = 0;
  server.on('connection', (socket: Socket) => {
    connections += 1;
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => {
      bytesOfEnded += socket.bytesRead;
      sockets.delete(socket);
    });
  });
  server.listen(0, host);
  await once(server, 'listening');
  return {
    server,
    port: (server.address() as AddressInfo).port,
    connections: () => connections,
    bytes: () => [...sockets].reduce((sum, socket) => sum + socket.bytesRead, bytesOfEnded),
    open: () => sockets.size,
    async close() {
      for (const socket of sockets) socket.destroy();
      if (!server.listening) return;
      server.close();
      await once(server, 'close');
    },
  };
};

export const httpApplication = (listener: RequestListener, host = '127.0.0.1'): Promise<Application<Server>> =>
  listenOn(createServer({ requireHostHeader: false }, listener), host);

export interface HttpsApplication extends Application<Server> {
  /** Server names that clients asked for, in order. */
  readonly serverNames: readonly string[];
}

/** Self-signed, for a name that nobody asks for. */
export const httpsApplication = async (listener: RequestListener): Promise<HttpsApplication> => {
  const { certificate, key } = await makeTestCertificate('somebody.else');
  const serverNames: string[] = [];
  const context = createSecureContext({ cert: certificate, key });
  const server = createHttpsServer(
    {
      cert: certificate,
      key,
      SNICallback(name, callback) {
        serverNames.push(name);
        callback(null, context);
      },
    },
    listener,
  );
  return Object.assign(await listenOn(server as Server, '127.0.0.1'), { serverNames });
};

/** Both directions end apart from each other. */
export const rawApplication = (onSocket: (socket: Socket) => void): Promise<Application> =>
  listenOn(createNetServer({ allowHalfOpen: true }, onSocket), '127.0.0.1');

/** Answers each request that has come in whole (no body) with the same bytes, and keeps what came. */
export const cannedApplication = async (
  answer: string | Buffer | ((socket: Socket) => void),
): Promise<Application & { readonly received: () => string }> => {
  let received = '';
  const application = await rawApplication((socket) => {
    let pending = '';
    socket.on('data', (chunk) => {
      const text = chunk.toString('latin1');
      received += text;
      pending += text;
      while (pending.includes('\r\n\r\n')) {
        pending = pending.slice(pending.indexOf('\r\n\r\n') + 4);
        if (typeof answer === 'function') answer(socket);
        else socket.write(answer);
      }
    });
    socket.on('end', () => socket.end());
  });
  return Object.assign(application, { received: () => received });
};
