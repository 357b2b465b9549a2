/** One request on its way through the gateway: what the edge hands to the proxy. The edge makes it, see edge/edge.ts. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import type { Duplex } from 'node:stream';
import type { GatewayErrorCode } from '../errors.ts';
import type { Place } from '../linked-list.ts';

/** nginx's code for a client that closed before the answer; never sent. */
export const CLIENT_CLOSED_STATUS = 499;

/** What the access log says of a request. The layers fill it in as they learn it. */
export interface ExchangeRecord {
  environmentId?: string;
  runnerId?: string;
  port?: number;
  legId?: string;
  legTransport?: string;
  /** ms from the start of the request until it was known where it goes, and that it may. */
  edgeMs?: number;
  /** ms from the start of the request until its tunnel stream was connected or taken from the pool. */
  tunnelMs?: number | undefined;
  /** ms until the upstream's response head. */
  upstreamMs?: number;
  errorCode?: GatewayErrorCode;
  /** Upgrades only: status that was written on the socket; whoever writes it says so here first. */
  status?: number;
  bytesReceived: number;
  bytesSent: number;
}

export interface FailOptions {
  readonly cause?: unknown;
  readonly retryAfterSeconds?: number;
  /** Further field lines of the answer, name and value. */
  readonly fields?: readonly (readonly [name: string, value: string])[];
}

interface ExchangeBase {
  /** 16 random bytes in hex; `X-Request-Id` upstream, in error pages, in the access log. */
  readonly requestId: string;
  /** Host name without port, lower-case, no trailing dot. Routing and authority of this request. */
  readonly host: string;
  /** `Host` or `:authority` as the client sent it, for the upstream's `Host`. */
  readonly authority: string;
  /** Port of the authority, or the listener's scheme default: `X-Forwarded-Port`. */
  readonly authorityPort: number;
  readonly method: string;
  /** Request target in origin form, byte for byte as sent. */
  readonly target: string;
  /** Field lines as sent, name and value alternating; h2 pseudo-headers removed; checked to be unambiguous. */
  readonly rawHeaders: readonly string[];
  readonly clientAddress: string;
  readonly clientPort: number;
  readonly protocol: 'http/1.1' | 'h2';
  readonly scheme: 'https';
  /** Monotonic ms. */
  readonly startedAt: number;
  readonly record: ExchangeRecord;
  /** Its place among what was let in and has not ended, see access/open-streams.ts. */
  openStream?: Place<unknown> | undefined;
  /** The client is gone, or was cut. */
  readonly gone: boolean;
  /** Calls back when that happens, not before. Returns the function that stops it. Cheaper than {@link signal}. */
  onGone(callback: (reason: Error) => void): () => void;
  /** Aborted when the client is gone; made at first use. */
  readonly signal: AbortSignal;
  /**
   * Answers with an error page, JSON or text, whichever the client wants, if no response has begun; else cuts the
   * connection (h1) or resets the stream (h2), so that the client never sees a clean end.
   */
  fail(code: GatewayErrorCode, options?: FailOptions): void;
  /** The same from outside: the layers behind are told by the signal, as if the client were gone. */
  cut(code: GatewayErrorCode): void;
}

export interface Exchange extends ExchangeBase {
  readonly request: IncomingMessage | Http2ServerRequest;
  readonly response: ServerResponse | Http2ServerResponse;
}

/** An HTTP/1.1 request with `Upgrade: websocket`. The socket is the client's; nothing was answered yet. */
export interface UpgradeExchange extends ExchangeBase {
  readonly request: IncomingMessage;
  readonly socket: Duplex;
  /** Bytes that came behind the request head. */
  readonly head: Buffer;
}
