/** The demo application: a page that shows how its own traffic arrives. It knows nothing of gateway and tunnel. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { WebSocketServer } from 'ws';
import type { SampleLogin } from './sample-login.ts';

/** Between two server-sent events, ms. */
const TICK_INTERVAL_MS = 1_000;
/** Largest message that is echoed, bytes: the page sends some dozens. A larger one is refused with close code 1009. */
const MAX_ECHO_BYTES = 1 << 20;

export interface DemoAppOptions {
  /** Gets a line for each request, without its query: in that of a login there is a code. */
  readonly log?: (line: string) => void;
}

export interface DemoApp {
  /** From now on one can sign in. Its callback URL is known when the runner is. */
  setLogin(login: SampleLogin): void;
  listen(address: { host: string; port: number }): Promise<{ port: number }>;
  /** Cuts what is open, so that nobody waits for a ticker that never ends. May be called twice. */
  close(): Promise<void>;
}

interface Field {
  readonly name: string;
  readonly value: string;
}

const fieldsOf = ({ rawHeaders }: IncomingMessage): Field[] =>
  Array.from({ length: rawHeaders.length / 2 }, (_, index) => ({
    name: rawHeaders[index * 2] ?? '',
    value: rawHeaders[index * 2 + 1] ?? '',
  }));

/** The request as it arrived here, after browser, gateway and tunnel client have had their say. */
const describeRequest = (request: IncomingMessage) => ({
  method: request.method ?? '',
  target: request.url ?? '',
  protocol: `HTTP/${request.httpVersion}`,
  host: request.headers.host ?? '',
  from: `${request.socket.remoteAddress ?? '?'} port ${request.socket.remotePort ?? '?'}`,
  headers: fieldsOf(request),
});

const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

/** Rows of the page's first table: header and what it says. */
const SHOWN_HEADERS = [
  ['host', 'Host'],
  ['x-forwarded-proto', 'X-Forwarded-Proto'],
  ['x-forwarded-host', 'X-Forwarded-Host'],
  ['x-forwarded-port', 'X-Forwarded-Port'],
  ['x-forwarded-for', 'X-Forwarded-For'],
  ['forwarded', 'Forwarded'],
  ['x-request-id', 'X-Request-Id'],
  ['traceparent', 'traceparent'],
] as const;

const row = (name: string, value: string | undefined): string =>
  value === undefined
    ? `<tr class="absent"><th scope="row">${escapeHtml(name)}</th><td>not sent</td></tr>`
    : `<tr><th scope="row">${escapeHtml(name)}</th><td>${escapeHtml(value)}</td></tr>`;

/** What the page says of who is signed in; HTML. */
const renderLogin = (login: SampleLogin | undefined, request: IncomingMessage): string => {
  const user = login?.userOf(request);
  if (user === undefined) {
    const link = login ? '<a class="button" href="/login">Sign in with the sample SCM</a>' : '';
    return `<p class="figure"><output id="user">nobody</output><span class="unit">is signed in</span></p>${link}`;
  }
  return `<p class="figure"><output id="user">${escapeHtml(user)}</output><span class="unit">is signed in</span></p><a class="button" href="/logout">Sign out</a>`;
};

const renderPage = (template: string, request: IncomingMessage, login: SampleLogin | undefined): string => {
  const seen = describeRequest(request);
  const shown = SHOWN_HEADERS.map(([header, name]) => row(name, request.headers[header]?.toString()));
  // The gateway always says which host was asked for; without that somebody opened the application directly.
  const isTunnelled = request.headers['x-forwarded-host'] !== undefined;
  const slots: Record<string, string> = {
    headline: isTunnelled ? 'This page came through a tunnel.' : 'This page came without the tunnel.',
    summary: escapeHtml(`${seen.method} ${seen.target} ${seen.protocol}`),
    host: escapeHtml(seen.host),
    upstream: escapeHtml(`${request.socket.localAddress ?? ''}:${request.socket.localPort ?? ''}`),
    protocol: escapeHtml(seen.protocol),
    shown: shown.join('\n'),
    login: renderLogin(login, request),
    count: String(seen.headers.length),
    all: escapeHtml(seen.headers.map(({ name, value }) => `${name}: ${value}`).join('\n')),
  };
  return template.replace(/\{\{(\w+)\}\}/g, (_, slot: string) => slots[slot] ?? '');
};

const renderText = (request: IncomingMessage): string => {
  const { method, target, protocol, headers, from } = describeRequest(request);
  const lines = headers.map(({ name, value }) => `  ${name}: ${value}`);
  return [
    `${method} ${target} ${protocol}`,
    ...lines,
    '',
    `This request reached the demo application from ${from}.`,
    '',
  ].join('\n');
};

const send = (response: ServerResponse, status: number, type: string, body: string | Buffer): void => {
  response.writeHead(status, {
    'Content-Type': type,
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
  });
  response.end(body);
};
const sendJson = (response: ServerResponse, status: number, value: unknown): void =>
  send(response, status, 'application/json; charset=utf-8', `${JSON.stringify(value, null, 2)}\n`);

const tick = (request: IncomingMessage, response: ServerResponse): void => {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
  let count = Number(request.headers['last-event-id'] ?? 0) || 0;
  const write = (): void => {
    // A reader that does not keep up misses ticks instead of piling them up here.
    if (response.writableNeedDrain) return;
    count += 1;
    response.write(`id: ${count}\ndata: ${JSON.stringify({ count, time: new Date().toISOString() })}\n\n`);
  };
  write();
  const timer = setInterval(write, TICK_INTERVAL_MS);
  response.on('close', () => clearInterval(timer));
};

const receiveUpload = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
  const hash = createHash('sha256');
  const started = performance.now();
  let bytes = 0;
  await pipeline(request, async (chunks: AsyncIterable<Buffer>) => {
    for await (const chunk of chunks) {
      hash.update(chunk);
      bytes += chunk.length;
    }
  });
  const seconds = (performance.now() - started) / 1_000;
  sendJson(response, 200, { bytes, sha256: hash.digest('hex'), seconds: Number(seconds.toFixed(3)) });
};

const ASSETS: Readonly<Record<string, readonly [file: string, type: string]>> = {
  '/page.css': ['page.css', 'text/css; charset=utf-8'],
  '/page.js': ['page.js', 'text/javascript; charset=utf-8'],
  '/icon.svg': ['icon.svg', 'image/svg+xml'],
};
const readAsset = (file: string): Promise<Buffer> => readFile(join(import.meta.dirname, file));

const pathOf = ({ url = '/' }: IncomingMessage): string => url.split('?', 1)[0] ?? '/';

/** Colours of a terminal by the first digit of a status: green, cyan, yellow, red. */
const STATUS_COLOURS: Readonly<Record<string, number>> = { 2: 32, 3: 36, 4: 33, 5: 31 };

const logLine = (request: IncomingMessage, status: number, startedAt: number): string => {
  const ms = (performance.now() - startedAt).toFixed(1);
  const colour = STATUS_COLOURS[String(status)[0] ?? ''] ?? 0;
  const time = `\u001b[2m${new Date().toISOString()}\u001b[0m`;
  return `${time} \u001b[${colour}m${status}\u001b[0m ${request.method} ${pathOf(request)} \u001b[2m${ms} ms\u001b[0m`;
};

const answer = async (
  request: IncomingMessage,
  response: ServerResponse,
  login: SampleLogin | undefined,
): Promise<void> => {
  const path = pathOf(request);
  if (await login?.handle(request, response)) return;
  if (path === '/upload') {
    if (request.method === 'POST' || request.method === 'PUT') return receiveUpload(request, response);
    response.setHeader('Allow', 'POST, PUT');
    return send(response, 405, 'text/plain; charset=utf-8', 'Send a body with POST or PUT.\n');
  }
  request.resume();
  if (path === '/events') return tick(request, response);
  if (path === '/request') return sendJson(response, 200, describeRequest(request));
  const asset = ASSETS[path];
  if (asset) return send(response, 200, asset[1], await readAsset(asset[0]));
  if (path !== '/') return send(response, 404, 'text/plain; charset=utf-8', 'The demo has no such page.\n');
  if (!request.headers.accept?.includes('text/html')) {
    return send(response, 200, 'text/plain; charset=utf-8', renderText(request));
  }
  const template = await readAsset('page.html');
  return send(response, 200, 'text/html; charset=utf-8', renderPage(template.toString(), request, login));
};

/** Browsers let any page open a WebSocket to any host: only the page of this very host may use the echo. */
const isSameOrigin = ({ headers }: IncomingMessage): boolean => {
  if (headers.origin === undefined) return true; // no browser
  return URL.canParse(headers.origin) && new URL(headers.origin).host === headers.host?.toLowerCase();
};

const serveEcho = (server: Server): WebSocketServer => {
  const sockets = new WebSocketServer({ noServer: true, maxPayload: MAX_ECHO_BYTES });
  server.on('upgrade', (request, socket, head) => {
    socket.on('error', () => socket.destroy());
    const refusal = request.url !== '/echo' ? '404 Not Found' : isSameOrigin(request) ? undefined : '403 Forbidden';
    if (refusal) {
      socket.end(`HTTP/1.1 ${refusal}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
      return;
    }
    sockets.handleUpgrade(request, socket, head, (peer) => {
      peer.on('error', () => peer.terminate());
      peer.on('message', (data, isBinary) => peer.send(data as Buffer, { binary: isBinary }));
    });
  });
  return sockets;
};

export const createDemoApp = ({ log }: DemoAppOptions = {}): DemoApp => {
  let login: SampleLogin | undefined;
  const server = createServer((request, response) => {
    const startedAt = performance.now();
    response.once('close', () => log?.(logLine(request, response.statusCode, startedAt)));
    answer(request, response, login).catch((error: unknown) => {
      // The usual reason is an upload whose sender went away: there is nobody left to answer.
      if (response.headersSent || request.destroyed) response.destroy(error instanceof Error ? error : undefined);
      else send(response, 500, 'text/plain; charset=utf-8', 'The demo failed.\n');
    });
  });
  // An upload may take as long as it likes.
  server.requestTimeout = 0;
  const sockets = serveEcho(server);
  return {
    setLogin(sampleLogin) {
      login = sampleLogin;
    },
    listen: ({ host, port }) =>
      new Promise((resolve, reject) => {
        server.once('error', reject);
        server.listen(port, host, () => {
          server.off('error', reject);
          resolve({ port: (server.address() as AddressInfo).port });
        });
      }),
    close: async () => {
      for (const peer of sockets.clients) peer.terminate();
      const closed = server.listening ? new Promise((resolve) => server.close(resolve)) : undefined;
      server.closeAllConnections();
      await closed;
    },
  };
};
