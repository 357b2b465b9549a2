/** What belongs to one client connection: its limits, its requests in flight, and how it is brought to its end. */
import { constants } from 'node:http2';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Clock } from '../../../shared/src/clock.ts';
import type { Peer } from './connections.ts';
import type { Arrival } from './arrivals.ts';
import { LinkedList } from '../linked-list.ts';
import type { ClientConnection, Dispatcher } from './dispatch.ts';
import type { EdgeLimits, TunnelHandler } from './edge.ts';
import { parseAuthority } from './host-router.ts';
import type { Http1Server } from './http1-server.ts';
import { MAX_VIOLATIONS, type Http2Server } from './http2-server.ts';
import { createRequestSlots } from './request-slots.ts';

/**
 * Requests that wait behind another in one HTTP/1.1 connection. Browsers send none; programs that pipeline send few.
 * Beyond: the connection is closed.
 */
const MAX_PIPELINED = 64;

/**
 * How long a client that was not told yet (an idle connection, or one with a response under way whose head says nothing
 * of an end) may still send a request when the gateway drains, ms: clients that are busy do within this. Then it is closed.
 */
const DRAIN_IDLE_MS = 500;
/** The same from when a connection was accepted: its first request needs up to three round trips. */
export const DRAIN_FIRST_REQUEST_MS = 2_000;

/** Where HTTP/2 for the names of the tunnel goes. */
type Tunnel = Pick<TunnelHandler, 'http2'> & { readonly names: ReadonlySet<string> };

export interface ClientConnections {
  /** Speaks what was negotiated; clients without ALPN speak HTTP/1.1. */
  serve(socket: TLSSocket): void;
  /** The same where a proxy has ended TLS. */
  servePlain(socket: Socket, arrival: Arrival): void;
  /** Tells every client, also later ones, to go elsewhere with its next request. */
  drain(): void;
  /** Connections that are open, those to the tunnel apart. */
  readonly open: number;
}

type Description = Pick<ClientConnection, 'clientAddress' | 'clientPort' | 'isProxy' | 'encryption' | 'serverName'>;

const describe = (
  { servername }: Partial<Pick<TLSSocket, 'servername'>>,
  { address, port, isProxy }: Peer,
  encryption: ClientConnection['encryption'],
): Description => ({
  clientAddress: address,
  clientPort: port,
  isProxy,
  encryption,
  serverName: typeof servername === 'string' && servername !== '' ? servername : undefined,
});

export const createClientConnections = (deps: {
  readonly clock: Clock;
  readonly limits: Pick<EdgeLimits, 'requestsInFlightPerConnection' | 'resetsPerConnection' | 'sessionIdleTimeoutMs'>;
  readonly http1: Http1Server;
  readonly http2: Http2Server;
  readonly dispatcher: Dispatcher;
  readonly tunnel: Tunnel | undefined;
  readonly peerOf: (socket: Socket) => Peer;
  /** Called after each connection that has ended. */
  readonly onClosed: () => void;
}): ClientConnections => {
  const { clock, limits } = deps;
  const drains = new Set<() => void>();
  let draining = false;

  /** How long a connection may still wait for a request. */
  const drainGrace = (openedAt: number): number =>
    Math.max(DRAIN_IDLE_MS, openedAt + DRAIN_FIRST_REQUEST_MS - clock.monotonic());

  const serveHttp1 = (socket: Socket, description: Description): void => {
    const openedAt = clock.monotonic();
    let cancelDrain = (): void => {};
    const client: ClientConnection = {
      ...description,
      protocol: 'http/1.1',
      exchanges: new LinkedList(),
      closing: false,
      draining: false,
      over: false,
      becomeTunnel: () => leave(),
      // One at a time: the answers have an order, and a request behind an upgrade is none.
      slots: createRequestSlots(
        { clock, onAbuse: () => socket.destroy() },
        { inFlight: 1, waiting: MAX_PIPELINED, resets: Number.POSITIVE_INFINITY },
      ),
      onExchangeEnd() {
        if (client.exchanges.size > 0) return;
        if (client.closing) socket.destroySoon();
        else if (client.draining) armDrain();
      },
    };
    const armDrain = (): void => {
      cancelDrain();
      cancelDrain = clock.timer(drainGrace(openedAt), () => {
        if (client.exchanges.size === 0) socket.destroySoon();
      });
    };
    const drain = (): void => {
      client.draining = true;
      for (const { exchange } of client.exchanges.values()) {
        if (!('response' in exchange)) continue;
        // Whose head is out believes that the connection stays: its next response says otherwise.
        if ('shouldKeepAlive' in exchange.response && !exchange.response.headersSent) {
          exchange.response.shouldKeepAlive = false;
        }
      }
      if (client.exchanges.size === 0) armDrain();
    };
    drains.add(drain);
    const leave = (): void => {
      cancelDrain();
      if (drains.delete(drain)) deps.onClosed();
    };
    socket.once('close', () => {
      client.slots.close();
      leave();
    });
    deps.http1.serve(socket, client);
    if (draining) drain();
  };

  /** `calmDown` ends the connection of a client that breaks the rules; `onIdle` is told when its last exchange ends. */
  const describeHttp2 = (description: Description, calmDown: () => void, onIdle: () => void): ClientConnection => {
    let violations = 0;
    const client: ClientConnection = {
      ...description,
      protocol: 'h2',
      exchanges: new LinkedList(),
      closing: false,
      draining: false,
      over: false,
      slots: createRequestSlots(
        { clock, onAbuse: calmDown },
        {
          inFlight: limits.requestsInFlightPerConnection,
          waiting: limits.requestsInFlightPerConnection,
          // A proxy's connection carries many clients, each of whom may leave pages as often as all.
          resets: description.isProxy ? Number.POSITIVE_INFINITY : limits.resetsPerConnection,
        },
      ),
      onExchangeEnd(end) {
        if (end === 'violation' && ++violations >= MAX_VIOLATIONS) calmDown();
        if (client.exchanges.size === 0) onIdle();
      },
    };
    return client;
  };

  const serveHttp2 = (socket: Socket, description: Description): void => {
    let cancelIdle = (): void => {};
    const calmDown = (): void => session?.destroy(undefined, constants.NGHTTP2_ENHANCE_YOUR_CALM);
    // Counted from the end of the last stream: pings keep nothing open.
    const armIdle = (): void => {
      cancelIdle();
      cancelIdle = clock.timer(limits.sessionIdleTimeoutMs, () => {
        if (client.exchanges.size === 0) session?.close();
      });
    };
    const openedAt = clock.monotonic();
    let cancelDrain = (): void => {};
    const client = describeHttp2(description, calmDown, () => {
      // Behind the last response there is no request under way yet, unless the client sends several at once.
      if (client.draining) session?.close();
      else armIdle();
    });
    const session = deps.http2.serve(socket, client);
    if (!session) return void socket.destroy();
    // What passes GOAWAY on its way is not served, and clients send it again (RFC 9113 section 6.8). To announce it first,
    // as that section advises, nghttp2 has a call that Node does not offer (a GOAWAY with the highest stream number is no
    // such: streams behind it are not served). So it goes out when a request on its way is least likely.
    const drain = (): void => {
      client.draining = true;
      cancelDrain = clock.timer(drainGrace(openedAt), () => session.close());
    };
    drains.add(drain);
    armIdle();
    session.once('close', () => {
      cancelIdle();
      cancelDrain();
      client.slots.close();
      drains.delete(drain);
      deps.onClosed();
    });
    if (draining) drain();
  };

  /** No idle limit, and no GOAWAY when the gateway drains: the tunnel is ended by its leg. */
  const serveTunnel = (socket: TLSSocket, description: Description, tunnel: Tunnel): void => {
    const calmDown = (): void => session?.destroy(undefined, constants.NGHTTP2_ENHANCE_YOUR_CALM);
    const client = describeHttp2(description, calmDown, () => {});
    const session = tunnel.http2(socket, (request, response) => deps.dispatcher.request(client, request, response));
    socket.once('close', () => client.slots.close());
  };

  return {
    serve(socket) {
      const { tunnel } = deps;
      const description = describe(socket, deps.peerOf(socket), 'tls');
      if (socket.alpnProtocol !== 'h2') serveHttp1(socket, description);
      else if (tunnel?.names.has(parseAuthority(socket.servername || '')?.host ?? '')) {
        serveTunnel(socket, description, tunnel);
      } else serveHttp2(socket, description);
    },
    servePlain(socket, { isHttp2, isHttps }) {
      const description = describe({}, deps.peerOf(socket), isHttps ? 'in-front' : 'by-request');
      if (isHttp2) serveHttp2(socket, description);
      else serveHttp1(socket, description);
    },
    drain() {
      draining = true;
      for (const drain of [...drains]) drain();
    },
    get open() {
      return drains.size;
    },
  };
};
