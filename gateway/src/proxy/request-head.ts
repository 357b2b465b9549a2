/**
 * The head and the trailers of a request, written by the gateway itself. undici writes `host` and `connection` first and
 * in lower case, drops `Content-Length: 0` where a method has no body, keeps the head of an upload back until its first
 * byte, and has no request trailers. Here the field lines go out in the order and case of the client, at once.
 */
import type { Duplex } from 'node:stream';

type Write = (chunk: string | Uint8Array, encoding?: BufferEncoding) => boolean;

/** How the end of the body is told (RFC 9112 section 6). `late`: chunked if a byte comes, else none. */
export type RequestFraming = 'none' | 'length' | 'chunked' | 'late';

export interface RequestHead {
  readonly method: string;
  readonly target: string;
  /** Checked field lines, name and value alternating; nothing of the connection. */
  readonly headers: readonly string[];
  readonly framing: RequestFraming;
  readonly upgrade: boolean;
}

const KEPT = 'Connection: keep-alive\r\n';
const SWITCHING = 'Connection: Upgrade\r\nUpgrade: websocket\r\n';
const CHUNKED = 'Transfer-Encoding: chunked\r\n';
/** What undici's head ends with when a chunked body follows; the blank line comes with the first chunk. */
const UNDICI_CHUNKED = '\r\ntransfer-encoding: chunked\r\n';
/** What undici writes behind the last chunk, in one piece. */
const LAST_CHUNK = '\r\n0\r\n\r\n';
/** Ends a field line early. The edge has refused such requests; this is the last look at them. */
const BREAKS_LINES = /[\r\n\0]/;

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
  if (BREAKS_LINES.test(target) || target.includes(' '))
    throw new TypeError('a target has a line break or space in it');
  const connection = upgrade ? SWITCHING : KEPT;
  return `${method} ${target} HTTP/1.1\r\n${fieldLines(headers)}${connection}${chunked ? CHUNKED : ''}\r\n`;
};

/**
 * Puts `head` in place of the one that undici is about to write to `stream`, and `trailers`, asked for at the end of a
 * chunked body, into that end. Called when undici begins with the request, before it has written anything of it. Throws
 * TypeError when the head is none.
 */
export const sendHead = (stream: Duplex, head: RequestHead, trailers: () => readonly string[]): void => {
  const foreign = `${head.method} ${head.target} HTTP/1.1\r\n`;
  const empty = headText(head, head.framing === 'chunked');
  const patched = stream as { write: Write };
  const original: Write = patched.write;
  const write = (chunk: string | Uint8Array, encoding?: BufferEncoding): boolean =>
    original.call(stream, chunk, encoding);
  const nothing = (): boolean => !stream.writableNeedDrain;
  const lastChunk = (): string => `0\r\n${fieldLines(trailers())}\r\n`;
  let expects: 'head' | 'first_chunk' | 'last_chunk' | 'body' = 'head';

  const takeHead = (text: string): boolean => {
    if (!text.startsWith(foreign) || !text.endsWith('\r\n')) throw new TypeError('undici wrote no head');
    if (text.endsWith(UNDICI_CHUNKED)) {
      expects = 'first_chunk';
      return head.framing === 'late' ? write(headText(head, true), 'latin1') : nothing();
    }
    expects = 'body';
    if (head.framing === 'chunked') return write(lastChunk(), 'latin1');
    if (head.framing !== 'late') return nothing();
    return write(trailers().length > 0 ? headText(head, true) + lastChunk() : empty, 'latin1');
  };
  patched.write = (chunk: string | Uint8Array, encoding?: BufferEncoding): boolean => {
    if (typeof chunk !== 'string' || expects === 'body') return write(chunk, encoding);
    if (expects === 'head') return takeHead(chunk);
    if (expects === 'first_chunk') {
      expects = 'last_chunk';
      // The blank line before it went out with the head.
      return write(chunk.slice(2), 'latin1');
    }
    if (chunk !== LAST_CHUNK) return write(chunk, encoding);
    expects = 'body';
    return write(`\r\n${lastChunk()}`, 'latin1');
  };
  if (head.framing !== 'late') write(empty, 'latin1');
};
