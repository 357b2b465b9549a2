/**
 * The dashboard of the internal listener:
 *
 *     GET  /                      the page, and its files below /dashboard/: open, they tell nothing
 *     POST /dashboard/session     the internal token in exchange for a session of the browser
 *     GET  /dashboard/overview    charts, counts, and the runners that fit `filter` and `state`
 *     GET  /dashboard/runner?id=  one runner: legs, environments, events
 *     POST /dashboard/revoke      { runnerId }
 *     POST /dashboard/block       { environmentId, blocked }
 *
 * All but the first two need the token or a session of it, like everything of the listener.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { Clock } from '../../../../shared/src/clock.ts';
import { RefusedError } from '../../../../shared/src/errors.ts';
import { isId } from '../../../../shared/src/hostname.ts';
import { isAuthorized } from '../../../../shared/src/identity/internal-token.ts';
import { createPageSessions } from '../../../../shared/src/identity/page-session.ts';
import type { Leg, LegEnd } from '../../../../shared/src/protocol/leg.ts';
import type { EnvironmentResult } from '../../../../shared/src/protocol/messages.ts';
import { PAGE_POLICY, readPageFiles } from '../../../../shared/src/page-files.ts';
import type { Directory } from '../../directory/directory.ts';
import type { TunnelRegistry } from '../../tunnels/registry.ts';
import type { Logger } from '../log.ts';
import { buildOverview, describeBindings, stateOf } from './overview.ts';
import { createRunnerEvents } from './runner-events.ts';
import { createKnownRunners } from './runners.ts';
import { createTraffic, SAMPLE_INTERVAL_MS, type TunnelReading } from './traffic.ts';

export interface Dashboard {
  readonly observe: {
    requestEnded(status: number, errorCode: string | undefined): void;
    legUp(leg: Leg): void;
    legClosed(leg: Leg, end: LegEnd): void;
    announced(runnerId: string, results: readonly EnvironmentResult[]): void;
  };
  /** Adds the routes to the internal listener, whose token this is. */
  routes(token: string): DashboardRoutes;
  close(): void;
}

export interface DashboardRoutes {
  /** Whether a request needs neither token nor session. */
  isOpen(request: FastifyRequest): boolean;
  hasSession(request: FastifyRequest): boolean;
  register(app: FastifyInstance): void;
}

export interface DashboardDeps {
  readonly directory: Directory;
  readonly registry: () => Pick<TunnelRegistry, 'legs' | 'environments'>;
  readonly tunnels: () => TunnelReading;
  readonly isBlocked: (of: { readonly environmentId: string; readonly organization: string | undefined }) => boolean;
  readonly gateway: () => Readonly<Record<string, unknown>>;
  readonly clock: Clock;
  readonly log: Logger;
}

const SESSION_HEADER = 'gateway-dashboard-key';

/** Names of refused environments in an event; the log has all. */
const REFUSED_IN_EVENT = 3;

const sessionBody = z.object({ token: z.string() });
const revokeBody = z.object({ runnerId: z.string() });
const blockBody = z.object({ environmentId: z.string(), blocked: z.boolean() });
const overviewQuery = z.object({
  filter: z.string().default(''),
  state: z.string().default(''),
  limit: z.coerce.number().int().default(100),
});
const runnerQuery = z.object({ id: z.string() });

const notFound = { error: { code: 'not_found', message: 'There is no such runner' } };
const invalid = { error: { code: 'invalid', message: 'The request is not one of the dashboard' } };

const sessionOf = (request: FastifyRequest) => ({
  cookie: request.headers.cookie,
  key: request.headers[SESSION_HEADER],
});

export const createDashboard = (deps: DashboardDeps): Dashboard => {
  const { directory, clock, log } = deps;
  const events = createRunnerEvents({ clock });
  const runners = createKnownRunners({ directory, events, log });
  const traffic = createTraffic({ clock, tunnels: deps.tunnels });
  const files = readPageFiles({
    directory: new URL('./page/', import.meta.url),
    path: '/',
    html: 'dashboard.html',
    folder: '/dashboard',
    others: ['dashboard.css', 'api.js', 'chart.js', 'format.js', 'main.js', 'overview.js', 'runner.js'],
  });

  const registerReads = (app: FastifyInstance): void => {
    app.get('/dashboard/overview', async (request, reply) => {
      const query = overviewQuery.safeParse(request.query);
      if (!query.success) return reply.code(400).send(invalid);
      const registry = deps.registry();
      const [legs, environments] = [registry.legs(), registry.environments()];
      return {
        gateway: deps.gateway(),
        intervalMs: SAMPLE_INTERVAL_MS,
        samples: traffic.samples(),
        errors: traffic.errors(),
        ...buildOverview({ runners: (await runners.all()).values(), legs, environments }, query.data),
      };
    });
    app.get('/dashboard/runner', async (request, reply) => {
      const query = runnerQuery.safeParse(request.query);
      if (!query.success) return reply.code(400).send(invalid);
      const { id } = query.data;
      const runner = (await runners.all()).get(id);
      if (!runner) return reply.code(404).send(notFound);
      const { name, organization, createdAt, joinedAt, revokedAt, issuer } = runner;
      const registry = deps.registry();
      const legs = registry.legs().filter(({ runnerId }) => runnerId === id);
      return {
        runner: { id, name, organization, createdAt, joinedAt, revokedAt, issuer, state: stateOf(runner, legs) },
        legs,
        environments: describeBindings(
          registry.environments().filter(({ runnerId }) => runnerId === id),
          await directory.environments({ runnerId: id }),
          (environmentId) => deps.isBlocked({ environmentId, organization }),
        ),
        events: events.of(id),
      };
    });
  };

  const registerActions = (app: FastifyInstance): void => {
    app.post('/dashboard/revoke', async (request, reply) => {
      const body = revokeBody.safeParse(request.body);
      if (!body.success) return reply.code(400).send(invalid);
      const { runnerId } = body.data;
      try {
        await directory.revokeRunner(runnerId);
      } catch (error) {
        if (error instanceof RefusedError && error.code === 'runner_unknown') return reply.code(404).send(notFound);
        throw error;
      }
      log.warn({ runnerId }, 'runner revoked at the dashboard');
      return reply.code(204).send();
    });
    app.post('/dashboard/block', async (request, reply) => {
      const body = blockBody.safeParse(request.body);
      if (!body.success || !isId(body.data.environmentId)) return reply.code(400).send(invalid);
      const { environmentId, blocked } = body.data;
      const subject = { kind: 'environment', subject: environmentId } as const;
      if (blocked) await directory.block(subject);
      else await directory.unblock(subject);
      log.warn({ environmentId, blocked }, 'environment blocked or unblocked at the dashboard');
      return reply.code(204).send();
    });
  };

  return {
    observe: {
      requestEnded: (status, errorCode) => traffic.requestEnded(status, errorCode),
      legUp(leg) {
        events.add(leg.peer.id, 'info', `Leg over ${leg.transport} from ${leg.remoteAddress} came up`);
      },
      legClosed(leg, { code, by, reason }) {
        const level = code === 'closed' || code === 'replaced' ? 'info' : 'warn';
        const why = reason === undefined ? code : `${code}: ${reason}`;
        events.add(
          leg.peer.id,
          level,
          `Leg over ${leg.transport} ended by the ${by === 'local' ? 'gateway' : 'runner'} (${why})`,
        );
      },
      announced(runnerId, results) {
        const refused = results.filter((result) => !result.accepted);
        const accepted = results.filter((result) => result.accepted);
        const [first] = accepted;
        if (first) {
          const what = accepted.length === 1 ? `environment ${first.id}` : `${accepted.length} environments`;
          events.add(runnerId, 'info', `Announced ${what}`);
        }
        for (const { id, code } of refused.slice(0, REFUSED_IN_EVENT)) {
          events.add(runnerId, 'warn', `Environment ${id} was refused (${code ?? 'unknown'})`);
        }
        const rest = refused.length - REFUSED_IN_EVENT;
        if (rest > 0) events.add(runnerId, 'warn', `${rest} more environments were refused`);
      },
    },

    routes(token) {
      const sessions = createPageSessions({ clock, token }, { name: 'gateway_dashboard' });
      return {
        isOpen: ({ method, url }) =>
          method === 'POST' ? url === '/dashboard/session' : (method === 'GET' || method === 'HEAD') && files.has(url),
        hasSession: (request) => sessions.isOpen(sessionOf(request), request.socket.localPort ?? 0),
        register(app) {
          for (const [path, { contentType, body }] of files) {
            app.get(path, async (_request, reply) =>
              reply
                .type(contentType)
                .header('content-security-policy', PAGE_POLICY)
                .header('referrer-policy', 'no-referrer')
                .header('cross-origin-opener-policy', 'same-origin')
                .header('cross-origin-resource-policy', 'same-origin')
                .send(body),
            );
          }
          app.post('/dashboard/session', async (request, reply) => {
            const body = sessionBody.safeParse(request.body);
            const shown = body.success ? body.data.token.trim() : '';
            if (!isAuthorized(`Bearer ${shown}`, token)) {
              return reply.code(401).send({ error: { code: 'unauthorized', message: 'This is not the token' } });
            }
            const { setCookie, key } = sessions.open(request.socket.localPort ?? 0);
            return reply.header('set-cookie', setCookie).send({ key });
          });
          registerReads(app);
          registerActions(app);
        },
      };
    },

    close() {
      traffic.close();
      runners.close();
    },
  };
};
