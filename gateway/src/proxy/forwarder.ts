/** Forwards requests for the ports of environments: route → admission → leg → connection → answer. */
import { EventEmitter, once } from 'node:events';
import type { Duplex } from 'node:stream';
import type { Logger } from 'pino';
import { systemClock, type Clock } from '../../../shared/src/clock.ts';
import { describeError } from '../../../shared/src/errors.ts';
import type { Leg } from '../../../shared/src/protocol/leg.ts';
import type { Target } from '../../../shared/src/protocol/target.ts';
import type { GatewayLimits, OrganizationLimits } from '../limits.ts';
import { createClientResponse, type ClientResponse } from './client-response.ts';
import { acquireConnection, waitUntilConnected, type WaitOptions } from './connect.ts';
import type { Exchange, UpgradeExchange } from './exchange.ts';
import { fieldValues, requestHeaders, type ResponseOptions } from './headers.ts';
import { relay, RelayError, type RelayBody, type RelayRequest } from './http-relay.ts';
import { planRequest, type ForwardTarget, type Plan, type PlanDeps } from './plan.ts';
import { createRequestBody } from './request-body.ts';
import { isIdempotent, nextStep } from './retry.ts';
import { speaksTls } from './tls-probe.ts';
import type { TraceParents } from './trace-parent.ts';
import { beginSwitch, holdBytes, join, refusalResponse } from './upgrade.ts';
import { createLogResponse } from './log-response.ts';
import { errorOf, GatewayFailure } from './upstream-errors.ts';
import type { UpstreamConnection } from './upstream-connection.ts';
import { createUpstreamPool } from './upstream-pool.ts';

export type { ForwardTarget } from './plan.ts';

export interface ForwarderDeps extends PlanDeps {
  readonly log: Logger;
  readonly limits: GatewayLimits;
  /** The limits of an organization where it has its own. */
  readonly limitsOf?: (organization: string) => Partial<OrganizationLimits> | undefined;
  /** Search engines are told to pass over what applications answer. */
  readonly noindex?: () => boolean;
  /** Undefined: nobody traces requests. */
  readonly tracing?: TraceParents | undefined;
  readonly clock?: Clock;
}

export interface ForwarderStats {
  readonly requestsInFlight: number;
  readonly upstreamConnections: number;
  readonly idleUpstreamConnections: number;
}

export interface Forwarder {
  /** Answers through the exchange. */
  request(exchange: Exchange, target: ForwardTarget): void;
  upgrade(exchange: UpgradeExchange, target: ForwardTarget): void;
  /** The leg is being left: what is idle on it is closed, so that its runner need not wait for it. */
  leaveLeg(leg: Leg): void;
  stats(): ForwarderStats;
  /** Cuts what is in flight, resolves when it is over. May be called twice. */
  close(): Promise<void>;
}

const hasBody = ({ request, rawHeaders }: Exchange): boolean => {
  if ('stream' in request) return !request.stream.endAfterHeaders;
  if (fieldValues(rawHeaders, 'transfer-encoding').length > 0) return true;
  return fieldValues(rawHeaders, 'content-length').some((value) => Number(value) > 0);
};

/** The way to the upstream is gone, which says nothing of the upstream. */
const isPathLost = (error: unknown): boolean => ['tunnel_lost', 'draining', 'upstream_reset'].includes(errorOf(error));

/** Counts a request in for its organization. Throws GatewayFailure where that has as many as it may have. */
type CountIn = (organization: string | undefined) => void;

export const createForwarder = (deps: ForwarderDeps): Forwarder => {
  const clock = deps.clock ?? systemClock;
  const { limits } = deps;
  const pool = createUpstreamPool({ clock }, limits);
  const inFlight = new Map<string, number>();
  const inFlightOfOrganizations = new Map<string, number>();
  let running = 0;
  /** Told by `rest` when no request runs any more. */
  const atRest = new EventEmitter();
  let closed = false;

  const waitOptions = (client: WaitOptions['client']): WaitOptions => ({
    clock,
    timeoutMs: limits.connectTimeoutMs,
    client,
  });

  const tunnelTarget = (
    exchange: Exchange | UpgradeExchange,
    target: ForwardTarget,
    plan: Plan,
    trace: string,
  ): Target => ({
    kind: target.kind ?? 'port',
    environmentId: target.environmentId,
    port: target.port,
    tls: plan.tls,
    hops: 0,
    requestId: exchange.requestId,
    traceParent: trace,
  });

  const responseOptionsOf = ({ host, authority }: Exchange | UpgradeExchange, { local }: Plan): ResponseOptions => ({
    host,
    authority,
    local,
    noindex: deps.noindex?.() ?? false,
  });

  const createBody = (exchange: Exchange, response: ClientResponse): RelayBody | undefined => {
    if (!hasBody(exchange)) return undefined;
    const expectsContinue = fieldValues(exchange.rawHeaders, 'expect').some((value) => /^100-continue$/i.test(value));
    const [length] = fieldValues(exchange.rawHeaders, 'content-length');
    return {
      length: length === undefined ? undefined : Number(length),
      source: createRequestBody(exchange.request),
      onWanted() {
        if (expectsContinue && !response.begun()) response.continue();
      },
    };
  };

  /** The failure of the last attempt, with the code for the client. */
  const finalFailure = async (
    failure: unknown,
    connection: UpstreamConnection | undefined,
    exchange: Exchange | UpgradeExchange,
  ): Promise<GatewayFailure> => {
    const code = errorOf(failure);
    const { stream, connected, reused, leg } = connection ?? {};
    const hungUp = code === 'upstream_reset' && connected && !reused && stream?.bytesReceived === 0;
    if (
      hungUp &&
      leg &&
      stream &&
      !stream.target.tls &&
      (await speaksTls(leg, stream.target, { clock }, exchange.signal))
    ) {
      return new GatewayFailure('upstream_speaks_tls', 'the upstream hung up, and speaks TLS', { cause: failure });
    }
    return failure instanceof GatewayFailure ? failure : new GatewayFailure(code, 'no answer', { cause: failure });
  };

  /** Tries legs and connections until one has carried the request. Rejects with GatewayFailure. */
  const send = async (
    request: RelayRequest,
    plan: Plan,
    choose: (leg: Leg, fresh: boolean) => UpstreamConnection | Promise<UpstreamConnection>,
  ): Promise<void> => {
    const { exchange, response, body } = request;
    // What may be sent twice goes out before the target is known to be connected, which saves a round trip.
    const repeatable = !body && isIdempotent(exchange.method) && !request.onUpgrade;
    exchange.record.edgeMs = clock.monotonic() - exchange.startedAt;
    let fresh = false;
    let legIndex = 0;
    for (let tries = 1; ; tries++) {
      let connection: UpstreamConnection | undefined;
      let sent = false;
      let answered = false;
      let failure: unknown;
      try {
        const chosen = choose(plan.legs[legIndex]!, fresh);
        connection = chosen instanceof Promise ? await chosen : chosen;
        if (!connection.reused && !repeatable) await waitUntilConnected(connection, waitOptions(exchange));
        exchange.record.legId = connection.leg.id;
        exchange.record.legTransport = connection.leg.transport;
        // Else it is known when it is, while the request is on its way already: relay() says so.
        exchange.record.tunnelMs = connection.connected ? clock.monotonic() - exchange.startedAt : undefined;
        return await relay(request, connection, { clock }, limits);
      } catch (error) {
        failure = error instanceof RelayError ? error.cause : error;
        if (error instanceof RelayError) ({ sent, answered } = error);
      }
      if (exchange.gone || closed) throw new GatewayFailure('draining', 'the exchange was over', { cause: failure });
      const whole = !response.begun() && !body?.source.started;
      const moreLegs = legIndex + 1 < plan.legs.length;
      const step = nextStep(failure, { connection, sent, answered }, { repeatable, whole, tries, moreLegs });
      if (step === 'next_leg') legIndex++;
      else if (step === 'fresh_connection') fresh = true;
      else throw await finalFailure(failure, connection, exchange);
    }
  };

  const onHead = (exchange: Exchange | UpgradeExchange) => (): void => {
    const { record } = exchange;
    record.upstreamMs = clock.monotonic() - exchange.startedAt;
    // The answer can be read before it was noticed that the stream is connected.
    record.tunnelMs ??= record.upstreamMs;
  };

  const serveRequest = async (exchange: Exchange, target: ForwardTarget, count: CountIn): Promise<void> => {
    const planned = planRequest(exchange, target, deps);
    const plan = planned instanceof Promise ? await planned : planned;
    if (!plan) return;
    count(plan.organization);
    const { headers, traceParent } = requestHeaders(exchange, {
      hop: plan.hop,
      local: plan.local,
      traceParent: deps.tracing?.traceParent(exchange),
    });
    const to = tunnelTarget(exchange, target, plan, traceParent);
    const plain = createClientResponse(exchange.response, {
      method: exchange.method,
      version: exchange.request.httpVersion,
    });
    const logResponse =
      target.kind === 'logs'
        ? createLogResponse(plain, { target: exchange.target, fileName: target.fileName })
        : undefined;
    const response = logResponse ?? plain;
    const body = createBody(exchange, response);
    const responseOptions = responseOptionsOf(exchange, plan);
    try {
      await send({ exchange, response, headers, body, responseOptions, onHead: onHead(exchange) }, plan, (leg, fresh) =>
        acquireConnection(pool, { leg, target: to, fresh }, () => waitOptions(exchange)),
      );
    } catch (error) {
      // A follower comes again and goes on where this ends.
      if (exchange.gone || !logResponse || !isPathLost(error) || !logResponse.endAtLine()) throw error;
    } finally {
      body?.source.stop();
    }
  };

  const serveUpgrade = async (exchange: UpgradeExchange, target: ForwardTarget, count: CountIn): Promise<void> => {
    const { socket } = exchange;
    // A lost client is told by the signal; the error itself says nothing more.
    socket.on('error', () => undefined);
    const held = holdBytes(socket, exchange.head);
    const plan = await planRequest(exchange, target, deps);
    if (!plan) return;
    count(plan.organization);
    const { headers, traceParent } = requestHeaders(exchange, {
      hop: plan.hop,
      local: plan.local,
      traceParent: deps.tracing?.traceParent(exchange),
      upgrade: true,
    });
    const to = tunnelTarget(exchange, target, plan, traceParent);
    const responseOptions = responseOptionsOf(exchange, plan);
    const switched: { headers: string[]; upstream: Duplex }[] = [];
    let early: Buffer;
    try {
      await send(
        {
          exchange,
          response: refusalResponse(exchange),
          headers,
          body: undefined,
          responseOptions,
          onHead: onHead(exchange),
          onUpgrade: (upstreamHeaders, upstream) => void switched.push({ headers: upstreamHeaders, upstream }),
        },
        plan,
        (leg) => pool.open(leg, to),
      );
    } finally {
      early = held.take();
    }
    for (const { headers: upstreamHeaders, upstream } of switched) {
      try {
        beginSwitch(exchange, { headers: upstreamHeaders, upstream, early }, responseOptions);
      } catch (error) {
        upstream.destroy(error as Error);
        throw error;
      }
      await join(exchange, upstream, { clock }, limits);
    }
  };

  const start = (
    exchange: Exchange | UpgradeExchange,
    environmentId: string,
    serve: (count: CountIn) => Promise<void>,
  ): void => {
    const count = inFlight.get(environmentId) ?? 0;
    if (closed || count >= limits.requestsInFlightPerEnvironment) {
      return exchange.fail(closed ? 'draining' : 'too_many_requests');
    }
    inFlight.set(environmentId, count + 1);
    let organization: string | undefined;
    const countIn = (of: string | undefined): void => {
      if (of === undefined) return;
      const own = deps.limitsOf?.(of);
      const ofOrganization = inFlightOfOrganizations.get(of) ?? 0;
      if (
        ofOrganization >= (own?.requestsInFlightPerOrganization ?? limits.requestsInFlightPerOrganization) ||
        inFlight.get(environmentId)! > (own?.requestsInFlightPerEnvironment ?? limits.requestsInFlightPerEnvironment)
      ) {
        throw new GatewayFailure('too_many_requests', 'the organization has as many requests as it may have');
      }
      inFlightOfOrganizations.set(of, ofOrganization + 1);
      organization = of;
    };
    const failed = (error: unknown): void => {
      if (exchange.gone) return;
      const code = errorOf(error);
      deps.log.debug(
        {
          requestId: exchange.requestId,
          environmentId,
          legId: exchange.record.legId,
          errorCode: code,
          error: describeError(error),
        },
        'a request was not answered by its upstream',
      );
      exchange.fail(code, { cause: error });
    };
    const ended = (): void => {
      if (organization !== undefined) {
        const others = inFlightOfOrganizations.get(organization)! - 1;
        if (others === 0) inFlightOfOrganizations.delete(organization);
        else inFlightOfOrganizations.set(organization, others);
      }
      const left = inFlight.get(environmentId)! - 1;
      if (left === 0) inFlight.delete(environmentId);
      else inFlight.set(environmentId, left);
      running -= 1;
      if (running === 0) atRest.emit('rest');
    };
    const run = async (): Promise<void> => {
      try {
        await serve(countIn);
      } catch (error) {
        failed(error);
      } finally {
        ended();
      }
    };
    running += 1;
    void run();
  };

  return {
    request: (exchange, target) =>
      start(exchange, target.environmentId, (count) => serveRequest(exchange, target, count)),
    upgrade: (exchange, target) =>
      start(exchange, target.environmentId, (count) => serveUpgrade(exchange, target, count)),
    leaveLeg: (leg) => pool.leave(leg),
    stats: () => ({
      requestsInFlight: running,
      upstreamConnections: pool.connections,
      idleUpstreamConnections: pool.idleConnections,
    }),
    async close() {
      closed = true;
      pool.close(new GatewayFailure('draining', 'the gateway is shutting down'));
      if (running > 0) await once(atRest, 'rest');
    },
  };
};
