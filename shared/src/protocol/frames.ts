/**
 * Frames of a lane, protocol version 1. All numbers are big-endian.
 *
 *     header, 8 bytes   stream id u32 | type u8 | payload length u24
 *
 *     0x01 OPEN    version u8 | kind u8 | flags u8 (bit 0: TLS) | hops u8 | port u16 |
 *                  allowance u32: bytes the opener may send before the STATUS, at most 64 KiB |
 *                  credit u32: bytes the other side may send |
 *                  three strings, each u8 length + bytes: environment id, request id, trace parent
 *     0x02 STATUS  status u8 | credit u32, on top of what is left of the allowance
 *     0x03 DATA    payload, at most 16 KiB
 *     0x04 WINDOW  credit u32, on top of what is left
 *     0x05 FIN     empty: the sender's direction ends
 *     0x06 RESET   code u8: both directions end at once
 *     0x07 MOVE    lane name u8: the sender's direction goes on there
 *
 * The first byte of a lane is its name (LANE_KIND) and comes before the first frame. Types from 0x40 on are skipped
 * when unknown, so that later versions can add frames that may be ignored; others close the leg.
 *
 *     opener                                 other side
 *       OPEN, DATA* (≤ allowance)  ────────►
 *                                  ◄────────  STATUS 0, DATA* (≤ credit)     or STATUS ≠ 0, and that is the end
 *       DATA*, WINDOW*             ◄───────►  DATA*, WINDOW*
 *       FIN                        ◄───────►  FIN                            or RESET, from either side, at any time
 */
import { STREAM_STATUS, RESET_CODE, type StreamStatus, type ResetCode } from '../errors.ts';
import { TARGET_KIND, type Target, type TargetKind } from './target.ts';

export const FRAME = {
  open: 0x01,
  status: 0x02,
  data: 0x03,
  window: 0x04,
  fin: 0x05,
  reset: 0x06,
  move: 0x07,
} as const;
/**
 * The first byte of a lane is its name: the kind in the high half, a number in the low half. Small lanes are opened by
 * the accepting side and used by both; bulk lanes are opened by the side that sends on them, and numbered by each.
 */
export const LANE_KIND = { small: 0x10, bulk: 0x20 } as const;
export const laneName = (kind: number, number: number): number => kind | number;
export const laneKind = (name: number): number => name & 0xf0;
export const laneNumber = (name: number): number => name & 0x0f;
const OPEN_VERSION = 1;

export const FRAME_HEADER_BYTES = 8;
/** Largest DATA payload: one turn of a stream, so that a fat stream holds a thin one up by at most this much. */
export const MAX_DATA_BYTES = 16 << 10;
/** Largest OPEN: 14 bytes and three strings of at most 64. */
const MAX_OPEN_BYTES = 14 + 3 * 65;
const MAX_STRING_BYTES = 64;
/** Largest payload of an unknown frame that is skipped. */
const MAX_SKIPPED_BYTES = 64 << 10;
/** First frame type that a receiver may skip. */
const FIRST_SKIPPABLE = 0x40;
const FLAG_TLS = 0x01;

/** Exact payload length of each fixed-size frame. */
const FIXED_LENGTH: Readonly<Record<number, number>> = {
  [FRAME.status]: 5,
  [FRAME.window]: 4,
  [FRAME.fin]: 0,
  [FRAME.reset]: 1,
  [FRAME.move]: 1,
};

/** The peer broke the framing; the leg closes with `protocol_error`. */
export class FrameError extends Error {
  override readonly name = 'FrameError';
}

const nameOf = <K extends string>(table: Readonly<Record<K, number>>): ReadonlyMap<number, K> =>
  new Map((Object.entries(table) as [K, number][]).map(([name, value]) => [value, name]));
const STATUS_NAMES = nameOf(STREAM_STATUS);
const RESET_NAMES = nameOf(RESET_CODE);
const KIND_NAMES = nameOf<TargetKind>(TARGET_KIND);

export interface OpenFrame {
  readonly target: Target;
  readonly allowance: number;
  readonly credit: number;
}

/** Writes the header at `offset` and returns where the payload begins. */
export const writeFrameHeader = (out: Buffer, offset: number, id: number, type: number, length: number): number => {
  out.writeUInt32BE(id, offset);
  out.writeUInt32BE(((type << 24) | length) >>> 0, offset + 4);
  return offset + FRAME_HEADER_BYTES;
};

const frame = (id: number, type: number, length: number): Buffer => {
  const out = Buffer.allocUnsafe(FRAME_HEADER_BYTES + length);
  writeFrameHeader(out, 0, id, type, length);
  return out;
};

/** Throws RangeError when a string of the target is longer than 64 bytes. */
export const encodeOpen = (id: number, { target, allowance, credit }: OpenFrame): Buffer => {
  const strings = [target.environmentId, target.requestId, target.traceParent].map((text) => Buffer.from(text, 'utf8'));
  if (strings.some((bytes) => bytes.length > MAX_STRING_BYTES))
    throw new RangeError('a string of an OPEN frame is longer than 64 bytes');
  const length = 14 + strings.reduce((sum, bytes) => sum + 1 + bytes.length, 0);
  const out = frame(id, FRAME.open, length);
  let at = FRAME_HEADER_BYTES;
  out[at++] = OPEN_VERSION;
  out[at++] = TARGET_KIND[target.kind];
  out[at++] = target.tls ? FLAG_TLS : 0;
  out[at++] = target.hops;
  at = out.writeUInt16BE(target.port, at);
  at = out.writeUInt32BE(allowance, at);
  at = out.writeUInt32BE(credit, at);
  for (const bytes of strings) {
    out[at++] = bytes.length;
    at += bytes.copy(out, at);
  }
  return out;
};

/** Throws FrameError. */
export const decodeOpen = (payload: Buffer): OpenFrame => {
  if (payload.length < 14) throw new FrameError('OPEN is too short');
  if (payload[0] !== OPEN_VERSION) throw new FrameError(`OPEN has version ${payload[0]}`);
  const kind = KIND_NAMES.get(payload[1] ?? 0);
  if (kind === undefined) throw new FrameError(`OPEN has target kind ${payload[1]}`);
  let at = 14;
  const text = (): string => {
    const length = payload[at] ?? MAX_STRING_BYTES + 1;
    if (length > MAX_STRING_BYTES || at + 1 + length > payload.length)
      throw new FrameError('OPEN has a string that does not fit');
    const value = payload.toString('utf8', at + 1, at + 1 + length);
    at += 1 + length;
    return value;
  };
  const target: Target = {
    kind,
    tls: ((payload[2] ?? 0) & FLAG_TLS) !== 0,
    hops: payload[3] ?? 0,
    port: payload.readUInt16BE(4),
    environmentId: text(),
    requestId: text(),
    traceParent: text(),
  };
  if (at !== payload.length) throw new FrameError('OPEN has bytes behind its end');
  return { target, allowance: payload.readUInt32BE(6), credit: payload.readUInt32BE(10) };
};

export const encodeStatus = (id: number, status: StreamStatus, credit: number): Buffer => {
  const out = frame(id, FRAME.status, 5);
  out[FRAME_HEADER_BYTES] = STREAM_STATUS[status];
  out.writeUInt32BE(credit, FRAME_HEADER_BYTES + 1);
  return out;
};

export const encodeWindow = (id: number, credit: number): Buffer => {
  const out = frame(id, FRAME.window, 4);
  out.writeUInt32BE(credit, FRAME_HEADER_BYTES);
  return out;
};

export const encodeFin = (id: number): Buffer => frame(id, FRAME.fin, 0);

export const encodeReset = (id: number, code: ResetCode): Buffer => {
  const out = frame(id, FRAME.reset, 1);
  out[FRAME_HEADER_BYTES] = RESET_CODE[code];
  return out;
};

export const encodeMove = (id: number, lane: number): Buffer => {
  const out = frame(id, FRAME.move, 1);
  out[FRAME_HEADER_BYTES] = lane;
  return out;
};

/** What a decoder tells of a lane, in order. A callback may throw: the error comes out of `push`. */
export interface FrameHandlers {
  open(id: number, open: OpenFrame): void;
  /** An unknown status counts as `refused`, so that later versions can add some. */
  status(id: number, status: StreamStatus, credit: number): void;
  /** A piece of a DATA frame, without copying: `bytes` is a view of `chunk`, what was pushed. */
  data(id: number, bytes: Buffer, chunk: Uint8Array): void;
  window(id: number, credit: number): void;
  fin(id: number): void;
  reset(id: number, code: ResetCode): void;
  move(id: number, lane: number): void;
}

export interface FrameDecoder {
  /** Throws FrameError; the decoder is of no use after that. */
  push(chunk: Uint8Array): void;
}

const NOTHING_GATHERED = Buffer.alloc(0);

export const createFrameDecoder = (handlers: FrameHandlers): FrameDecoder => {
  // Header and payload of small frames are gathered here when a chunk ends within them.
  let gathered: Buffer = NOTHING_GATHERED;
  let have = 0;
  /** Bytes of DATA (or of a skipped frame) still to come, of stream `dataId`. */
  let remaining = 0;
  let dataId = 0;
  let skipping = false;

  const checkHeader = (type: number, length: number): void => {
    if (type === FRAME.data) {
      if (length > MAX_DATA_BYTES) throw new FrameError(`DATA of ${length} bytes`);
    } else if (type === FRAME.open) {
      if (length > MAX_OPEN_BYTES) throw new FrameError(`OPEN of ${length} bytes`);
    } else if (type >= FIRST_SKIPPABLE) {
      if (length > MAX_SKIPPED_BYTES) throw new FrameError(`frame of type ${type} with ${length} bytes`);
    } else if (FIXED_LENGTH[type] !== length) {
      throw new FrameError(`frame of type ${type} with ${length} bytes`);
    }
  };

  const small = (id: number, type: number, payload: Buffer): void => {
    switch (type) {
      case FRAME.open:
        return handlers.open(id, decodeOpen(payload));
      case FRAME.status:
        return handlers.status(id, STATUS_NAMES.get(payload[0] ?? 0) ?? 'refused', payload.readUInt32BE(1));
      case FRAME.window:
        return handlers.window(id, payload.readUInt32BE(0));
      case FRAME.fin:
        return handlers.fin(id);
      case FRAME.reset:
        return handlers.reset(id, RESET_NAMES.get(payload[0] ?? 0) ?? 'internal');
      case FRAME.move:
        return handlers.move(id, payload[0] ?? 0);
    }
  };

  /** Takes one frame that begins at `at`, or as much of it as is there; returns where the next one begins. */
  const frameAt = (chunk: Buffer, at: number): number => {
    const headEnd = at + FRAME_HEADER_BYTES;
    if (headEnd > chunk.length) return gather(chunk, at);
    const id = chunk.readUInt32BE(at);
    const word = chunk.readUInt32BE(at + 4);
    const type = word >>> 24;
    const length = word & 0xff_ffff;
    checkHeader(type, length);
    if (type === FRAME.data || type >= FIRST_SKIPPABLE) {
      dataId = id;
      remaining = length;
      skipping = type !== FRAME.data;
      return headEnd;
    }
    if (headEnd + length > chunk.length) return gather(chunk, at);
    small(id, type, chunk.subarray(headEnd, headEnd + length));
    return headEnd + length;
  };

  const gather = (chunk: Buffer, at: number): number => {
    if (gathered.length === 0) gathered = Buffer.allocUnsafe(FRAME_HEADER_BYTES + MAX_OPEN_BYTES);
    have += chunk.copy(gathered, have, at);
    return chunk.length;
  };

  /** Completes the frame whose beginning was gathered; returns where the next one begins. */
  const complete = (chunk: Buffer): number => {
    let at = 0;
    if (have < FRAME_HEADER_BYTES) {
      at = chunk.copy(gathered, have, 0, FRAME_HEADER_BYTES - have);
      have += at;
      if (have < FRAME_HEADER_BYTES) return at;
    }
    const type = gathered[4] ?? 0;
    const length = gathered.readUInt32BE(4) & 0xff_ffff;
    checkHeader(type, length);
    if (type !== FRAME.data && type < FIRST_SKIPPABLE) {
      const taken = chunk.copy(gathered, have, at, at + FRAME_HEADER_BYTES + length - have);
      have += taken;
      at += taken;
      if (have < FRAME_HEADER_BYTES + length) return at;
    }
    have = 0;
    frameAt(
      gathered.subarray(0, FRAME_HEADER_BYTES + (type === FRAME.data || type >= FIRST_SKIPPABLE ? 0 : length)),
      0,
    );
    return at;
  };

  return {
    push(bytes) {
      const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      let at = have > 0 ? complete(chunk) : 0;
      while (at < chunk.length) {
        if (remaining > 0) {
          const end = Math.min(at + remaining, chunk.length);
          remaining -= end - at;
          if (!skipping) handlers.data(dataId, chunk.subarray(at, end), bytes);
          at = end;
        } else {
          at = frameAt(chunk, at);
        }
      }
    },
  };
};
