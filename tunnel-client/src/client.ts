/**
 * A runner's tunnel client as a library: keeps legs to the gateways, announces environments, and joins the streams that
 * gateways open with what runs in the environments. It prints nothing and ends no process.
 *
 *     const client = connectRunner({ gateway: 'https://api.gateway.example', runnerId, exchangeToken, stateDir });
 *     client.environments.set({ id: 'demo', ports: [{ port: 3000, admission: 'everyone' }] });
 *     await client.ready();
 */
import { EventEmitter } from 'node:events';
import { systemClock } from '../../shared/src/clock.ts';
import { describeError, TransportError } from '../../shared/src/errors.ts';
import { keyFingerprint, loadOrCreateKey } from '../../shared/src/identity/keys.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { Environment } from '../../shared/src/protocol/messages.ts';
import { parseHostPort } from '../../shared/src/transport/address.ts';
import { createAnnouncer } from './announcer.ts';
import { UnreachableError } from './api-client.ts';
import { createDialer, type Dialer } from './dialer.ts';
import { drainLegs } from './drain-legs.ts';
import { checkOptions, type RunnerOptions } from './client-options.ts';
import { keyPath } from './enrolment-store.ts';
import { createGatewaySelection } from './gateway-selection.ts';
import { createGatewaySessions, isServing } from './gateway-sessions.ts';
import { announcementOf, type EnvironmentInput, parseEnvironment, parseEnvironments } from './environments.ts';
import { createInspector, type Inspector } from './inspector/inspector.ts';
import { createLogServer } from './log-server/log-server.ts';
import { healthiestOf } from './leg-score.ts';
import { silentLogger } from './logger.ts';
import { callbackUrl, KNOWN_SCMS, parseOauthTarget } from './oauth-target.ts';
import { NO_PROXY_SETTINGS } from './proxy-settings.ts';
import { createOutbound } from './outbound.ts';
import { createResolver } from './resolver.ts';
import { checkStateVersion } from './state-version.ts';
import { startRunner } from './runner.ts';
import {
  environmentStatus,
  type GatewayStatus,
  legStatuses,
  type RunnerEvents,
  type RunnerProblem,
  type RunnerState,
  type RunnerStatus,
} from './status.ts';

export type { Environment, ExposedPort } from '../../shared/src/protocol/messages.ts';
export { RefusedError } from '../../shared/src/errors.ts';
export type { RunnerOptions } from './client-options.ts';
export type { EnvironmentInput } from './environments.ts';
export type { GivenMembership } from './given-membership.ts';
export type { BodyView, ExchangeSummary, ExchangeView, Inspector } from './inspector/inspector.ts';
export type { LogSettings } from './log-server/log-source.ts';
export type { Logger } from './logger.ts';
export { type ProxySettings, proxySettingsOf } from './proxy-settings.ts';
export type * from './status.ts';
export type { Transport, TransportChoice, TransportReason } from './transport.ts';

export interface RunnerClient {
  readonly environments: {
    /** Adds or replaces an environment. Throws a ZodError when it is not valid. */
    set(environment: EnvironmentInput): void;
    delete(id: string): void;
    replaceAll(environments: readonly EnvironmentInput[]): void;
    list(): readonly Environment[];
  };
  on<E extends keyof RunnerEvents>(event: E, listener: (...args: RunnerEvents[E]) => void): void;
  off<E extends keyof RunnerEvents>(event: E, listener: (...args: RunnerEvents[E]) => void): void;
  status(): RunnerStatus;
  /** The last requests; undefined without the option. */
  readonly inspector: Inspector | undefined;
  /**
   * Measures the gateways of a list again, and moves to the fastest. The legs stay until there is one at the new gateway;
   * when none comes up there, it stays with the old one. Rejects with UnreachableError.
   */
  reselectGateway(options?: { signal?: AbortSignal }): Promise<GatewayStatus>;
  /** The URL of OAuth callbacks, to be registered with an SCM: it never changes for a runner. Throws RangeError. */
  callbackUrl(scm: string): string;
  /** Resolves when the first leg is up. Rejects when the client is closed, or with the signal's reason. */
  ready(options?: { signal?: AbortSignal }): Promise<void>;
  /**
   * Ends the client. With `drain` (ms, or true for {@link DEFAULT_DRAIN_MS}) gateways are told first and open streams
   * may end; otherwise they are cut.
   */
  close(options?: { drain?: boolean | number }): Promise<void>;
}

/** How long open streams may take to end after `close({ drain: true })`, ms: longer than almost any request. */
export const DEFAULT_DRAIN_MS = 30_000;
/** The longest interval there is, ms (2^31 − 1). */
const MAX_INTERVAL_MS = 2_147_483_647;
/** Problems that `status()` shows. */
const KEPT_PROBLEMS = 10;
/** The list of gateways is asked for again not more often than this, ms. */
const REFRESH_INTERVAL_MS = 60_000;

/** These two say in their own message what was tried and what came of it; their causes would only repeat it. */
const toldBy = (error: Error): string =>
  error instanceof UnreachableError || error instanceof TransportError ? error.message : describeError(error);

const errorCode = (error: Error): string | undefined =>
  'code' in error && typeof error.code === 'string' ? error.code : undefined;

/** Throws RangeError or a ZodError at once when an option is wrong; everything later comes as `error` events. */
export const connectRunner = (options: RunnerOptions): RunnerClient => {
  const { urls, key: givenKey } = checkOptions(options);
  let key = givenKey;
  const clock = options.clock ?? systemClock;
  const log = options.logger ?? silentLogger;
  const emitter = new EventEmitter();
  emitter.setMaxListeners(0);
  const stopping = new AbortController();
  const resolver = createResolver({ clock });
  let state: RunnerState = 'joining';
  let problems: readonly RunnerProblem[] = [];
  let refreshedAt = -Infinity;
  let closing: Promise<void> | undefined;

  const emit = <E extends keyof RunnerEvents>(event: E, ...args: RunnerEvents[E]): void => {
    // An `error` event without a listener would be thrown.
    if (emitter.listenerCount(event) > 0) emitter.emit(event, ...args);
  };
  const setState = (next: RunnerState): void => {
    if (state === next || state === 'closed' || (state === 'draining' && next !== 'closed')) return;
    state = next;
    emit('state', next);
  };
  const report = (error: Error, retryInMs?: number): void => {
    const problem: RunnerProblem = {
      at: clock.now(),
      code: errorCode(error),
      message: toldBy(error),
      retryInMs,
    };
    problems = [problem, ...problems].slice(0, KEPT_PROBLEMS);
    log.warn({ err: error, retryInMs }, 'the tunnel client has a problem');
    emit('error', error, problem);
  };
  const updateState = (): void => {
    const isUp = sessions.legs().some(isServing);
    setState(isUp ? 'online' : sessions.current()?.enrolment.current() ? 'connecting' : 'joining');
  };

  const announcer = createAnnouncer({
    clock,
    onResult: ({ gatewayId, result }) => {
      const { id, accepted, code, message, urls } = result;
      log[accepted ? 'info' : 'warn'](
        { environmentId: id, gatewayId, code, note: message, urls: urls.map(({ url: each }) => each) },
        accepted ? 'environment accepted' : 'environment refused',
      );
      emit('environment', { id, gatewayId, accepted, code, message, urls });
    },
  });
  const logs = createLogServer(
    { clock, log },
    { stateDir: options.stateDir, commandVariables: options.commandVariables },
  );
  const inspector = options.inspector
    ? createInspector({ clock, log, connect: (target, dial) => dialer.connect(target, dial) })
    : undefined;
  const dialer: Dialer = createDialer({
    clock,
    log,
    resolver,
    environment: (id) => announcer.get(id),
    ownPorts: options.ownPorts ?? (() => []),
    logs,
    ...(options.oauth === undefined ? {} : { oauth: parseOauthTarget(options.oauth.target) }),
    ...(options.ca === undefined ? {} : { ca: options.ca }),
    ...(inspector === undefined ? {} : { inspector }),
  });
  const environments: RunnerClient['environments'] = {
    set(input) {
      const environment = parseEnvironment(input);
      logs.configure(environment.id, environment.logs);
      announcer.set(announcementOf(environment));
    },
    delete(id) {
      logs.configure(id, undefined);
      announcer.delete(id);
    },
    replaceAll(inputs) {
      const list = parseEnvironments(inputs);
      const kept = new Set(list.map(({ id }) => id));
      for (const id of logs.environments()) if (!kept.has(id)) logs.configure(id, undefined);
      for (const environment of list) logs.configure(environment.id, environment.logs);
      announcer.replaceAll(list.map(announcementOf));
    },
    list: () => announcer.list(),
  };
  environments.replaceAll(options.environments ?? []);

  const refreshGateways = (): void => {
    const running = sessions.current();
    if (!running || clock.monotonic() - refreshedAt < REFRESH_INTERVAL_MS) return;
    refreshedAt = clock.monotonic();
    running.enrolment.refreshGateways({ signal: stopping.signal }).catch((error: unknown) => {
      if (!stopping.signal.aborted) report(error as Error);
    });
  };

  const preferredAddress = (): string | undefined => {
    const healthiest = healthiestOf(sessions.legs());
    return healthiest && parseHostPort(healthiest.leg.remoteAddress).host;
  };
  const outbound = createOutbound(
    { clock, resolver },
    { proxy: options.proxy ?? NO_PROXY_SETTINGS, ...(options.ca === undefined ? {} : { ca: options.ca }) },
  );
  const selection = createGatewaySelection(
    { clock, random: Math.random, outbound, onError: report },
    { urls, stateDir: options.stateDir },
  );
  const sessions = createGatewaySessions(
    {
      clock,
      log,
      selection,
      report,
      start: (url) => {
        if (!key) throw new Error('there is no key yet');
        const common = { clock, log, key, resolver, outbound, announcer, dialer, logs, preferredAddress };
        return startRunner({ url, options, ...common, emit, report, updateState, refreshGateways });
      },
    },
    { reselectAfterMs: urls.length > 1 ? options.reselectAfterMs : undefined },
  );
  const gatewayStatus = (): GatewayStatus => ({
    gateway: selection.current()?.origin,
    measurements: selection.measurements(),
  });

  const start = async (): Promise<void> => {
    await checkStateVersion(options.stateDir);
    key ??= await loadOrCreateKey(keyPath(options.stateDir));
    stopping.signal.throwIfAborted();
    await sessions.run({ signal: stopping.signal });
  };
  // Timers and QUIC connections do not keep a process alive; a client that is not closed does.
  const alive = setInterval(() => undefined, MAX_INTERVAL_MS);
  const starting = start().catch((error: unknown) => {
    if (stopping.signal.aborted) return;
    report(error as Error);
    void shutDown(0);
  });

  const shutDown = async (drainMs: number): Promise<void> => {
    const legs = (): Leg[] => sessions.legs().map(({ leg }) => leg);
    stopping.abort(new DOMException('the client was closed', 'AbortError'));
    sessions.stop();
    if (drainMs > 0 && legs().length > 0) {
      setState('draining');
      await drainLegs(clock, { dialer, logs }, legs, drainMs);
    }
    await Promise.all(legs().map((leg) => leg.close('closed')));
    announcer.close();
    inspector?.close();
    dialer.abort();
    await logs.close();
    await starting;
    await sessions.close();
    clearInterval(alive);
    setState('closed');
  };
  const callbackUrlOf = (scm: string): string => {
    const url = selection.current();
    if (!url) throw new RangeError('no gateway is chosen yet, and the URL has its domain');
    return callbackUrl(url, options.runnerId, scm);
  };

  return {
    environments,
    inspector,
    on: (event, listener) => void emitter.on(event, listener as (...args: unknown[]) => void),
    off: (event, listener) => void emitter.off(event, listener as (...args: unknown[]) => void),
    status: () => ({
      state,
      runnerId: options.runnerId,
      organization: sessions.current()?.enrolment.current()?.membership.organization,
      ...gatewayStatus(),
      keyFingerprint: key && keyFingerprint(key.publicKey),
      membershipExpiresAt: sessions.current()?.enrolment.current()?.membership.expiresAt,
      legs: legStatuses(sessions.legs(), clock),
      environments: announcer.list().map((entry) => environmentStatus(entry, announcer.verdicts(entry.id))),
      streams: dialer.stats(),
      oauth: {
        target: options.oauth?.target,
        callbackUrls: selection.current() ? Object.fromEntries(KNOWN_SCMS.map((scm) => [scm, callbackUrlOf(scm)])) : {},
      },
      ...sessions.bytes(),
      problems,
    }),
    callbackUrl: callbackUrlOf,
    reselectGateway: async ({ signal } = {}) => {
      await sessions.reselect({ signal: signal ? AbortSignal.any([signal, stopping.signal]) : stopping.signal });
      return gatewayStatus();
    },
    ready: ({ signal } = {}) =>
      new Promise((resolve, reject) => {
        const finish = (act: () => void): void => {
          emitter.off('state', onState);
          signal?.removeEventListener('abort', onAbort);
          act();
        };
        const onState = (): void => {
          if (state === 'online') finish(resolve);
          if (state === 'closed')
            finish(() => reject(new Error('the client was closed', { cause: problems[0]?.message })));
        };
        const onAbort = (): void => finish(() => reject(signal?.reason as Error));
        if (signal?.aborted) return reject(signal.reason as Error);
        emitter.on('state', onState);
        signal?.addEventListener('abort', onAbort, { once: true });
        onState();
      }),
    close: ({ drain = false } = {}) => {
      closing ??= shutDown(drain === true ? DEFAULT_DRAIN_MS : drain === false ? 0 : drain);
      return closing;
    },
  };
};
