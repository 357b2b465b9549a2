/** From an accepted TCP connection to whose it is: by its other end, or by what a trusted proxy writes in front of it. */
import type { Socket } from 'node:net';
import type { Logger } from 'pino';
import type { Clock } from '../../../shared/src/clock.ts';
import type { ProxyProtocol } from '../config.ts';
import type { GatewayErrorCode } from '../errors.ts';
import { plainAddress } from './client-address.ts';
import { createConnectionStarts, type ConnectionStart } from './connection-start.ts';
import type { ConnectionCounter } from './connections.ts';
import type { TrustedProxies } from './trusted-proxies.ts';

/** Least time between two lines of the log that say of connections refused here, ms: a minute. Others are counted. */
const REFUSED_LOG_MS = 60_000;

export interface Arrival {
  readonly isHttp2: boolean;
  /** A trusted proxy says that it ended TLS for the client. */
  readonly isHttps: boolean;
}

export interface Arrivals {
  /** Calls back when the peer of the connection is known, or destroys it. `plain`: the listener ends no TLS itself. */
  take(socket: Socket, options: { readonly plain: boolean }, callback: (arrival: Arrival) => void): void;
}

const DIRECT: Arrival = { isHttp2: false, isHttps: false };

export const createArrivals = (
  deps: {
    readonly clock: Clock;
    readonly log: Logger;
    readonly counter: ConnectionCounter;
    readonly proxies: TrustedProxies;
    /** Port of https URLs: who connected to it in front spoke TLS. */
    readonly publicPort: () => number;
    readonly onRefused: (code: GatewayErrorCode, address: string) => void;
  },
  options: { readonly proxyProtocol: ProxyProtocol },
): Arrivals => {
  const { counter, proxies } = deps;
  const { proxyProtocol } = options;
  const starts = createConnectionStarts(deps);
  let refused = 0;
  let loggedAt = -Infinity;

  const refuse = (socket: Socket, reason: string): void => {
    const { address } = counter.peerOf(socket);
    socket.destroy();
    deps.onRefused('bad_request', address);
    refused += 1;
    const now = deps.clock.monotonic();
    if (now - loggedAt < REFUSED_LOG_MS) return;
    loggedAt = now;
    deps.log.warn({ clientAddress: address, reason, count: refused }, 'connections from a trusted proxy were refused');
    refused = 0;
  };

  /** Whose the connection is by its header. False: the socket was destroyed. */
  const name = (socket: Socket, header: ConnectionStart['header']): boolean => {
    if (header === undefined || header.kind === 'local') return true;
    // Somebody's bytes follow, not the proxy's own: nothing in them is believed.
    if (header.kind === 'unknown') return counter.rename(socket, { ...counter.peerOf(socket), isProxy: false });
    const { address, port } = header;
    return counter.rename(socket, { address, port, isProxy: proxies.has(address) });
  };

  const isHttps = (header: ConnectionStart['header']): boolean =>
    header?.kind === 'client' && (header.overTls ?? header.destinationPort === deps.publicPort());

  return {
    take(socket, { plain }, callback) {
      const isProxy = proxies.has(plainAddress(socket.remoteAddress));
      const isRead = isProxy && (plain || proxyProtocol !== 'off');
      if (!counter.admit(socket, { handshake: isRead || !plain, isProxy })) return;
      if (!isRead) return callback(DIRECT);
      starts.read(socket, { plain, header: proxyProtocol !== 'off' }, (start) => {
        if (start === 'invalid') return refuse(socket, 'the header of PROXY protocol is broken');
        const { header, isHttp2 } = start;
        if (!header && proxyProtocol === 'required' && !plain) return refuse(socket, 'there is no PROXY protocol');
        if (!name(socket, header)) return;
        if (plain) counter.handshakeDone(socket);
        callback({ isHttp2, isHttps: isHttps(header) });
      });
    },
  };
};
