/**
 * A request as it is written to the upstream: its field lines go out in the order and case of the client, at once, and
 * its body behind them as it comes.
 */
import { GatewayFailure } from './upstream-errors.ts';

/** How the end of the body is told (RFC 9112 section 6). `late`: chunked if a byte comes, else none. */
export type RequestFraming = 'none' | 'length' | 'chunked' | 'late';

export interface RequestHead {
  readonly method: string;
  readonly target: string;
  /** Checked field lines, name and value alternating; nothing of the connection. */
  readonly headers: readonly string[];
  readonly framing: RequestFraming;
  /** What `Content-Length` says. */
  readonly length: number | undefined;
  readonly upgrade: boolean;
}

/** What of a connection a request is written to. */
export interface RequestSink {
  write(bytes: string | Uint8Array): boolean;
  writeBetween(before: string, bytes: Uint8Array, behind: string): boolean;
}

export interface RequestWriter {
  /** False: the connection takes no more for now. Throws GatewayFailure when the body is longer than its length. */
  chunk(bytes: Uint8Array): boolean;
  /** Throws GatewayFailure when the body is shorter than its length. */
  end(trailers: readonly string[]): void;
  /** The whole request was written. */
  readonly ended: boolean;
}

const KEPT = 'Connection: keep-alive\r\n';
const SWITCHING = 'Connection: Upgrade\r\nUpgrade: websocket\r\n';
const CHUNKED = 'Transfer-Encoding: chunked\r\n';
/** Ends a field line early. The edge has refused such requests; this is the last look at them. */
const BREAKS_LINES = /[\r\n\0]/;
const BREAKS_TARGET = /[\r\n\0 ]/;

const fieldLines = (lines: readonly string[]): string => {
  let text = '';
  for (let index = 0; index < lines.length; index += 2) {
    const name = lines[index]!;
    const value = lines[index + 1]!;
    if (BREAKS_LINES.test(name) || BREAKS_LINES.test(value)) throw new TypeError('a field line has a line break in it');
    text += `${name}: ${value}\r\n`;
  }
  return text;
};

/** The head of a request, blank line included. Throws TypeError when a part of it would break it. */
const headText = ({ method, target, headers, upgrade }: RequestHead, chunked: boolean): string => {
  if (BREAKS_TARGET.test(target)) throw new TypeError('a target has a line break or space in it');
  const connection = upgrade ? SWITCHING : KEPT;
  return `${method} ${target} HTTP/1.1\r\n${fieldLines(headers)}${connection}${chunked ? CHUNKED : ''}\r\n`;
};

/** Writes `head` at once, unless its framing is `late`. Throws TypeError when it is none. */
export const writeRequest = (sink: RequestSink, head: RequestHead): RequestWriter => {
  const { framing } = head;
  let begun = framing !== 'late';
  let left = head.length;
  if (begun) sink.write(headText(head, framing === 'chunked'));

  // A field and no accessor: see the exchange.
  const writer = {
    ended: framing === 'none',
    chunk(bytes: Uint8Array): boolean {
      if (left !== undefined) {
        left -= bytes.length;
        if (left < 0) throw new GatewayFailure('bad_request', 'the request is longer than it says');
      }
      if (framing === 'length') return sink.write(bytes);
      if (!begun) {
        begun = true;
        sink.write(headText(head, true));
      }
      return sink.writeBetween(`${bytes.length.toString(16)}\r\n`, bytes, '\r\n');
    },
    end(trailers: readonly string[]): void {
      if (left !== undefined && left > 0)
        throw new GatewayFailure('bad_request', 'the request is shorter than it says');
      writer.ended = true;
      if (framing === 'length') return;
      if (begun || trailers.length > 0) {
        sink.write(`${begun ? '' : headText(head, true)}0\r\n${fieldLines(trailers)}\r\n`);
      } else sink.write(headText(head, false));
    },
  };
  return writer;
};
