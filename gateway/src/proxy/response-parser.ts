/**
 * Reads HTTP/1.1 responses out of the bytes of a connection to an upstream (RFC 9112), strictly: what two programs could
 * read in two ways is no response (safety row 12). What it refuses and parsers in use let through: bare LF and CR, folded
 * lines, space before a colon, control characters in values, a length beside a coding, more than one of either, a
 * transfer coding other than `chunked`.
 *
 *     response    = interim* head body
 *     head        = "HTTP/1." ("0" / "1") SP 3DIGIT [SP reason] CRLF *(field CRLF) CRLF
 *     body        = none       HEAD, 1xx, 204, 304
 *                 | chunked    Transfer-Encoding: chunked
 *                 | length     Content-Length
 *                 | until the connection ends
 *
 * Bytes of a body are handed over as they come, never held or copied.
 */

export interface ResponseHead {
  readonly status: number;
  readonly reason: string;
  /** Field lines, name and value alternating, bytes as latin1. */
  readonly headers: string[];
}

export interface ResponseHandler {
  /** An interim response (1xx), 101 too unless it was asked for. */
  onInformation(head: ResponseHead): void;
  onHead(head: ResponseHead): void;
  onData(bytes: Buffer): void;
  /** `isLast`: the connection carries no further response. */
  onEnd(trailers: string[], isLast: boolean): void;
  /** 101, where it was asked for. `rest` is of the other protocol already. The parser is done. */
  onSwitch(head: ResponseHead, rest: Buffer): void;
}

/** The bytes are no response. */
export class ResponseFault extends Error {
  override readonly name = 'ResponseFault';
  /** The first bytes of what should have been a head, latin1. */
  readonly begin: string;
  constructor(message: string, begin = '') {
    super(message);
    this.begin = begin;
  }
}

export interface ResponseParser {
  /** The next response answers this request. */
  expect(request: { readonly method: string; readonly upgrade: boolean }, handler: ResponseHandler): void;
  /** Throws {@link ResponseFault}, and what a handler throws; the parser is of no use after either. */
  push(bytes: Buffer): void;
  /** The upstream ended its direction. False: in the middle of a response. */
  end(): boolean;
  /** Whether a response is expected, or under way. */
  isBusy(): boolean;
  /** How long an upstream says that it keeps the connection, s; of the last response. */
  keepAliveSeconds(): number | undefined;
}

const LF = 0x0a;
const CR = 0x0d;
const SEMICOLON = 0x3b;
/** RFC 9110 section 5.6.2. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** RFC 9110 section 5.5: no control character but the tab. */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const STATUS_LINE = /^HTTP\/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?$/;
const CONTENT_LENGTH = /^\d{1,15}$/;
/** What every response begins with. */
const BEGIN = 'HTTP/1.';
/** Bytes of a broken head that tell what it is instead. */
const BEGIN_BYTES = 16;
/** Digits of a chunk size: 2^52 - 1, what a number counts exactly. */
const MAX_SIZE_DIGITS = 13;
/** Bytes of the extensions of one chunk, which nobody reads. Beyond it the response is broken. */
export const MAX_CHUNK_EXTENSION_BYTES = 4 << 10;

/** Value of a hexadecimal digit, or -1. */
const hexDigit = (byte: number): number => {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const lower = byte | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1;
};

const isBlank = (code: number): boolean => code === 0x20 || code === 0x09;

/** `text` from `start` to `end` without spaces and tabs around it. */
const trimmed = (text: string, start: number, end: number): string => {
  while (start < end && isBlank(text.charCodeAt(start))) start++;
  while (end > start && isBlank(text.charCodeAt(end - 1))) end--;
  return text.slice(start, end);
};

/** The field lines of a section, which ends with an empty line; `at` is where the first begins. */
const parseFields = (text: string, at: number): string[] => {
  const fields: string[] = [];
  for (;;) {
    const end = text.indexOf('\r\n', at);
    if (end === at) return fields;
    const colon = text.indexOf(':', at);
    if (colon < 0 || colon > end) throw new ResponseFault('a line of a head is no field');
    const name = text.slice(at, colon);
    const value = trimmed(text, colon + 1, end);
    if (!TOKEN.test(name) || !VALUE.test(value)) throw new ResponseFault('a field has a character that it must not');
    fields.push(name, value);
    at = end + 2;
  }
};

/** What the fields of a head say of the message and its connection. */
interface Framing {
  length: number | undefined;
  chunked: boolean;
  /** Members of `Connection`. */
  close: boolean;
  keepAlive: boolean;
  keepAliveSeconds: number | undefined;
}

const readFraming = (headers: readonly string[]): Framing => {
  const framing: Framing = {
    length: undefined,
    chunked: false,
    close: false,
    keepAlive: false,
    keepAliveSeconds: undefined,
  };
  for (let index = 0; index < headers.length; index += 2) {
    const value = headers[index + 1]!;
    switch (headers[index]!.toLowerCase()) {
      case 'content-length':
        if (framing.length !== undefined || !CONTENT_LENGTH.test(value)) throw new ResponseFault('no single length');
        framing.length = Number(value);
        break;
      case 'transfer-encoding':
        if (framing.chunked || value.toLowerCase() !== 'chunked') throw new ResponseFault('no single coding');
        framing.chunked = true;
        break;
      case 'connection':
        for (const member of value.toLowerCase().split(',')) {
          const option = member.trim();
          if (option === 'close') framing.close = true;
          else if (option === 'keep-alive') framing.keepAlive = true;
        }
        break;
      case 'keep-alive': {
        const seconds = /(?:^|[\s,;])timeout=(\d{1,9})/i.exec(value)?.[1];
        if (seconds !== undefined) framing.keepAliveSeconds = Number(seconds);
        break;
      }
    }
  }
  if (framing.chunked && framing.length !== undefined) throw new ResponseFault('a length beside a coding');
  return framing;
};

const hasNoBody = (method: string, status: number): boolean =>
  method === 'HEAD' || status < 200 || status === 204 || status === 304;

type State =
  | 'idle'
  | 'head'
  | 'length'
  | 'until_end'
  | 'size'
  | 'extension'
  | 'size_end'
  | 'chunk'
  | 'chunk_cr'
  | 'chunk_end'
  | 'trailers';

/** `maxHeadBytes`: of one head or trailer section. */
export const createResponseParser = (limits: { readonly maxHeadBytes: number }): ResponseParser => {
  let state: State = 'idle';
  let handler: ResponseHandler | undefined;
  let method = '';
  let upgrade = false;
  let isLast = false;
  let keepAliveSeconds: number | undefined;

  // A head or trailer section: what came of it before, and where its lines stand.
  let held: Buffer[] = [];
  let heldBytes = 0;
  let afterCr = false;
  let lineIsEmpty = true;

  // A body: what is left of it or of its chunk, and the digits of a chunk size.
  let left = 0;
  let digits = 0;

  const beginSection = (next: 'head' | 'trailers'): void => {
    state = next;
    held = [];
    heldBytes = 0;
    afterCr = false;
    // An empty line ends a section; before the first line of a head it is a fault, which the status line shows.
    lineIsEmpty = next === 'trailers';
  };
  const beginSize = (): void => {
    state = 'size';
    left = 0;
    digits = 0;
  };
  const beginText = (): string => {
    const bytes = Buffer.concat(held);
    return bytes.toString('latin1', 0, Math.min(bytes.length, BEGIN_BYTES));
  };

  /** Looks for the empty line that ends a section from `at` on; -1 when it has not come. */
  const findEnd = (bytes: Buffer, at: number): number => {
    for (let index = at; index < bytes.length; index++) {
      const byte = bytes[index]!;
      if (byte === LF) {
        if (!afterCr) throw new ResponseFault('a line ends without CR', state === 'head' ? beginText() : '');
        afterCr = false;
        if (lineIsEmpty) return index + 1;
        lineIsEmpty = true;
      } else {
        if (afterCr) throw new ResponseFault('CR within a line');
        if (byte === CR) afterCr = true;
        else lineIsEmpty = false;
      }
    }
    return -1;
  };

  /** The text of the section that ends at `end` of `bytes`; undefined, and the bytes are kept, when it goes on. */
  const takeSection = (bytes: Buffer, at: number): { text: string; end: number } | undefined => {
    const isFirst = heldBytes === 0;
    const end = findEnd(bytes, at);
    const stop = end < 0 ? bytes.length : end;
    heldBytes += stop - at;
    if (heldBytes > limits.maxHeadBytes) throw new ResponseFault('a head or trailer section is too large');
    if (end >= 0 && isFirst) return { text: bytes.toString('latin1', at, end), end };
    // Copied: a piece that waits would hold the memory that it came in.
    held.push(Buffer.from(bytes.subarray(at, stop)));
    if (end < 0) return undefined;
    return { text: Buffer.concat(held).toString('latin1'), end };
  };

  const checkBegin = (text: string): void => {
    const seen = Math.min(text.length, BEGIN.length);
    if (text.slice(0, seen) !== BEGIN.slice(0, seen)) {
      throw new ResponseFault('this does not begin like a response', text.slice(0, BEGIN_BYTES));
    }
  };

  /** `rest`: bytes that came behind the response, which answer nothing that was asked. Returns how many it takes along. */
  const complete = (trailers: string[], rest: number): number => {
    const current = handler;
    state = 'idle';
    handler = undefined;
    // Before anybody sends the next request, which they would be taken for the answer to.
    if (rest > 0) isLast = true;
    current?.onEnd(trailers, isLast);
    return rest;
  };

  /** Returns how many of the bytes behind the head it takes along. */
  const onHead = (text: string, rest: Buffer): number => {
    const lineEnd = text.indexOf('\r\n');
    const [, minor, code, reason = ''] = STATUS_LINE.exec(text.slice(0, lineEnd)) ?? [];
    if (code === undefined) throw new ResponseFault('no status line', text.slice(0, BEGIN_BYTES));
    const head: ResponseHead = { status: Number(code), reason, headers: parseFields(text, lineEnd + 2) };
    const { status } = head;
    const framing = readFraming(head.headers);
    if (status === 101 && upgrade) {
      const current = handler;
      state = 'idle';
      handler = undefined;
      isLast = true;
      current?.onSwitch(head, rest);
      return rest.length;
    }
    if (status < 200) {
      beginSection('head');
      handler?.onInformation(head);
      return 0;
    }
    // RFC 9112 section 6.1: a 1.0 message with a coding is read, and nothing behind it is believed.
    isLast = framing.close || (minor === '0' && (!framing.keepAlive || framing.chunked));
    ({ keepAliveSeconds } = framing);
    if (hasNoBody(method, status)) {
      state = 'length';
      left = 0;
    } else if (framing.chunked) beginSize();
    else if (framing.length !== undefined) {
      state = 'length';
      left = framing.length;
    } else {
      state = 'until_end';
      isLast = true;
    }
    const hasEnded = state === 'length' && left === 0;
    handler?.onHead(head);
    return hasEnded ? complete([], rest.length) : 0;
  };

  /** One step at `at`; returns where the next begins. */
  const step = (bytes: Buffer, at: number): number => {
    switch (state) {
      case 'idle':
        throw new ResponseFault('bytes that belong to no response');
      case 'head': {
        if (heldBytes === 0) checkBegin(bytes.toString('latin1', at, at + BEGIN_BYTES));
        const section = takeSection(bytes, at);
        if (section) return section.end + onHead(section.text, bytes.subarray(section.end));
        if (heldBytes <= BEGIN_BYTES) checkBegin(beginText());
        return bytes.length;
      }
      case 'length':
      case 'chunk': {
        const piece = Math.min(left, bytes.length - at);
        left -= piece;
        handler?.onData(at === 0 && piece === bytes.length ? bytes : bytes.subarray(at, at + piece));
        at += piece;
        if (left > 0) return at;
        if (state === 'length') return at + complete([], bytes.length - at);
        state = 'chunk_cr';
        return at;
      }
      case 'until_end':
        handler?.onData(at === 0 ? bytes : bytes.subarray(at));
        return bytes.length;
      case 'trailers': {
        const section = takeSection(bytes, at);
        if (!section) return bytes.length;
        return section.end + complete(parseFields(section.text, 0), bytes.length - section.end);
      }
      default:
        stepInChunkLine(bytes[at]!);
        return at + 1;
    }
  };

  const stepInChunkLine = (byte: number): void => {
    switch (state) {
      case 'size': {
        const digit = hexDigit(byte);
        if (digit >= 0) {
          left = left * 16 + digit;
          if (++digits > MAX_SIZE_DIGITS) throw new ResponseFault('a chunk is too large');
        } else if (digits > 0 && byte === CR) state = 'size_end';
        else if (digits > 0 && byte === SEMICOLON) state = 'extension';
        else throw new ResponseFault('a chunk has no size');
        return;
      }
      case 'extension':
        if (byte === CR) state = 'size_end';
        else if (byte === LF || ++digits > MAX_CHUNK_EXTENSION_BYTES) throw new ResponseFault('a broken extension');
        return;
      case 'size_end':
        if (byte !== LF) throw new ResponseFault('a chunk size ends without LF');
        if (left > 0) state = 'chunk';
        else beginSection('trailers');
        return;
      case 'chunk_cr':
        if (byte !== CR) throw new ResponseFault('a chunk is longer than its size');
        state = 'chunk_end';
        return;
      case 'chunk_end':
        if (byte !== LF) throw new ResponseFault('a chunk ends without LF');
        beginSize();
        return;
      default:
        throw new TypeError(`${state} is not read byte by byte`);
    }
  };

  return {
    expect(request, given) {
      ({ method, upgrade } = request);
      handler = given;
      isLast = false;
      keepAliveSeconds = undefined;
      beginSection('head');
    },
    push(bytes) {
      for (let at = 0; at < bytes.length;) at = step(bytes, at);
    },
    end() {
      if (state === 'idle') return true;
      if (state !== 'until_end') return false;
      complete([], 0);
      return true;
    },
    isBusy: () => state !== 'idle',
    keepAliveSeconds: () => keepAliveSeconds,
  };
};
