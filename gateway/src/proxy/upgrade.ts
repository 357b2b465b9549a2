/**
 * WebSocket upgrades. The request goes out on a tunnel stream of its own; when the upstream has really answered 101, the
 * two sides are joined byte for byte: frames, extensions and close codes are the ends' own business. Any other answer
 * is an ordinary response on the client's connection, which is closed after it.
 */
import { ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Clock } from '../../../shared/src/clock.ts';
import { offersPortProtocol, PORT_PROTOCOL } from '../access/credentials.ts';
import type { GatewayLimits } from '../limits.ts';
import { createClientResponse, type ClientResponse } from './client-response.ts';
import { watchFlow } from './deadline.ts';
import type { UpgradeExchange } from './exchange.ts';
import { fieldValues, hasToken, responseHeaders, type ResponseOptions } from './headers.ts';
import { GatewayFailure } from './upstream-errors.ts';

/**
 * Bytes behind the request head that are read before the upstream has answered, to notice a client that leaves. A
 * WebSocket client sends none (RFC 6455 section 4.1); what exceeds this waits in the client's own connection.
 */
const MAX_HELD_BYTES = 64 << 10;

export interface HeldBytes {
  /** Stops reading, and hands over what came. */
  take(): Buffer;
}

/**
 * Reads on while the upstream makes up its mind. A client that ends its direction meanwhile is gone: a program that dies
 * sends no more than that, and nobody speaks WebSocket in one direction from the start.
 */
export const holdBytes = (socket: Duplex, head: Buffer): HeldBytes => {
  const chunks = [head];
  let bytes = head.length;
  const onData = (chunk: Buffer): void => {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes >= MAX_HELD_BYTES) socket.pause();
  };
  const onEnd = (): void => void socket.destroy();
  socket.once('end', onEnd);
  if (bytes < MAX_HELD_BYTES) socket.on('data', onData);
  return {
    take() {
      socket.off('data', onData).off('end', onEnd);
      socket.pause();
      return Buffer.concat(chunks.splice(0));
    },
  };
};

/** A response on the bare socket of an upgrade that did not come about; made only then. */
export const refusalResponse = (exchange: UpgradeExchange): ClientResponse => {
  let made: ClientResponse | undefined;
  const get = (): ClientResponse => {
    if (made) return made;
    const { socket, request } = exchange;
    const response = new ServerResponse(request);
    response.shouldKeepAlive = false;
    response.assignSocket(socket as Parameters<typeof response.assignSocket>[0]);
    // Node's server does this for its own responses.
    const onDrain = (): void => void response.emit('drain');
    socket.on('drain', onDrain);
    response.once('finish', () => {
      response.detachSocket(socket as Parameters<typeof response.detachSocket>[0]);
      socket.off('drain', onDrain);
      // What the client sent behind its request was meant for another protocol.
      socket.end(() => socket.destroy());
    });
    made = createClientResponse(response, { method: exchange.method, version: request.httpVersion });
    return made;
  };
  return {
    begun: () => made?.begun() ?? false,
    continue: () => get().continue(),
    information: (status, headers) => get().information(status, headers),
    head(status, reason, headers) {
      exchange.record.status = status;
      get().head(status, reason, headers);
    },
    flushHead: () => made?.flushHead(),
    write: (chunk) => get().write(chunk),
    onDrain: (callback) => get().onDrain(callback),
    end: (trailers, options) => get().end(trailers, options),
  };
};

/** Tells the client of the 101 and the upstream of what the client sent early. Throws when it is no switch to WebSocket. */
export const beginSwitch = (
  exchange: UpgradeExchange,
  switched: { readonly headers: readonly string[]; readonly upstream: Duplex; readonly early: Buffer },
  options: ResponseOptions,
): void => {
  if (!hasToken(switched.headers, 'upgrade', 'websocket')) {
    throw new GatewayFailure('upstream_invalid', 'the upstream switched to another protocol than it was asked for');
  }
  const lines = responseHeaders(switched.headers, { ...options, upgrade: true });
  // The application never saw the protocol that came with the token; a browser fails when none of its own is chosen.
  if (offersPortProtocol(exchange.rawHeaders) && fieldValues(lines, 'sec-websocket-protocol').length === 0) {
    lines.push('Sec-WebSocket-Protocol', PORT_PROTOCOL);
  }
  let head = 'HTTP/1.1 101 Switching Protocols\r\n';
  for (let index = 0; index < lines.length; index += 2) head += `${lines[index]!}: ${lines[index + 1]!}\r\n`;
  exchange.record.status = 101;
  exchange.socket.write(`${head}\r\n`, 'latin1');
  if (switched.early.length === 0) return;
  exchange.record.bytesReceived += switched.early.length;
  switched.upstream.write(switched.early);
};

/** Listeners for one event that two pipelines over one stream add, beside what was there: no sign of a leak. */
const JOIN_LISTENERS = 10;

/**
 * Joins the two sides until both directions have ended. An end of one direction is passed on as such; a reset or loss
 * of one side resets the other. Rejects with what cut it.
 */
export const join = async (
  exchange: UpgradeExchange,
  upstream: Duplex,
  deps: { clock: Clock },
  limits: Pick<GatewayLimits, 'stalledStreamTimeoutMs'>,
): Promise<void> => {
  const client = exchange.socket;
  const { record } = exchange;
  const watch = watchFlow(
    deps.clock,
    // Silence is no fault here: editors keep sockets open overnight. TCP keep-alive finds clients that are gone.
    { idleMs: Infinity, stalledMs: limits.stalledStreamTimeoutMs },
    () => upstream.destroy(new GatewayFailure('upstream_timeout', 'the client takes nothing, or is gone')),
  );
  const moved = (to: Duplex): void => {
    watch.moved();
    if (to.writableNeedDrain) watch.blocked();
  };
  for (const side of [client, upstream]) side.setMaxListeners(side.getMaxListeners() + JOIN_LISTENERS);
  try {
    const directions = Promise.all([pipeline(client, upstream), pipeline(upstream, client)]);
    client.on('data', (chunk: Buffer) => {
      record.bytesReceived += chunk.length;
      moved(upstream);
    });
    upstream.on('data', (chunk: Buffer) => {
      record.bytesSent += chunk.length;
      moved(client);
    });
    client.once('end', () => watch.halfClosed());
    await directions;
  } finally {
    watch.stop();
  }
};
