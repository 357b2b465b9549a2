/**
 * HTTP/2 frames written by hand (RFC 9113), with header blocks that no library would send. HPACK (RFC 7541) in its
 * simplest form: literals without indexing and without Huffman coding.
 */
import type { TLSSocket } from 'node:tls';

export const FRAME_TYPE = {
  data: 0,
  headers: 1,
  priority: 2,
  rstStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;
export const FLAG = { endStream: 1, ack: 1, endHeaders: 4, padded: 8, priority: 32 } as const;
const HEADER_BYTES = 9;
const SETTING_HEADER_TABLE_SIZE = 1;
const STATUSES = [200, 204, 206, 304, 400, 404, 500];

export const frame = (type: number, flags: number, streamId: number, payload: Uint8Array = Buffer.alloc(0)): Buffer => {
  const head = Buffer.alloc(HEADER_BYTES);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(streamId, 5);
  return Buffer.concat([head, payload]);
};
export const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};
export const setting = (id: number, value: number): Buffer => Buffer.concat([Buffer.from([0, id]), uint32(value)]);

/** RFC 7541 section 5.1, with the bits of `first` above the prefix. */
const integer = (value: number, prefixBits: number, first = 0): Buffer => {
  const most = 2 ** prefixBits - 1;
  if (value < most) return Buffer.from([first | value]);
  const bytes = [first | most];
  let rest = value - most;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  return Buffer.from([...bytes, rest]);
};
const text = (value: string): Buffer => {
  const bytes = Buffer.from(value, 'latin1');
  return Buffer.concat([integer(bytes.length, 7), bytes]);
};
export type Fields = readonly (readonly [name: string, value: string])[];
/** `indexed`: the decoder keeps each field in its table. */
export const headerBlock = (fields: Fields, { indexed = false } = {}): Buffer =>
  Buffer.concat(fields.flatMap(([name, value]) => [Buffer.from([indexed ? 0x40 : 0]), text(name), text(value)]));
/** A reference to a field of the decoder's table; those that were put there last begin at 62. */
export const indexedField = (index: number): Buffer => integer(index, 7, 0x80);
export const tableSizeUpdate = (bytes: number): Buffer => integer(bytes, 5, 0x20);

/** The digits of a Huffman-coded status (RFC 7541 appendix B): 0 to 2 have five bits, 3 to 9 six. */
const huffmanDigits = (bytes: Buffer): string => {
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  let digits = '';
  for (let at = 0; digits.length < 3;) {
    const five = Number.parseInt(bits.slice(at, at + 5), 2);
    const isShort = five <= 2;
    digits += isShort ? five : Number.parseInt(bits.slice(at, at + 6), 2) - 0x19 + 3;
    at += isShort ? 5 : 6;
  }
  return digits;
};
/** `:status`, which comes first; the server is told to keep no table. */
const statusIn = (block: Buffer): number => {
  let at = 0;
  while ((block[at]! & 0xe0) === 0x20) at += 1;
  const first = block[at]!;
  if (first >= 0x88 && first <= 0x8e) return STATUSES[first - 0x88]!;
  const length = block[at + 1]! & 0x7f;
  const value = block.subarray(at + 2, at + 2 + length);
  return Number((block[at + 1]! & 0x80) === 0 ? value.toString('latin1') : huffmanDigits(value));
};

export interface RawAnswer {
  /** Undefined: there was no response. */
  status: number | undefined;
  body: string;
  /** Error code of RST_STREAM; undefined: the stream ended, or the connection did. */
  reset: number | undefined;
  ended: boolean;
}

export interface RawHttp2 {
  readonly socket: TLSSocket;
  /** Error code of GOAWAY, once it came. */
  goaway: number | undefined;
  /** The last stream that the latest GOAWAY lets pass. */
  lastStreamId: number | undefined;
  readonly closed: Promise<unknown>;
  /** PING and SETTINGS acknowledgements that came. */
  readonly acknowledged: { ping: number; settings: number };
  write(...parts: Uint8Array[]): boolean;
  /** The next stream id of a client. */
  nextId(): number;
  /** Sends a header block as the head of a new stream. */
  open(block: Uint8Array, options?: { endStream?: boolean }): number;
  /** What was answered on a stream; resolves when the stream or the connection is over. */
  answer(streamId: number): Promise<RawAnswer>;
  /** The same, as far as it has come. */
  soFar(streamId: number): Readonly<RawAnswer>;
}

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

/** Speaks HTTP/2 on a TLS connection: preface, acknowledgements, windows; everything else is the test's. */
export const startRawHttp2 = (socket: TLSSocket, options: { readonly windows?: boolean } = {}): RawHttp2 => {
  const answers = new Map<number, { answer: RawAnswer; settled: PromiseWithResolvers<RawAnswer> }>();
  let pending = Buffer.alloc(0);
  let lastId = -1;
  const entry = (id: number) => {
    let found = answers.get(id);
    if (!found) {
      const answer: RawAnswer = { status: undefined, body: '', reset: undefined, ended: false };
      found = { answer, settled: Promise.withResolvers() };
      answers.set(id, found);
    }
    return found;
  };
  const settle = (id: number): void => entry(id).settled.resolve(entry(id).answer);
  const take = (type: number, flags: number, id: number, payload: Buffer): void => {
    const { answer } = entry(id);
    if (type === FRAME_TYPE.headers) answer.status ??= statusIn(payload);
    else if (type === FRAME_TYPE.data) {
      answer.body += payload.toString('latin1');
      if (payload.length > 0 && options.windows !== false) {
        const grown = uint32(payload.length);
        raw.write(frame(FRAME_TYPE.windowUpdate, 0, 0, grown), frame(FRAME_TYPE.windowUpdate, 0, id, grown));
      }
    } else if (type === FRAME_TYPE.rstStream) {
      answer.reset = payload.readUInt32BE();
      settle(id);
    } else if (type === FRAME_TYPE.goaway) {
      raw.lastStreamId = payload.readUInt32BE(0);
      raw.goaway = payload.readUInt32BE(4);
    } else if (type === FRAME_TYPE.settings && (flags & FLAG.ack) === 0)
      raw.write(frame(FRAME_TYPE.settings, FLAG.ack, 0));
    else if (type === FRAME_TYPE.settings) raw.acknowledged.settings += 1;
    else if (type === FRAME_TYPE.ping && (flags & FLAG.ack) !== 0) raw.acknowledged.ping += 1;
    if ((type === FRAME_TYPE.headers || type === FRAME_TYPE.data) && (flags & FLAG.endStream) !== 0) {
      answer.ended = true;
      settle(id);
    }
  };
  const raw: RawHttp2 = {
    socket,
    goaway: undefined,
    lastStreamId: undefined,
    closed: new Promise((resolve) => void socket.once('close', resolve)),
    acknowledged: { ping: 0, settings: 0 },
    write: (...parts) => socket.writable && socket.write(Buffer.concat(parts)),
    nextId: () => (lastId += 2),
    open(block, { endStream = true } = {}) {
      const id = raw.nextId();
      raw.write(frame(FRAME_TYPE.headers, FLAG.endHeaders | (endStream ? FLAG.endStream : 0), id, block));
      return id;
    },
    answer(id) {
      if (socket.destroyed) settle(id);
      return entry(id).settled.promise;
    },
    soFar: (id) => entry(id).answer,
  };
  socket.on('error', () => undefined);
  socket.once('end', () => socket.destroy());
  socket.once('close', () => {
    for (const id of answers.keys()) settle(id);
  });
  socket.on('data', (chunk: Buffer) => {
    pending = Buffer.concat([pending, chunk]);
    while (pending.length >= HEADER_BYTES) {
      const length = pending.readUIntBE(0, 3);
      if (pending.length < HEADER_BYTES + length) return;
      take(pending[3]!, pending[4]!, pending.readUInt32BE(5), pending.subarray(HEADER_BYTES, HEADER_BYTES + length));
      pending = pending.subarray(HEADER_BYTES + length);
    }
  });
  raw.write(PREFACE, frame(FRAME_TYPE.settings, 0, 0, setting(SETTING_HEADER_TABLE_SIZE, 0)));
  return raw;
};
