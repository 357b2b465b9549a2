/**
 * The internal listener: health, metrics and status for operators and for the command line. Environments of the same
 * machine, and web pages in an operator's browser, reach it too; neither may learn or change anything:
 * token, Host and Origin are checked.
 */
import { chmod, lstat, unlink } from 'node:fs/promises';
import { connect, type AddressInfo } from 'node:net';
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import { isAuthorized } from '../../../shared/src/identity/internal-token.ts';
import { formatHostPort, unmapIPv4 } from '../../../shared/src/transport/address.ts';
import type { InternalAddress } from '../../../shared/src/transport/internal-address.ts';
import type { DashboardRoutes } from './dashboard/dashboard.ts';

export interface InternalDeps {
  readonly token: string;
  /** Why the gateway is not ready, or undefined when it is. */
  readonly notReady: () => string | undefined;
  /** What does not work while the gateway is ready otherwise: no reason to send nobody here. */
  readonly impaired?: () => string | undefined;
  readonly metrics: { readonly text: () => Promise<string>; readonly contentType: string };
  /** JSON for `GET /status`. */
  readonly status: () => unknown;
  /** The page at `/`, for a listener that a browser can open. */
  readonly dashboard?: DashboardRoutes;
}

export interface InternalListener {
  readonly address: InternalAddress;
  close(): Promise<void>;
}

/** Open to whoever reaches the listener: they tell nothing that belongs to anybody. */
const OPEN_PATHS: ReadonlySet<string> = new Set(['/livez', '/readyz', '/metrics']);
/** Body of an internal request, bytes: those of the dashboard carry an id or the token. */
const MAX_BODY_BYTES = 1_024;
/** A scraper that stalls holds a connection; then it is closed, ms. */
const REQUEST_TIMEOUT_MS = 10_000;

const isLoopback = (address: string): boolean => address === '::1' || address.startsWith('127.');

/** The values of `Host` under which a TCP connection to this listener is meant for it. */
const ownHosts = (request: FastifyRequest): ReadonlySet<string> => {
  const { localAddress = '', localPort = 0 } = request.socket;
  const address = unmapIPv4(localAddress);
  const hosts = [formatHostPort(address, localPort)];
  if (isLoopback(address)) hosts.push(`localhost:${localPort}`);
  return new Set(hosts);
};

/** Why a request is refused with 403, if it is. */
const foreign = (request: FastifyRequest, address: InternalAddress): string | undefined => {
  const { host, origin } = request.headers;
  if (address.kind === 'unix') return origin === undefined ? undefined : 'an Origin has no business here';
  const hosts = ownHosts(request);
  const own = (text: string): boolean => hosts.has(text.toLowerCase());
  if (origin !== undefined && !own(origin.replace(/^http:\/\//, ''))) return 'the Origin is not this listener';
  // On a listener that the network reaches, what is open is open to all, and probes come by names of any kind.
  const isExposed = !isLoopback(unmapIPv4(request.socket.localAddress ?? ''));
  if (isExposed && OPEN_PATHS.has(request.url)) return undefined;
  return host !== undefined && own(host) ? undefined : 'the Host is not this listener';
};

const registerRoutes = (app: FastifyInstance, deps: InternalDeps, address: InternalAddress): void => {
  app.addHook('onRequest', async (request, reply) => {
    void reply.header('cache-control', 'no-store').header('x-content-type-options', 'nosniff');
    const reason = foreign(request, address);
    if (reason !== undefined) return reply.code(403).send({ error: { code: 'forbidden', message: reason } });
    if (OPEN_PATHS.has(request.url) || address.kind === 'unix') return;
    if (deps.dashboard?.isOpen(request) || deps.dashboard?.hasSession(request)) return;
    if (isAuthorized(request.headers.authorization, deps.token)) return;
    return reply
      .code(401)
      .header('www-authenticate', 'Bearer')
      .send({ error: { code: 'unauthorized', message: 'Needs the token in <stateDir>/internal.token' } });
  });
  app.setNotFoundHandler((_request, reply) =>
    reply.code(404).send({ error: { code: 'not_found', message: 'No such path' } }),
  );
  app.get('/livez', async (_request, reply) => reply.type('text/plain').send('ok\n'));
  app.get('/readyz', async (_request, reply) => {
    const reason = deps.notReady();
    return reply
      .code(reason === undefined ? 200 : 503)
      .type('text/plain')
      .send(`${[reason ?? 'ok', deps.impaired?.()].filter((line) => line !== undefined).join('\n')}\n`);
  });
  app.get('/metrics', async (_request, reply) => reply.type(deps.metrics.contentType).send(await deps.metrics.text()));
  app.get('/status', async () => deps.status());
  deps.dashboard?.register(app);
};

/** Removes the socket that a killed process left behind; rejects when it is in use or is something else. */
const clearSocket = async (path: string): Promise<void> => {
  const found = await lstat(path).catch(() => undefined);
  if (!found) return;
  if (!found.isSocket()) throw new Error(`${path} exists and is not a socket`);
  const inUse = await new Promise<boolean>((resolve) => {
    const probe = connect(path, () => {
      probe.destroy();
      resolve(true);
    });
    probe.on('error', () => resolve(false));
  });
  if (inUse) throw Object.assign(new Error(`another process listens on ${path}`), { code: 'EADDRINUSE' });
  await unlink(path);
};

/** Listens at once. Rejects with the error of `listen`. */
export const listenInternal = async (deps: InternalDeps, address: InternalAddress): Promise<InternalListener> => {
  const app = Fastify({
    bodyLimit: MAX_BODY_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    forceCloseConnections: true,
  });
  registerRoutes(app, deps, address);
  if (address.kind === 'unix') {
    await clearSocket(address.path);
    await app.listen({ path: address.path });
    await chmod(address.path, 0o600);
    return { address, close: () => app.close() };
  }
  await app.listen({ host: address.host, port: address.port });
  const bound = app.server.address() as AddressInfo;
  return { address: { kind: 'tcp', host: bound.address, port: bound.port }, close: () => app.close() };
};
