/**
 * The log host of an environment, `22999--<environment>.<domain>`:
 *
 *     GET  /logs                        with a token of scope `logs`: the log, from the tunnel client or the environment
 *     GET  /logs                        opened by a browser: the viewer, or its page that asks for a token
 *     GET  /_gitpod/logs-session        what the viewer's cookie is good for
 *     POST /_gitpod/logs-session        a token in exchange for the cookie
 *     GET  /_gitpod/logs-download       the log as a file, by the cookie
 *     *                                 with a token of scope `ops`: the environment's own server
 *
 * The token is checked before anything is looked up. What cannot be reached is a 502, which log clients try again.
 */
import type { ServerResponse } from 'node:http';
import type { Clock } from '../../../shared/src/clock.ts';
import { LOG_PORT } from '../../../shared/src/hostname.ts';
import { logCredential, type LogAccess } from '../access/log-access.ts';
import type { GatewayErrorCode } from '../errors.ts';
import type { Exchange, UpgradeExchange } from '../proxy/exchange.ts';
import type { Forwarder, ForwardTarget } from '../proxy/forwarder.ts';
import { isNavigation } from '../proxy/navigation.ts';
import type { EnvironmentRoute } from '../tunnels/route.ts';
import { answerSession, describeSession, openSession, type LogSource } from './session.ts';
import type { ViewerPage } from './viewer-page.ts';

export interface LogsHost {
  request(exchange: Exchange, environmentId: string): void;
  upgrade(exchange: UpgradeExchange, environmentId: string): void;
}

export interface LogsHostDeps {
  readonly access: LogAccess;
  readonly route: (environmentId: string) => EnvironmentRoute | Promise<EnvironmentRoute>;
  readonly forwarder: Pick<Forwarder, 'request' | 'upgrade'>;
  readonly page: ViewerPage;
  readonly clock: Clock;
}

/** Paths below it are the gateway's own. */
const OWN_PATHS = '/_gitpod/';

/** What a client of the log is told when the log server cannot be reached, for whatever reason that may pass. */
const UNREACHABLE: ReadonlySet<GatewayErrorCode> = new Set([
  'runner_offline',
  'draining',
  'tunnel_lost',
  'upstream_refused',
  'upstream_connect_timeout',
  // The environment is known here: its runner has come back and not announced it yet.
  'unknown_environment',
  'port_not_exposed',
]);

const withoutFields = (rawHeaders: readonly string[], ...names: string[]): string[] =>
  rawHeaders.filter((_, index) => !names.includes(rawHeaders[index - (index % 2)]!.toLowerCase()));

/** The exchange as the forwarder gets it: without our token, and with the errors of a log host. */
const forLogServer = <E extends Exchange | UpgradeExchange>(exchange: E): E => ({
  ...exchange,
  rawHeaders: withoutFields(exchange.rawHeaders, 'authorization'),
  fail(code, options) {
    exchange.fail(UNREACHABLE.has(code) ? 'logs_unreachable' : code, options);
  },
});

const logTarget = (environmentId: string): ForwardTarget => ({
  kind: 'logs',
  environmentId,
  port: LOG_PORT,
  tls: false,
});

export const createLogsHost = (deps: LogsHostDeps): LogsHost => {
  const { access, forwarder } = deps;

  /** Undefined where the environment is not known; fails the exchange where that cannot be found out. */
  const lookUp = async (
    exchange: Exchange | UpgradeExchange,
    environmentId: string,
  ): Promise<LogSource | undefined> => {
    let route: EnvironmentRoute;
    try {
      route = await deps.route(environmentId);
    } catch (cause) {
      exchange.fail('directory_unavailable', { cause });
      return undefined;
    }
    if (route.kind !== 'unknown') return route.environment?.logs ?? 'upstream';
    exchange.fail('unknown_environment');
    return undefined;
  };

  /** True when the request may go to the log server; otherwise it was answered. */
  const admit = async (exchange: Exchange | UpgradeExchange, environmentId: string): Promise<boolean> => {
    const isLog = pathOf(exchange.target) === '/logs';
    const credential = logCredential(exchange.rawHeaders);
    // The viewer's cookie reads the log and does nothing else.
    const result = await access(isLog || credential?.kind !== 'cookie' ? credential : undefined, {
      environmentId,
      scope: isLog ? 'logs' : 'ops',
    });
    if (!result.allow) {
      exchange.fail(result.error);
      return false;
    }
    if (isLog && exchange.method !== 'GET' && exchange.method !== 'HEAD') {
      exchange.fail('method_not_allowed');
      return false;
    }
    const source = await lookUp(exchange, environmentId);
    if (source === undefined) return false;
    if (source === 'upstream' || isLog) return true;
    exchange.fail('not_found');
    return false;
  };

  const servePage = async (exchange: Exchange, environmentId: string): Promise<void> => {
    const result = await access(logCredential(exchange.rawHeaders), { environmentId, scope: 'logs' });
    if (!result.allow && result.error === 'directory_unavailable') return exchange.fail(result.error);
    const source = result.allow ? await lookUp(exchange, environmentId) : undefined;
    if (result.allow && source === undefined) return;
    const session = result.allow ? describeSession(result.token, source ?? 'upstream') : undefined;
    // In the log the answer is what it is to a program: no token, or one that is no longer good.
    if (!result.allow) exchange.record.errorCode = result.error;
    deps.page.answer(exchange, { environmentId, session });
  };

  const serveDownload = async (exchange: Exchange, environmentId: string): Promise<void> => {
    if (exchange.method !== 'GET' && exchange.method !== 'HEAD') return exchange.fail('method_not_allowed');
    const result = await access(logCredential(exchange.rawHeaders), { environmentId, scope: 'logs' });
    if (!result.allow) return exchange.fail(result.error);
    if ((await lookUp(exchange, environmentId)) === undefined) return;
    const inner = forLogServer(exchange);
    forwarder.request(
      {
        ...inner,
        target: '/logs?follow=false',
        rawHeaders: [...withoutFields(inner.rawHeaders, 'accept', 'range'), 'Accept', 'text/plain'],
      },
      { ...logTarget(environmentId), fileName: `${environmentId}.log` },
    );
  };

  const serveOwn = async (exchange: Exchange, environmentId: string): Promise<void> => {
    switch (pathOf(exchange.target)) {
      case '/_gitpod/logs-download':
        return serveDownload(exchange, environmentId);
      case '/_gitpod/logs-session': {
        if (exchange.method !== 'GET' && exchange.method !== 'POST') return exchange.fail('method_not_allowed');
        const opened = exchange.method === 'POST' ? await openSession(exchange, { clock: deps.clock }) : undefined;
        if (exchange.method === 'POST' && !opened) return;
        const credential = opened ?? logCredential(exchange.rawHeaders);
        const result = await access(credential, { environmentId, scope: 'logs' });
        if (!result.allow) return exchange.fail(result.error);
        const source = await lookUp(exchange, environmentId);
        if (source === undefined) return;
        return answerSession(exchange.response as ServerResponse, {
          session: describeSession(result.token, source),
          token: opened?.token,
          now: deps.clock.now(),
        });
      }
      default:
        return exchange.fail('not_found');
    }
  };

  const serve = async (exchange: Exchange, environmentId: string): Promise<void> => {
    const path = pathOf(exchange.target);
    if (path.startsWith(OWN_PATHS)) return serveOwn(exchange, environmentId);
    const isProgram = logCredential(exchange.rawHeaders)?.kind === 'authorization';
    if (path === '/logs' && !isProgram && isNavigation(exchange.method, exchange.rawHeaders)) {
      return servePage(exchange, environmentId);
    }
    if (await admit(exchange, environmentId)) forwarder.request(forLogServer(exchange), logTarget(environmentId));
  };

  const guarded = (exchange: Exchange | UpgradeExchange, work: Promise<void>): void => {
    exchange.record.port = LOG_PORT;
    work.catch((cause: unknown) => {
      if (!exchange.signal.aborted) exchange.fail('internal', { cause });
    });
  };

  return {
    request: (exchange, environmentId) => guarded(exchange, serve(exchange, environmentId)),
    upgrade: (exchange, environmentId) =>
      guarded(
        exchange,
        (async () => {
          if (pathOf(exchange.target).startsWith(OWN_PATHS)) return exchange.fail('not_found');
          if (!(await admit(exchange, environmentId))) return;
          forwarder.upgrade(forLogServer(exchange), logTarget(environmentId));
        })(),
      ),
  };
};

const pathOf = (target: string): string => target.split('?', 1)[0] ?? '';
