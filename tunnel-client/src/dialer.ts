/**
 * Answers the tunnel streams that gateways open. A stream names an environment and a port and nothing else; where that
 * is, stands in the client's own table. In this order:
 *
 *  1. there is room                                                       limit
 *  2. what the target means:
 *     port     the environment is announced, and exposes it; never the    unknown_environment, not_exposed,
 *              log port                                                   forbidden_target
 *     logs     the built-in log server answers, in this process, where    unknown_environment
 *              the environment has a log; else its host and the log port
 *     oauth    the HTTP service of the runner's configuration             forbidden_target
 *  3. its host is resolved once; the addresses found are all that is used refused
 *  4. none of the ranges of ip-address.ts, none of the client's listeners forbidden_target
 *  5. TCP, then TLS where the target speaks it             refused, timeout, limit, upstream_not_tls
 */
import type { Socket } from 'node:net';
import type { Clock } from '../../shared/src/clock.ts';
import type { StreamStatus } from '../../shared/src/errors.ts';
import { LOG_PORT } from '../../shared/src/hostname.ts';
import type { IncomingTunnelStream } from '../../shared/src/protocol/leg.ts';
import type { Environment } from '../../shared/src/protocol/messages.ts';
import type { Target } from '../../shared/src/protocol/target.ts';
import { trustedRoots } from './certificate-trust.ts';
import { interleaveFamilies, MAX_ADDRESSES, raceAttempts } from './happy-eyeballs.ts';
import { isForbiddenAddress, isOwnAddress, machineAddresses } from './ip-address.ts';
import type { InspectorTap } from './inspector/inspector.ts';
import type { LogServer } from './log-server/log-server.ts';
import type { Logger } from './logger.ts';
import type { OauthTarget } from './oauth-target.ts';
import type { Resolver } from './resolver.ts';
import { splice, type UpstreamConnection } from './splice.ts';
import { connectFailure, connectTcp, plainConnection, startTls, UpstreamError } from './upstream.ts';

export interface DialerLimits {
  /** From OPEN to STATUS, ms, name resolution and TLS included: a person waits for it. Then `timeout`. */
  readonly connectTimeoutMs: number;
  /** Connections to upstreams that are being made at once: each holds a descriptor. Beyond it `limit`. */
  readonly connecting: number;
}

export const DIALER_LIMITS: DialerLimits = { connectTimeoutMs: 10_000, connecting: 1_024 };

export interface DialerDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly resolver: Resolver;
  readonly environment: (id: string) => Environment | undefined;
  /** TCP ports on which the client itself listens, at whatever address. */
  readonly ownPorts: () => readonly number[];
  readonly ownAddresses?: () => readonly string[];
  /** Answers for the environments whose log it has; absent: all have a server of their own. */
  readonly logs?: Pick<LogServer, 'has' | 'serve'>;
  /** Where OAuth callbacks go; absent: nowhere. */
  readonly oauth?: OauthTarget;
  /** PEM of roots that are trusted beside those of the system, for the OAuth target. */
  readonly ca?: string;
  /** Watches connections that have been joined; absent: nothing is put on them. */
  readonly inspector?: InspectorTap;
}

export interface DialerStats {
  /** Streams that are joined to an upstream now. */
  readonly open: number;
  /** Streams answered so far, by status. */
  readonly answered: Readonly<Partial<Record<StreamStatus | 'upstream_reset' | 'cancelled', number>>>;
}

export interface Dialer {
  handle(stream: IncomingTunnelStream): void;
  /**
   * A connection of the client's own to where a stream to `target` would go now. Rejects with UpstreamError, or with the
   * signal's reason.
   */
  connect(target: Target, options: { signal: AbortSignal }): Promise<UpstreamConnection>;
  /** From now on new streams are refused with `draining`; those that are open go on. */
  drain(): void;
  /** Ends every stream with a reset. */
  abort(): void;
  stats(): DialerStats;
}

interface Destination {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
  /** Roots that its certificate must come from; absent: it is not verified. */
  readonly trust?: readonly string[];
}

type StreamAnswer = keyof DialerStats['answered'];

export const createDialer = (deps: DialerDeps, limits: DialerLimits = DIALER_LIMITS): Dialer => {
  const { clock, log, resolver } = deps;
  const ownAddresses = deps.ownAddresses ?? machineAddresses;
  const answered: Partial<Record<StreamAnswer, number>> = {};
  const streams = new Set<IncomingTunnelStream>();
  let connecting = 0;
  let open = 0;
  let draining = false;
  const trust = deps.oauth?.tls ? trustedRoots(deps.ca) : undefined;

  const destination = (target: Target): Destination => {
    if (target.kind === 'oauth') {
      if (!deps.oauth) throw new UpstreamError('forbidden_target', 'no target of OAuth callbacks is configured');
      return { ...deps.oauth, ...(trust ? { trust } : {}) };
    }
    if (target.kind !== 'port' && target.kind !== 'logs')
      throw new UpstreamError('forbidden_target', `there is no target of kind ${target.kind}`);
    const isLogPort = target.port === LOG_PORT;
    if (isLogPort !== (target.kind === 'logs'))
      throw new UpstreamError('forbidden_target', 'the log port is no ordinary port');
    const environment = deps.environment(target.environmentId);
    if (!environment) throw new UpstreamError('unknown_environment', 'the environment is not announced');
    if (target.kind === 'logs') return { host: environment.host, port: LOG_PORT, tls: false };
    const exposed = environment.ports.find(({ port }) => port === target.port);
    if (!exposed) throw new UpstreamError('not_exposed', 'the environment does not expose the port');
    return { host: environment.host, port: target.port, tls: target.tls || exposed.protocol === 'https' };
  };

  const isOwnListener = (address: string, port: number): boolean =>
    deps.ownPorts().includes(port) && isOwnAddress(address, ownAddresses());

  const connectSocket = async ({ host, port }: Destination, signal: AbortSignal): Promise<Socket> => {
    const found = await resolver.resolve(host, { signal }).catch((error: unknown) => {
      throw signal.aborted ? error : new UpstreamError('refused', `the host ${host} was not found`, { cause: error });
    });
    const allowed = found.filter(({ address }) => !isForbiddenAddress(address) && !isOwnListener(address, port));
    if (allowed.length === 0) throw new UpstreamError('forbidden_target', `${host}:${port} is never dialled`);
    const candidates = interleaveFamilies(allowed).slice(0, MAX_ADDRESSES);
    const socket = await raceAttempts(
      { clock },
      candidates,
      ({ address }, options) => connectTcp({ address, port }, options),
      (late) => void late.destroy(),
      { signal },
    ).catch((error: unknown) => {
      resolver.forget(host);
      if (signal.aborted) throw error;
      throw new UpstreamError(connectFailure(error), `${host}:${port} cannot be reached`, { cause: error });
    });
    // An address that no interface shows may still be local (a `local` route): then both ends have the same one.
    if (deps.ownPorts().includes(port) && socket.localAddress === socket.remoteAddress) {
      socket.destroy();
      throw new UpstreamError('forbidden_target', `${host}:${port} is the client's own listener`);
    }
    return socket;
  };

  const connect = async (to: Destination, signal: AbortSignal): Promise<UpstreamConnection> => {
    const socket = await connectSocket(to, signal);
    return to.tls ? startTls(socket, to.host, { signal, trust: to.trust }) : plainConnection(socket);
  };

  const count = (answer: StreamAnswer): void => {
    answered[answer] = (answered[answer] ?? 0) + 1;
  };

  const fail = (stream: IncomingTunnelStream, error: unknown, timedOut: boolean): void => {
    if (stream.destroyed) return count('cancelled');
    const code = error instanceof UpstreamError ? error.code : timedOut ? 'timeout' : undefined;
    const { environmentId, port, requestId } = stream.target;
    if (code === undefined) {
      log.error({ err: error, environmentId, port, requestId }, 'dialling an upstream failed in an unexpected way');
      return stream.reset('internal');
    }
    count(code);
    log[code === 'forbidden_target' ? 'warn' : 'debug'](
      { code, environmentId, port, requestId, legId: stream.leg.id, err: error },
      'tunnel stream not connected',
    );
    if (code === 'upstream_reset') stream.reset(code);
    else stream.refuse(code);
  };

  /** Whether the built-in log server has taken the stream. */
  const serveLogs = (stream: IncomingTunnelStream): boolean => {
    const { kind, environmentId, port } = stream.target;
    if (kind !== 'logs' || port !== LOG_PORT || !deps.logs?.has(environmentId)) return false;
    stream.accept();
    count('connected');
    open += 1;
    stream.once('close', () => {
      open -= 1;
    });
    deps.logs.serve(stream);
    return true;
  };

  const serve = async (stream: IncomingTunnelStream): Promise<void> => {
    const attempt = new AbortController();
    let timedOut = false;
    const onGone = (): void => attempt.abort(new DOMException('the tunnel stream was closed', 'AbortError'));
    const cancelTimer = clock.timer(limits.connectTimeoutMs, () => {
      timedOut = true;
      attempt.abort(new DOMException('no connection in time', 'TimeoutError'));
    });
    stream.once('close', onGone);
    connecting += 1;
    try {
      const upstream = await connect(destination(stream.target), attempt.signal);
      if (stream.destroyed) return upstream.reset();
      if (upstream.duplex.destroyed) throw new UpstreamError('refused', 'the upstream hung up at once');
      stream.accept();
      count('connected');
      open += 1;
      splice(stream, upstream, () => {
        open -= 1;
      });
      deps.inspector?.tap(stream, upstream.duplex);
    } catch (error) {
      fail(stream, error, timedOut);
    } finally {
      connecting -= 1;
      cancelTimer();
      stream.off('close', onGone);
    }
  };

  return {
    handle(stream) {
      streams.add(stream);
      stream.once('close', () => streams.delete(stream));
      // A reset by the gateway while nothing is connected yet; `close` does the rest.
      stream.on('error', () => undefined);
      const refusal = draining ? 'draining' : connecting >= limits.connecting ? 'limit' : undefined;
      if (refusal) {
        count(refusal);
        return stream.refuse(refusal);
      }
      if (serveLogs(stream)) return;
      serve(stream).catch((error: unknown) => {
        log.error({ err: error }, 'a tunnel stream could not be answered');
        stream.reset('internal');
      });
    },
    connect: async (target, { signal }) => connect(destination(target), signal),
    drain() {
      draining = true;
    },
    abort() {
      for (const stream of streams) stream.reset('cancelled');
    },
    stats: () => ({ open, answered: { ...answered } }),
  };
};
