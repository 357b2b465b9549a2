/**
 * The client's own HTTP, for the machine it runs on:
 *
 *     GET /livez /readyz /metrics         open
 *     GET PUT /environments               { "environments": [ … ] }; PUT replaces all of them
 *     GET /status                         what `status()` says
 *     GET /gateway                        which gateway, and what was measured; POST /gateway/reselect measures again
 *     GET /events                         server-sent events: status, state, leg, environment, error
 *     GET /inspector  /v1/inspector/…     the last requests, where the option is on: `inspector/inspector-routes.ts`
 *
 * All but the first line need the token of `<stateDir>/internal.token` or a Unix socket. An environment of the same
 * machine, and a web page in a browser on it, can reach the address too: so a Host that is not the listener's and a
 * foreign Origin are refused before anything else.
 */
import { once } from 'node:events';
import { chmod, lstat, unlink } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import * as z from 'zod';
import { systemClock } from '../../shared/src/clock.ts';
import { isAuthorized } from '../../shared/src/identity/internal-token.ts';
import { describeError } from '../../shared/src/errors.ts';
import { formatHostPort } from '../../shared/src/transport/address.ts';
import type { InternalAddress } from '../../shared/src/transport/internal-address.ts';
import type { EnvironmentInput, RunnerClient } from './client.ts';
import { machineAddresses } from './ip-address.ts';
import type { Logger } from './logger.ts';
import { createInspectorRoutes } from './inspector/inspector-routes.ts';
import { HttpProblem, readBody, sendJson, sendText } from './internal-http.ts';
import { renderMetrics } from './metrics.ts';
import { zodProblems } from './problems.ts';
import { createEventStream } from './event-stream.ts';
import type { GatewayStatus } from './status.ts';

/** Connections at once; who watches is a handful. Beyond it they are closed. */
const MAX_CONNECTIONS = 128;
/** For the head of a request, and for all of it, ms. */
const REQUEST_TIMEOUT_MS = 15_000;

export interface InternalListener {
  /** `host:port` or `unix:path`. */
  readonly address: string;
  /** The TCP port, for the dialer to keep away from; undefined for a Unix socket. */
  readonly port: number | undefined;
  close(): Promise<void>;
}

export interface InternalListenerDeps {
  readonly client: RunnerClient;
  readonly token: string;
  readonly log: Logger;
}

/** Values of `Host` that mean this listener. */
const ownAuthorities = (bound: AddressInfo): ReadonlySet<string> => {
  const isWildcard = bound.address === '::' || bound.address === '0.0.0.0';
  const hosts = isWildcard ? machineAddresses() : [bound.address];
  return new Set(['localhost', ...hosts].map((host) => formatHostPort(host, bound.port).toLowerCase()));
};

const commandLog = z.object({ logs: z.object({ command: z.unknown().refine((value) => value !== undefined) }) });

const putEnvironments = async (client: RunnerClient, request: IncomingMessage): Promise<void> => {
  // A web page cannot send this type without asking first (CORS).
  if (!/^application\/json\s*(?:;|$)/i.test(request.headers['content-type'] ?? '')) {
    throw new HttpProblem(415, 'unsupported_media_type', 'the body has to be application/json');
  }
  const body = z.object({ environments: z.array(z.unknown()) }).safeParse(await readBody(request));
  if (!body.success) throw new HttpProblem(400, 'invalid', 'the body must be { "environments": [ … ] }');
  // The token lets its holder announce environments, which is no reason to run programs for it.
  const running = body.data.environments.findIndex((each) => commandLog.safeParse(each).success);
  if (running >= 0) {
    throw new HttpProblem(400, 'invalid', 'the environments are not valid; nothing was changed', [
      { path: `environments[${running}].logs.command`, message: 'commands are taken from the configuration file only' },
    ]);
  }
  try {
    client.environments.replaceAll(body.data.environments as EnvironmentInput[]);
  } catch (error) {
    if (!(error instanceof z.ZodError)) throw error;
    const problems = zodProblems(error, ['environments']).map(({ path, message }) => ({ path, message }));
    throw new HttpProblem(400, 'invalid', 'the environments are not valid; nothing was changed', problems);
  }
};

const METHODS: Readonly<Record<string, string>> = {
  '/status': 'GET',
  '/events': 'GET',
  '/environments': 'GET, PUT',
  '/gateway': 'GET',
  '/gateway/reselect': 'POST',
};

const gatewayOf = ({ gateway, measurements }: GatewayStatus): GatewayStatus => ({ gateway, measurements });

const reselect = async (client: RunnerClient): Promise<GatewayStatus> => {
  try {
    return await client.reselectGateway();
  } catch (error) {
    throw new HttpProblem(503, 'unreachable', describeError(error));
  }
};

/** Listens, or throws the error of the listener (EADDRINUSE …). */
export const listenInternal = async (
  deps: InternalListenerDeps,
  address: InternalAddress,
): Promise<InternalListener> => {
  const { client, token, log } = deps;
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS });
  server.maxConnections = MAX_CONNECTIONS;
  const bound = await listen(server, address);
  const events = createEventStream(client);
  const inspector = createInspectorRoutes({ inspector: client.inspector, clock: systemClock, log, token });

  const guard = (request: IncomingMessage): void => {
    if (bound && !ownAuthorities(bound).has((request.headers.host ?? '').toLowerCase())) {
      throw new HttpProblem(403, 'forbidden_host', 'the Host is not that of this listener');
    }
    const { origin } = request.headers;
    if (origin !== undefined && origin !== `http://${request.headers.host}`) {
      throw new HttpProblem(403, 'forbidden_origin', 'requests of other origins are refused');
    }
  };
  const authorize = (request: IncomingMessage): void => {
    if (address.kind === 'unix' || isAuthorized(request.headers.authorization, token)) return;
    throw new HttpProblem(
      401,
      'unauthorized',
      'needs Authorization: Bearer with the token in <stateDir>/internal.token',
    );
  };

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    guard(request);
    const [path = '/'] = (request.url ?? '/').split('?', 1);
    const method = request.method === 'HEAD' ? 'GET' : request.method;
    const route = `${method} ${path}`;
    if (route === 'GET /livez') return sendText(response, 200, 'ok\n');
    if (route === 'GET /readyz') {
      const { state } = client.status();
      return sendText(response, state === 'online' ? 200 : 503, `${state}\n`);
    }
    if (route === 'GET /metrics') {
      return sendText(response, 200, renderMetrics(client.status()), 'text/plain; version=0.0.4; charset=utf-8');
    }
    if (inspector.owns(path)) {
      if (!inspector.isAllowed(request, path)) authorize(request);
      return inspector.answer(request, response, path);
    }
    authorize(request);
    if (route === 'GET /status') return sendJson(response, 200, client.status());
    if (route === 'GET /gateway') return sendJson(response, 200, gatewayOf(client.status()));
    if (route === 'POST /gateway/reselect') {
      return sendJson(response, 200, await reselect(client));
    }
    if (route === 'GET /events') return events.subscribe(response);
    if (route === 'PUT /environments') await putEnvironments(client, request);
    if (path === '/environments' && (method === 'GET' || method === 'PUT')) {
      return sendJson(response, 200, { environments: client.status().environments });
    }
    const allowed = METHODS[path];
    if (allowed !== undefined) {
      response.setHeader('allow', allowed);
      throw new HttpProblem(405, 'method_not_allowed', 'this method is not allowed here');
    }
    throw new HttpProblem(404, 'not_found', 'there is nothing here');
  };

  server.on('request', (request, response) => {
    response.setHeader('cache-control', 'no-store');
    response.setHeader('x-content-type-options', 'nosniff');
    answer(request, response).catch((error: unknown) => {
      if (!(error instanceof HttpProblem)) log.error({ err: error }, 'a request to the internal listener failed');
      if (response.headersSent || response.destroyed) return void response.destroy();
      const known = error instanceof HttpProblem ? error : new HttpProblem(500, 'internal', 'the request failed');
      // What is left of the body is not read: the connection ends with the answer.
      if (!request.complete) response.setHeader('connection', 'close');
      const { status, code, message, problems } = known;
      sendJson(response, status, { error: { code, message, ...(problems === undefined ? {} : { problems }) } });
    });
  });

  server.on('error', (error) => log.error({ err: error }, 'the internal listener has a problem'));
  const text = address.kind === 'unix' ? `unix:${address.path}` : formatHostPort(address.host, bound?.port ?? 0);
  let closing: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    events.close();
    inspector.close();
    server.close();
    server.closeAllConnections();
    await once(server, 'close');
  };
  return { address: text, port: bound?.port, close: () => (closing ??= close()) };
};

const tryListen = async (server: ReturnType<typeof createServer>, address: InternalAddress): Promise<void> => {
  server.listen(address.kind === 'unix' ? { path: address.path } : { host: address.host, port: address.port });
  // Rejects with the listener's error.
  await once(server, 'listening');
};

/** Whether anybody answers at a Unix socket. */
const isAlive = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ path });
    socket.once('error', () => resolve(false));
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
  });

const listen = async (
  server: ReturnType<typeof createServer>,
  address: InternalAddress,
): Promise<AddressInfo | undefined> => {
  if (address.kind === 'tcp') {
    await tryListen(server, address);
    return server.address() as AddressInfo;
  }
  try {
    await tryListen(server, address);
  } catch (error) {
    const isInUse = (error as NodeJS.ErrnoException).code === 'EADDRINUSE';
    const isSocket = isInUse && (await lstat(address.path)).isSocket();
    if (!isSocket || (await isAlive(address.path))) throw error;
    // Left behind by a process that was killed.
    await unlink(address.path);
    await tryListen(server, address);
  }
  await chmod(address.path, 0o600);
  return undefined;
};
