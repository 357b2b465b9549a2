/**
 * Log hosts without a cluster around them: a real edge, forwarder and directory, real legs in memory, and the tunnel
 * client's real log server. The environment `demo` has a log, or a server of its own at the log port.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogAccess } from '../../gateway/src/access/log-access.ts';
import { createSigningKeys } from '../../gateway/src/access/signing-keys.ts';
import { createTokenVerifier, issueToken, type TokenClaims } from '../../gateway/src/access/tokens.ts';
import type { Directory } from '../../gateway/src/directory/directory.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { GATEWAY_LIMITS } from '../../gateway/src/limits.ts';
import { createLogsHost } from '../../gateway/src/logs/logs-host.ts';
import { createViewerPage } from '../../gateway/src/logs/viewer-page.ts';
import { createForwarder } from '../../gateway/src/proxy/forwarder.ts';
import type { EnvironmentRoute } from '../../gateway/src/tunnels/route.ts';
import { systemClock, type Clock } from '../../shared/src/clock.ts';
import type { StreamRefusal } from '../../shared/src/errors.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { environmentSchema } from '../../shared/src/protocol/messages.ts';
import { createLogServer, type LogServer } from '../../tunnel-client/src/log-server/log-server.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { memoryPair } from './connection-pairs.ts';
import { startEdge } from './edge.ts';
import { fetchOnce, keepLog, type Answer, type KeptLog } from './gateway.ts';
import { makeLegs, type LegPair } from './legs.ts';
import { createEveryoneGate } from './port-gate.ts';

export const LOGS_DOMAIN = 'gateway.localhost';
export const LOGS_HOST = `22999--demo.${LOGS_DOMAIN}`;

export interface LogsWorld extends KeptLog {
  readonly port: number;
  readonly directory: Directory;
  readonly logServer: LogServer;
  /** File of the log of `demo`. */
  readonly logFile: string;
  readonly legs: readonly LegPair[];
  /** Who answers at the log port of `demo`: the built-in log server, or this. */
  upstream: RequestListener | undefined;
  /** What every stream to the log port is answered with, instead. */
  refuse: StreamRefusal | undefined;
  addLeg(): Promise<LegPair>;
  token(claims?: Partial<TokenClaims>): Promise<string>;
  request(path: string, options?: Parameters<typeof fetchOnce>[3] & { readonly host?: string }): Promise<Answer>;
  /** URL of the viewer, with a token. */
  viewerUrl(query?: string): Promise<string>;
  close(): Promise<void>;
}

export const createLogsWorld = async (
  options: { readonly clock?: Clock; readonly log?: string } = {},
): Promise<LogsWorld> => {
  const clock = options.clock ?? systemClock;
  const kept = keepLog();
  const { log } = kept;
  const place = await mkdtemp(join(tmpdir(), 'logs-'));
  const logFile = join(place, 'demo.log');
  await writeFile(logFile, options.log ?? '');
  const directory = await openEmbeddedDirectory(
    { clock, log },
    { path: join(place, 'directory.sqlite'), issuer: `https://api.${LOGS_DOMAIN}` },
  );
  const logServer = createLogServer({ clock: systemClock, log: silentLogger }, { stateDir: place });
  logServer.configure('demo', { file: logFile });
  const upstream: Server = createServer((request, response) => {
    if (world.upstream) world.upstream(request, response);
    else response.destroy();
  });

  const legs: LegPair[] = [];
  const addLeg = async (): Promise<LegPair> => {
    const leg = await makeLegs(memoryPair, {
      runnerHandlers: {
        onStream(stream) {
          stream.on('error', () => undefined);
          if (stream.target.kind !== 'logs') return stream.refuse('forbidden_target');
          if (world.refuse) return stream.refuse(world.refuse);
          stream.accept();
          if (world.upstream) upstream.emit('connection', stream);
          else logServer.serve(stream);
        },
      },
    });
    legs.push(leg);
    return leg;
  };

  const route = (environmentId: string): EnvironmentRoute => {
    if (environmentId !== 'demo') return { kind: 'unknown' };
    const open: Leg[] = legs.map(({ gateway }) => gateway).filter((leg) => leg.isOpen);
    const environment = environmentSchema.parse({ id: 'demo', logs: world.upstream ? 'upstream' : 'builtin' });
    const known = { runnerId: 'runner-1', organization: undefined, environment };
    return open.length > 0 ? { kind: 'online', ...known, legs: open } : { kind: 'offline', ...known };
  };
  const forwarder = createForwarder({ route, gate: createEveryoneGate({ route, log }), log, limits: GATEWAY_LIMITS });
  const keys = createSigningKeys({ directory, clock });
  const logs = createLogsHost({
    access: createLogAccess({ verifier: createTokenVerifier({ keys, clock }) }),
    route,
    forwarder,
    page: createViewerPage(),
    clock,
  });
  const edge = await startEdge({
    domains: [LOGS_DOMAIN],
    forwarder,
    handlers: {
      apex: (_request, _response, exchange) => exchange.fail('not_found'),
      api: (_request, _response, exchange) => exchange.fail('not_found'),
      logs,
    },
    log,
  });
  const { port } = edge;

  const world: LogsWorld = {
    ...kept,
    port,
    directory,
    logServer,
    logFile,
    legs,
    upstream: undefined,
    refuse: undefined,
    addLeg,
    async token(claims = {}) {
      const issued = await issueToken(keys, { scope: 'logs', environmentId: 'demo', ...claims }, { clock });
      return issued.token;
    },
    request: (path, { host = LOGS_HOST, ...rest } = {}) => fetchOnce(port, host, path, rest),
    viewerUrl: async (query = '') => `https://${LOGS_HOST}:${port}/logs${query}#token=${await world.token()}`,
    async close() {
      await edge.close();
      await forwarder.close();
      keys.close();
      await logServer.close();
      upstream.closeAllConnections();
      await Promise.all(legs.map((leg) => leg.close()));
      await directory.close();
      await rm(place, { recursive: true, force: true });
    },
  };
  await addLeg();
  return world;
};
