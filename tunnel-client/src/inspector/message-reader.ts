/**
 * Reads HTTP/1.1 messages of one direction out of the bytes of a connection (RFC 9112), beside whoever the bytes are
 * for: it decides nothing, and what it cannot read it says once.
 *
 *     message = head body
 *     head    = start-line CRLF *(field CRLF) CRLF
 *     body    = none      what the request or the status forbids, and a request that names no length
 *             | chunked   the last transfer coding is `chunked`
 *             | length    Content-Length
 *             | until the connection ends      a response only
 *
 * Bytes of a body are handed over as they come, and belong to whoever sent them.
 */

/** Bytes of a head, or of the trailers; the gateway lets fewer pass. Beyond it the stream is no longer read. */
export const MAX_HEAD_BYTES = 128 << 10;
/** Bytes of the line before a chunk, with the extensions that nobody uses. Beyond it the stream is no longer read. */
export const MAX_CHUNK_LINE_BYTES = 8 << 10;
/** Digits of a chunk size: 2^52 - 1, what a number counts exactly. */
const MAX_SIZE_DIGITS = 13;

export interface MessageHead {
  readonly startLine: string;
  /** Name and value alternating, bytes as latin1. */
  readonly fields: readonly string[];
}

/** `framed`: as the fields say. `switched`: what follows is of another protocol. */
export type BodyKind = 'none' | 'framed' | 'switched';

export interface MessageHandler {
  /** A head is complete; what follows it is for the handler to tell. */
  onHead(head: MessageHead): BodyKind;
  onData(bytes: Buffer): void;
  onEnd(trailers: readonly string[]): void;
  /** Bytes of the other protocol, once `onHead` has answered `switched`. */
  onSwitched(bytes: Buffer): void;
}

/** The bytes are no message. */
export class MessageFault extends Error {
  override readonly name = 'MessageFault';
}

export interface MessageReader {
  /** Throws {@link MessageFault}; the reader is of no use afterwards. */
  push(bytes: Buffer): void;
  /** The direction has ended: a body that ends with it is complete. */
  end(): void;
}

const END_OF_HEAD = Buffer.from('\r\n\r\n');
const LF = 0x0a;
const EMPTY = Buffer.alloc(0);

/** Without spaces and tabs around it. By hand: an expression for it takes time in the square of its blanks. */
const trimmed = (text: string): string => {
  const isBlank = (at: number): boolean => text[at] === ' ' || text[at] === '\t';
  let start = 0;
  let end = text.length;
  while (start < end && isBlank(start)) start++;
  while (end > start && isBlank(end - 1)) end--;
  return text.slice(start, end);
};

const parseFields = (lines: readonly string[]): string[] =>
  lines.flatMap((line) => {
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(0, colon));
    if (!/^[^\s]+$/.test(name)) throw new MessageFault('a line of a head is no field');
    return [name, trimmed(line.slice(colon + 1))];
  });

/** The values of a field, in order. */
export const valuesOf = (fields: readonly string[], name: string): string[] =>
  fields.filter((_, index) => index % 2 === 1 && fields[index - 1]?.toLowerCase() === name);

type State =
  | { readonly at: 'head' | 'chunk line' | 'chunk end' | 'trailers' | 'until the end' | 'switched' }
  | { readonly at: 'length' | 'chunk'; left: number };

const bodyState = ({ fields }: MessageHead, kind: 'request' | 'response'): State | undefined => {
  const codings = valuesOf(fields, 'transfer-encoding').join(',');
  if (codings !== '') {
    if (/(?:^|[, \t])chunked$/i.test(codings)) return { at: 'chunk line' };
    if (kind === 'response') return { at: 'until the end' };
    throw new MessageFault('the end of the body cannot be told');
  }
  const [length] = valuesOf(fields, 'content-length');
  if (length !== undefined) {
    if (!/^\d{1,15}$/.test(length)) throw new MessageFault('the length of a body is no number');
    return Number(length) === 0 ? undefined : { at: 'length', left: Number(length) };
  }
  return kind === 'response' ? { at: 'until the end' } : undefined;
};

export const createMessageReader = (kind: 'request' | 'response', handler: MessageHandler): MessageReader => {
  let state: State = { at: 'head' };
  /** What has come of a head, a line or trailers that are not complete. A copy. */
  let held: Buffer = EMPTY;

  const finish = (trailers: readonly string[]): void => {
    state = { at: 'head' };
    handler.onEnd(trailers);
  };

  /** Everything up to the end of `marker`, once it is there; and what follows. */
  const take = (bytes: Buffer, marker: Buffer | number, limit: number): [taken: string, rest: Buffer] | undefined => {
    const from = typeof marker === 'number' ? held.length : Math.max(0, held.length - marker.length + 1);
    const all = held.length === 0 ? bytes : Buffer.concat([held, bytes]);
    const found = all.indexOf(marker, from);
    const end = found + (typeof marker === 'number' ? 1 : marker.length);
    if (found < 0 ? all.length > limit : end > limit) throw new MessageFault('the head of a message has no end');
    if (found < 0) {
      held = Buffer.from(all);
      return undefined;
    }
    held = EMPTY;
    return [all.toString('latin1', 0, end), all.subarray(end)];
  };

  const onHead = (text: string): void => {
    const [startLine = '', ...lines] = text.slice(0, -END_OF_HEAD.length).split('\r\n');
    const head: MessageHead = { startLine, fields: parseFields(lines) };
    const bodyKind = handler.onHead(head);
    if (bodyKind === 'switched') {
      state = { at: 'switched' };
      return;
    }
    const next = bodyKind === 'none' ? undefined : bodyState(head, kind);
    if (next) state = next;
    else finish([]);
  };

  const onChunkLine = (text: string): void => {
    const digits = /^[0-9a-fA-F]+(?=[\s;])/.exec(text)?.[0];
    if (digits === undefined || digits.length > MAX_SIZE_DIGITS) throw new MessageFault('a chunk has no size');
    const size = Number.parseInt(digits, 16);
    state = size === 0 ? { at: 'trailers' } : { at: 'chunk', left: size };
    // Trailers end with an empty line, and so does having none: with the end of this line before it, both look alike.
    if (size === 0) held = Buffer.from('\r\n');
  };

  const onTrailers = (text: string): void => {
    finish(parseFields(text.slice(2, -END_OF_HEAD.length).split('\r\n').filter(Boolean)));
  };

  /** Returns what is left of `bytes`, all of which is used when it is empty. */
  const step = (bytes: Buffer): Buffer => {
    switch (state.at) {
      case 'head': {
        const taken = take(bytes, END_OF_HEAD, MAX_HEAD_BYTES);
        if (!taken) return EMPTY;
        onHead(taken[0]);
        return taken[1];
      }
      case 'trailers': {
        const taken = take(bytes, END_OF_HEAD, MAX_HEAD_BYTES);
        if (!taken) return EMPTY;
        onTrailers(taken[0]);
        return taken[1];
      }
      case 'chunk line': {
        const taken = take(bytes, LF, MAX_CHUNK_LINE_BYTES);
        if (!taken) return EMPTY;
        onChunkLine(taken[0]);
        return taken[1];
      }
      case 'chunk end': {
        const taken = take(bytes, LF, 2);
        if (!taken) return EMPTY;
        if (taken[0] !== '\r\n') throw new MessageFault('a chunk does not end where it should');
        state = { at: 'chunk line' };
        return taken[1];
      }
      case 'length':
      case 'chunk': {
        const part = bytes.subarray(0, state.left);
        const isChunk = state.at === 'chunk';
        state.left -= part.length;
        const isLast = state.left === 0;
        handler.onData(part);
        if (isLast) {
          if (isChunk) state = { at: 'chunk end' };
          else finish([]);
        }
        return bytes.subarray(part.length);
      }
      case 'until the end':
        handler.onData(bytes);
        return EMPTY;
      case 'switched':
        handler.onSwitched(bytes);
        return EMPTY;
    }
  };

  return {
    push(bytes) {
      while (bytes.length > 0) bytes = step(bytes);
    },
    end() {
      if (state.at === 'until the end') finish([]);
    },
  };
};
