/** A gateway's life: it starts, listens, drains and ends. What it consists of is joined in `parts.ts`. */
import { isDeepStrictEqual } from 'node:util';
import { systemClock, delay, type Clock } from '../../shared/src/clock.ts';
import { describeError } from '../../shared/src/errors.ts';
import { loadOrCreateInternalToken } from '../../shared/src/identity/internal-token.ts';
import { listenQuic } from '../../shared/src/transport/quic.ts';
import { whyNoQuic } from '../../shared/src/transport/quic-native.ts';
import type { InternalAddress } from '../../shared/src/transport/internal-address.ts';
import type { GatewayConfig, ListenAddress } from './config.ts';
import type { Directory } from './directory/directory.ts';
import { type LiveCertificates } from './edge/live-certificates.ts';
import { listenInternal } from './observability/internal-listener.ts';
import { listenError, StartError } from './start-error.ts';
import { type TunnelRegistry } from './tunnels/registry.ts';
import { createClosers, type Closers } from './closers.ts';
import { listenAll } from './listen.ts';
import { createLiveConfig, type ConfigChange, type LiveConfig } from './live-config.ts';
import { makeParts, type Bound, type GatewayDeps, type Parts } from './parts.ts';

export { StartError } from './start-error.ts';

export interface Reloaded extends ConfigChange {
  /** What cannot be used, a sentence each. */
  readonly faults: readonly string[];
}

export interface Gateway {
  readonly id: string;
  readonly addresses: {
    readonly https: readonly ListenAddress[];
    readonly http: readonly ListenAddress[];
    readonly quic: readonly ListenAddress[];
    readonly internal: InternalAddress;
  };
  /** Port of the URLs that runners are told. */
  readonly publicPort: number;
  readonly directory: Directory;
  readonly registry: TunnelRegistry;
  /**
   * Puts in force what can be of another configuration, and reads the files of the certificates. Never rejects: what
   * cannot be used stays as it was, and is among the faults.
   */
  reload(config: GatewayConfig): Promise<Reloaded>;
  /** Drains, then ends. A second call with `drainTimeoutMs: 0` ends a drain that is under way. */
  close(options?: { readonly drainTimeoutMs?: number }): Promise<void>;
}

/**
 * Starts a gateway; it serves when this resolves. Rejects with {@link StartError} where a person can do something about
 * it, with the signal's reason when that is aborted meanwhile; nothing is left open then.
 */
export const startGateway = async (
  config: GatewayConfig,
  deps: GatewayDeps,
  options: { readonly signal: AbortSignal },
): Promise<Gateway> => {
  const closers = createClosers(deps.log);
  try {
    return await start(config, deps, closers, options.signal);
  } catch (error) {
    await closers.run();
    throw error;
  }
};

const takeOver = async (next: GatewayConfig, live: LiveConfig, parts: Parts): Promise<Reloaded> => {
  const certificates = await parts.certificates.check();
  const faults = [...certificates.faults];
  const { signIn } = live.current();
  let usable = next;
  if (parts.signIn && next.signIn && !isDeepStrictEqual(next.signIn, signIn)) {
    try {
      await parts.signIn.reconfigure(next.signIn);
    } catch (error) {
      faults.push(`signIn: ${describeError(error)}`);
      usable = { ...next, signIn };
    }
  }
  const { applied, needsRestart } = live.take(usable);
  parts.recheck();
  return {
    applied: [...applied, ...certificates.replaced.map((path) => `certificate ${path}`)],
    needsRestart,
    faults,
  };
};

/** Nobody gets through then, but a gateway that ended for it would only come back to the same. */
const allExpired = ({ certificates }: LiveCertificates, clock: Clock): string | undefined =>
  certificates.every(({ validTo }) => validTo <= clock.now()) ? 'every certificate has expired' : undefined;

const start = async (
  config: GatewayConfig,
  deps: GatewayDeps,
  closers: Closers,
  signal: AbortSignal,
): Promise<Gateway> => {
  signal.throwIfAborted();
  const { log } = deps;
  const clock = deps.clock ?? systemClock;
  const bound: Bound = { https: [], http: [], quic: [], internal: undefined };
  let notReady: string | undefined = 'starting';
  const live = createLiveConfig(config);
  const parts = await makeParts(live, deps, clock, bound, closers);
  const { edge, acceptor, registry, membership, metrics, directory } = parts;
  signal.throwIfAborted();

  const token = await loadOrCreateInternalToken(config.stateDir).catch((cause: unknown) => {
    throw new StartError('stateDir', describeError(cause), { cause });
  });
  const startedAt = clock.monotonic();
  const internal = await listenInternal(
    {
      token,
      dashboard: parts.dashboard.routes(token),
      notReady: () => notReady ?? allExpired(parts.certificates, clock),
      impaired: () => {
        const noSignIn = parts.signIn?.problem();
        const problems = [
          noSignIn && `nobody can sign in: ${noSignIn}`,
          parts.other?.problem(),
          ...parts.certificates.faults().map((fault) => `a certificate cannot be replaced: ${fault}`),
        ];
        return problems.filter((problem) => problem !== undefined).join('\n') || undefined;
      },
      metrics,
      status: () => ({
        gateway: { id: membership.gatewayId, upForMs: Math.round(clock.monotonic() - startedAt), notReady },
        signIn: parts.signIn && { issuer: live.current().signIn?.issuer, problem: parts.signIn.problem() },
        listeners: { https: bound.https, http: bound.http, quic: bound.quic.map(({ address }) => address) },
        certificates: parts.certificates.certificates.map((certificate) => ({
          ...certificate,
          validTo: new Date(certificate.validTo).toISOString(),
        })),
        edge: edge.stats(),
        legs: registry.legs(),
        environments: registry.environments(),
        lastSeen: registry.lastSeen().map(({ runnerId, at }) => ({ runnerId, at: new Date(at).toISOString() })),
      }),
    },
    config.listeners.internal,
  ).catch((cause: unknown) => {
    const { internal: address } = config.listeners;
    throw listenError('listeners.internal', address.kind === 'unix' ? address.path : address, 'TCP', cause);
  });
  bound.internal = internal;

  const { listeners } = config;
  const withoutQuic = whyNoQuic();
  // Runners then come over TCP.
  if (withoutQuic && listeners.quic.length > 0) log.warn({ reason: withoutQuic.message }, 'no tunnels over UDP');
  await listenAll(
    withoutQuic ? [] : listeners.quic,
    async (address) => {
      const listener = await listenQuic({
        ...address,
        key: parts.key,
        onConnection: (connection) => acceptor.accept(connection),
      });
      bound.quic.push(listener);
    },
    { option: 'listeners.quic', protocol: 'UDP', log, fallback: false },
  );
  bound.https = await listenAll(listeners.https, (address) => edge.listenHttps(address), {
    option: 'listeners.https',
    protocol: 'TCP',
    log,
    fallback: true,
  });
  bound.http = await listenAll(listeners.http, (address) => edge.listenHttp(address), {
    option: 'listeners.http',
    protocol: 'TCP',
    log,
    fallback: true,
  });
  signal.throwIfAborted();
  notReady = undefined;
  metrics.setUp(true);
  const addresses = {
    https: [...bound.https],
    http: [...bound.http],
    quic: bound.quic.map(({ address }) => address),
    internal: internal.address,
  };

  const hurry = new AbortController();
  const drain = async (drainTimeoutMs: number): Promise<void> => {
    notReady = 'draining';
    metrics.setUp(false);
    // Load balancers notice; everything is still served.
    await delay(clock, live.current().drainDelayMs, hurry.signal);
    registry.drain(drainTimeoutMs);
    edge.drain();
    const cancel = clock.timer(drainTimeoutMs, () => hurry.abort());
    await edge.idle({ signal: hurry.signal }).finally(cancel);
  };
  /** One after the other. */
  let reloading: Promise<unknown> = Promise.resolve();
  let closing: Promise<void> | undefined;
  const close = async (drainTimeoutMs: number): Promise<void> => {
    if (drainTimeoutMs > 0) {
      await drain(drainTimeoutMs).catch((error: unknown) => {
        if (!hurry.signal.aborted) throw error;
        log.warn({ ...edge.stats() }, 'the gateway ends with requests in flight');
      });
    }
    notReady = 'closed';
    metrics.setUp(false);
    registry.drain(0);
    await closers.run();
  };
  return {
    id: membership.gatewayId,
    addresses,
    publicPort: config.publicPort ?? bound.https[0]?.port ?? 443,
    directory,
    registry,
    reload(next) {
      const done = reloading.then(() => takeOver(next, live, parts));
      reloading = done;
      return done;
    },
    close(options = {}) {
      const drainTimeoutMs = options.drainTimeoutMs ?? live.current().drainTimeoutMs;
      if (closing && drainTimeoutMs === 0) hurry.abort();
      closing ??= close(drainTimeoutMs);
      return closing;
    },
  };
};
