/** What opens private ports in tests: tokens and session cookies made with the keys of the gateway's own directory. */
import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { WebSocket, WebSocketServer, type ClientOptions } from 'ws';
import { createPortSessions, PORT_COOKIE, type PortSession } from '../../gateway/src/access/port-session.ts';
import { createSigningKeys } from '../../gateway/src/access/signing-keys.ts';
import { issueToken, type TokenClaims } from '../../gateway/src/access/tokens.ts';
import type { SignInConfig } from '../../gateway/src/config.ts';
import type { Directory } from '../../gateway/src/directory/directory.ts';
import { systemClock, type Clock } from '../../shared/src/clock.ts';
import { startUpstream, type TestUpstream } from './runner.ts';

/** A sign-in whose provider never answers: everything but signing in works. */
export const SILENT_SIGN_IN: SignInConfig = {
  issuer: 'http://127.0.0.1:9',
  clientId: 'gateway',
  clientSecretFile: undefined,
  scopes: ['openid'],
  claims: { user: 'sub', name: 'name', organizations: 'groups' },
  switchPrompt: 'login',
  ca: undefined,
};

const SESSION_LIFETIME_MS = 8 * 60 * 60 * 1_000;

export interface Credentials {
  token(claims: Omit<TokenClaims, 'scope'> & { readonly scope?: TokenClaims['scope'] }): Promise<string>;
  /** A whole `Cookie` field. */
  cookie(session: Partial<PortSession> & Pick<PortSession, 'environmentId' | 'port' | 'user'>): Promise<string>;
}

export const createCredentials = (directory: Directory, clock: Clock = systemClock): Credentials => {
  const keys = createSigningKeys({ directory, clock });
  const sessions = createPortSessions({ keys });
  return {
    token: async (claims) => (await issueToken(keys, { scope: 'port', ...claims }, { clock })).token,
    async cookie(session) {
      const value = await sessions.issue({
        organizations: [],
        sessionId: randomBytes(8).toString('hex'),
        authNonce: 0,
        issuedAt: clock.now(),
        expiresAt: clock.now() + SESSION_LIFETIME_MS,
        ...session,
      });
      return `${PORT_COOKIE}=${value}`;
    },
  };
};

export interface SeenRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage['headers'];
  readonly rawHeaders: readonly string[];
}

/** An application that keeps what came to it; `/events` never ends, and so does a WebSocket. */
export interface WatchfulUpstream extends TestUpstream {
  readonly seen: SeenRequest[];
  /** Requests and connections that are open now. */
  open(): number;
}

export const startWatchfulUpstream = async (
  options: { readonly protocol?: string } = {},
): Promise<WatchfulUpstream> => {
  const seen: SeenRequest[] = [];
  let open = 0;
  const keep = ({ method = '', url = '', headers, rawHeaders }: IncomingMessage): void =>
    void seen.push({ method, url, headers, rawHeaders });
  const upstream = await startUpstream((request, response) => {
    keep(request);
    open += 1;
    response.once('close', () => {
      open -= 1;
    });
    if (request.url === '/silent') return;
    if (request.url !== '/events') return void response.end('application');
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write('data: first\n\n');
  });
  const sockets = new WebSocketServer({
    server: upstream.server,
    handleProtocols: (offered) => (options.protocol && offered.has(options.protocol) ? options.protocol : false),
  });
  sockets.on('connection', (socket, request) => {
    keep(request);
    open += 1;
    socket.on('error', () => undefined);
    socket.on('close', () => {
      open -= 1;
    });
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
  return {
    ...upstream,
    seen,
    open: () => open,
    async close() {
      for (const socket of sockets.clients) socket.terminate();
      sockets.close();
      await upstream.close();
    },
  };
};

export interface Opened {
  readonly socket: WebSocket;
  readonly protocol: string;
  /** Resolves when it is over. */
  readonly closed: Promise<void>;
}

/** Connects to a port host; rejects with the status where it is refused. */
export const openWebSocket = (
  httpsPort: number,
  host: string,
  options: ClientOptions & { readonly protocols?: string[] } = {},
): Promise<Opened> =>
  new Promise((resolve, reject) => {
    const { protocols = [], ...rest } = options;
    const socket = new WebSocket(`wss://${host}:${httpsPort}/ws`, protocols, {
      rejectUnauthorized: false,
      lookup: (_name, { all }, callback) =>
        all
          ? (callback as unknown as (error: null, found: AddressInfo[]) => void)(null, [
              { address: '127.0.0.1', family: 4 } as unknown as AddressInfo,
            ])
          : callback(null, '127.0.0.1', 4),
      ...rest,
    });
    const closed = new Promise<void>((over) => {
      socket.once('close', () => over());
    });
    socket.once('unexpected-response', (_request, response) => {
      response.resume();
      reject(new Error(String(response.statusCode)));
      socket.terminate();
    });
    socket.on('error', (error) => reject(error));
    socket.once('open', () => resolve({ socket, protocol: socket.protocol, closed }));
  });
