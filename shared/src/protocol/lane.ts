/**
 * A lane: one transport stream that carries frames of many tunnel streams. It is always read at once; what a peer may
 * send is bounded by the credit of each tunnel stream, never by the transport.
 */
import type { TransportStream } from '../transport/connection.ts';
import type { BulkTurns } from './bulk-turns.ts';
import {
  FRAME,
  FRAME_HEADER_BYTES,
  MAX_DATA_BYTES,
  createFrameDecoder,
  writeFrameHeader,
  type FrameHandlers,
} from './frames.ts';
import { MAX_BATCH_BYTES, MAX_QUEUED_FRAMES } from './limits.ts';

/** The largest batch: one that was not yet full, and one more DATA frame, or small frame. */
const BATCH_MEMORY_BYTES = MAX_BATCH_BYTES + FRAME_HEADER_BYTES + MAX_DATA_BYTES;
/** What is worked on in one turn of bulk, bytes: some 0.5 ms, for which what comes on small lanes may have to wait. */
const BULK_TURN_BYTES = 64 << 10;
/** Smaller batches get memory of their own size; fresh memory for each large one costs more than to fill it. */
const REUSED_FROM_BYTES = 16 << 10;

/** A tunnel stream, as the lane that sends for it sees it. */
export interface LaneSource {
  readonly id: number;
  /** Sources of one environment share its turns. */
  readonly turnKey: string;
  /** The next bytes to send on `lane`, at most `maxBytes` and within credit; undefined when there are none for it now. */
  takePayload(lane: Lane, maxBytes: number): Uint8Array | undefined;
  /** Whether `takePayload` would give something. */
  hasPayload(lane: Lane): boolean;
}

export interface Lane {
  readonly name: number;
  /** Tunnel streams that send on this lane. */
  streams: number;
  /** Sends a small frame ahead of all DATA, in the order of the calls. */
  control(frame: Uint8Array): void;
  /** `source` has something to send. It stays in the rounds until it has nothing left. */
  ready(source: LaneSource): void;
  /**
   * Reads until the lane ends. Resolves at a clean end; rejects with FrameError, TransportError, or what a handler
   * threw.
   */
  run(handlers: FrameHandlers): Promise<void>;
}

const ignore = (): void => {};

export interface LaneOptions {
  /** Goes out before the first frame. */
  readonly first?: Uint8Array | undefined;
  /** Present for a bulk lane: what it reads and writes is worked on when it is bulk's turn. */
  readonly bulkTurns?: BulkTurns | undefined;
}

interface Turn {
  readonly key: string;
  readonly sources: LaneSource[];
}

export const createLane = (
  name: number,
  stream: TransportStream,
  onFailure: (error: unknown) => void,
  { first, bulkTurns }: LaneOptions,
): Lane => {
  const frames: Uint8Array[] = first ? [first] : [];
  /** One turn an environment, in the order of the rounds; `turns` finds it by key. */
  const rounds: Turn[] = [];
  const turns = new Map<string, Turn>();
  const waiting = new Set<LaneSource>();
  let memory: Buffer | undefined;
  let scheduled = false;
  let writing = false;
  let failed = false;

  /** Small frames first, in their order; those beyond a batch wait for the next. */
  const drainFrames = (parts: Uint8Array[], room: number): number => {
    let bytes = 0;
    let count = 0;
    while (count < frames.length && bytes < room) {
      const frame = frames[count++]!;
      parts.push(frame);
      bytes += frame.byteLength;
    }
    if (count === frames.length) frames.length = 0;
    else frames.splice(0, count);
    return bytes;
  };

  /** Adds one DATA frame of the next source; 0 when nobody has anything. */
  const nextTurn = (parts: Uint8Array[]): number => {
    for (;;) {
      const turn = rounds.shift();
      if (!turn) return 0;
      const source = turn.sources.shift();
      const payload = source?.takePayload(lane, MAX_DATA_BYTES);
      if (source && payload) {
        const header = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
        writeFrameHeader(header, 0, source.id, FRAME.data, payload.byteLength);
        parts.push(header, payload);
      }
      if (source) {
        if (source.hasPayload(lane)) turn.sources.push(source);
        else waiting.delete(source);
      }
      if (turn.sources.length > 0) rounds.push(turn);
      else turns.delete(turn.key);
      if (payload) return FRAME_HEADER_BYTES + payload.byteLength;
    }
  };

  /** Copies a batch, since writers reuse their memory: a large one into memory that the transport is done with. */
  const join = (parts: readonly Uint8Array[], bytes: number): Buffer => {
    if (bytes < REUSED_FROM_BYTES) return Buffer.concat(parts, bytes);
    memory ??= Buffer.allocUnsafeSlow(BATCH_MEMORY_BYTES);
    let at = 0;
    for (const part of parts) {
      memory.set(part, at);
      at += part.byteLength;
    }
    return memory.subarray(0, bytes);
  };

  /** Whatever is to be sent now: small frames first, then DATA round robin. */
  const nextBatch = (): Buffer | undefined => {
    const parts: Uint8Array[] = [];
    let bytes = drainFrames(parts, MAX_BATCH_BYTES);
    // DATA must not overtake an OPEN that waits.
    while (bytes < MAX_BATCH_BYTES && frames.length === 0) {
      const added = nextTurn(parts);
      if (added === 0) break;
      bytes += added;
    }
    // A stream that gave its last byte ends in the same batch.
    bytes += drainFrames(parts, MAX_BATCH_BYTES - bytes);
    return bytes === 0 ? undefined : join(parts, bytes);
  };

  const pump = async (): Promise<void> => {
    writing = true;
    try {
      for (;;) {
        const wait = bulkTurns?.standBack();
        if (wait) await wait;
        const batch = failed ? undefined : nextBatch();
        if (!batch) break;
        await stream.write(batch);
      }
    } catch (error) {
      failed = true;
      onFailure(error);
    }
    writing = false;
    // An idle leg holds none of it.
    memory = undefined;
  };

  const schedule = (): void => {
    if (scheduled || writing || failed) return;
    scheduled = true;
    // Behind all callbacks of this turn of the event loop: what they write leaves together.
    setImmediate(() => {
      scheduled = false;
      void pump();
    });
  };
  if (first) schedule();

  const lane: Lane = {
    name,
    streams: 0,
    control(frame) {
      if (failed) return;
      frames.push(frame);
      if (frames.length > MAX_QUEUED_FRAMES) {
        failed = true;
        onFailure(new Error('the peer does not read its lane'));
        return;
      }
      schedule();
    },
    ready(source) {
      if (failed || waiting.has(source)) return;
      waiting.add(source);
      let turn = turns.get(source.turnKey);
      if (!turn) {
        turn = { key: source.turnKey, sources: [] };
        turns.set(source.turnKey, turn);
        rounds.push(turn);
      }
      turn.sources.push(source);
      schedule();
    },
    async run(handlers) {
      const decoder = createFrameDecoder(handlers);
      let next = stream.read();
      /** One chunk, false at the end. In a call of its own, so that no variable holds it while the next is awaited. */
      const step = async (): Promise<boolean> => {
        const chunk = await next;
        if (chunk === null) return false;
        // The transport reads the next chunk while this one is worked on.
        next = stream.read();
        next.catch(ignore);
        if (!bulkTurns) decoder.push(chunk);
        else {
          for (let at = 0; at < chunk.byteLength; at += BULK_TURN_BYTES) {
            await bulkTurns.nextPiece();
            decoder.push(chunk.subarray(at, at + BULK_TURN_BYTES));
          }
        }
        return true;
      };
      while (await step());
    },
  };
  return lane;
};
