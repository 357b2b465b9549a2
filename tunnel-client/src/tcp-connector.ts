/** Connects to a gateway over TCP, at `tunnel.<domain>`: WebTransport, or a WebSocket. */
import type { TLSSocket } from 'node:tls';
import type { Clock } from '../../shared/src/clock.ts';
import { TransportError } from '../../shared/src/errors.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import { formatHostPort, type HostPort, parseHostPort } from '../../shared/src/transport/address.ts';
import { dialWebSocket } from '../../shared/src/transport/websocket.ts';
import { dialWebTransport } from '../../shared/src/transport/webtransport.ts';
import type { GatewayUrl } from './gateway-url.ts';
import { MAX_ADDRESSES, raceAttempts } from './happy-eyeballs.ts';
import type { Outbound } from './outbound.ts';
import type { Connect } from './quic-connector.ts';

/** From the look-up to the tunnel, ms: a SYN that is lost is repeated after 1 and 3 s. */
const TCP_CONNECT_TIMEOUT_MS = 8_000;
/** Where gateways listen for tunnels besides the port of the URL. */
const TUNNEL_PORT = 8443;
/** Until the next address is tried while one gives no answer, ms. Longer than between addresses of one name. */
const NEXT_TARGET_MS = 1_000;

/**
 * Where to dial: what the gateway tells of itself, else the tunnel's name of the URL's domain. A gateway of several
 * domains tells the first one; this machine may know no other than the one in its configuration.
 */
export const tcpTargets = (gateway: Pick<GatewayAddress, 'tcp' | 'domain'>, url: GatewayUrl): readonly HostPort[] => {
  const host = url.host.replace(/^api\./, 'tunnel.');
  const listed = (gateway.tcp ?? []).flatMap((text) => {
    try {
      const told = parseHostPort(text);
      return told.host === `tunnel.${gateway.domain}` ? { host, port: told.port } : told;
    } catch {
      return [];
    }
  });
  if (listed.length > 0) return listed.slice(0, MAX_ADDRESSES);
  return [...new Set([url.port, TUNNEL_PORT])].map((port) => ({ host, port }));
};

/**
 * ALPN is offered with `http/1.1` for WebTransport too: who does not speak HTTP/2 then says so, in place of an alert
 * that looks like any other failure.
 */
const ALPN = { webtransport: ['h2', 'http/1.1'], websocket: ['http/1.1'] } as const;

/**
 * What one address has shown counts for all: at the others perhaps nothing listens. An upgrade that is answered with
 * something else was answered by a proxy, or reached the gateway without its headers.
 */
const failureOf = (error: unknown, transport: 'webtransport' | 'websocket', names: readonly string[]): unknown => {
  const errors: readonly unknown[] = error instanceof AggregateError ? error.errors : [error];
  const told = errors.find((each) => each instanceof TransportError && each.code !== undefined);
  if (!(told instanceof TransportError) || told.code === undefined) return error;
  const advice =
    transport === 'websocket' && told.code === 'refused'
      ? `. A proxy seems to inspect TLS and to let no upgrades pass: except ${names.join(' and ')} from inspection`
      : '';
  return new TransportError(`${told.message}${advice}`, { cause: error, code: told.code });
};

export const createTcpConnector = (
  deps: { readonly clock: Clock; readonly outbound: Pick<Outbound, 'connectTls'> },
  options: { readonly transport: 'webtransport' | 'websocket'; readonly url: GatewayUrl },
): Connect => {
  const { clock, outbound } = deps;
  const { transport, url } = options;
  const dial = transport === 'webtransport' ? dialWebTransport : dialWebSocket;

  return async (gateway, { signal }) => {
    const limit = new AbortController();
    const cancel = clock.timer(TCP_CONNECT_TIMEOUT_MS, () =>
      limit.abort(new Error(`no answer within ${TCP_CONNECT_TIMEOUT_MS / 1_000} s`)),
    );
    const either = AbortSignal.any([signal, limit.signal]);
    const open = ({ host, port }: HostPort, dialSignal: AbortSignal): Promise<TLSSocket> =>
      outbound.connectTls({ host, port, servername: host, alpn: ALPN[transport] }, { signal: dialSignal });
    try {
      return await raceAttempts(
        { clock },
        tcpTargets(gateway, url),
        (target, race) =>
          dial(
            { connect: (given) => open(target, given.signal), authority: formatHostPort(target.host, target.port) },
            race,
          ),
        (late) => late.close(),
        { signal: either, delayAfter: () => NEXT_TARGET_MS },
      );
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      const names = new Set([url.host, ...tcpTargets(gateway, url).map(({ host }) => host)]);
      throw failureOf(error, transport, [...names]);
    } finally {
      cancel();
    }
  };
};
