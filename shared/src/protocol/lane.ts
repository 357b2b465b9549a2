/**
 * A lane: one transport stream that carries frames of many tunnel streams. It is always read at once; what a peer may
 * send is bounded by the credit of each tunnel stream, never by the transport.
 */
import type { TransportStream } from '../transport/connection.ts';
import {
  FRAME,
  FRAME_HEADER_BYTES,
  MAX_DATA_BYTES,
  createFrameDecoder,
  writeFrameHeader,
  type FrameHandlers,
} from './frames.ts';
import { MAX_BATCH_BYTES, MAX_QUEUED_FRAMES } from './limits.ts';

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
  /** Reads until the lane ends. Resolves at a clean end; rejects with FrameError, TransportError, or what a handler threw. */
  run(handlers: FrameHandlers): Promise<void>;
}

interface Turn {
  readonly key: string;
  readonly sources: LaneSource[];
}

export const createLane = (
  name: number,
  stream: TransportStream,
  onFailure: (error: unknown) => void,
  first?: Uint8Array,
): Lane => {
  const frames: Uint8Array[] = first ? [first] : [];
  /** One turn an environment, in the order of the rounds; `turns` finds it by key. */
  const rounds: Turn[] = [];
  const turns = new Map<string, Turn>();
  const waiting = new Set<LaneSource>();
  let scheduled = false;
  let writing = false;
  let failed = false;

  const drainFrames = (parts: Uint8Array[]): number => {
    let bytes = 0;
    for (const frame of frames) {
      parts.push(frame);
      bytes += frame.byteLength;
    }
    frames.length = 0;
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

  /** Whatever is to be sent now: small frames first, then DATA round robin. Copied once, since writers reuse memory. */
  const nextBatch = (): Buffer | undefined => {
    const parts: Uint8Array[] = [];
    let bytes = drainFrames(parts);
    while (bytes < MAX_BATCH_BYTES) {
      const added = nextTurn(parts);
      if (added === 0) break;
      bytes += added;
    }
    // A stream that wrote its last byte in this batch ends in it too.
    bytes += drainFrames(parts);
    return bytes === 0 ? undefined : Buffer.concat(parts, bytes);
  };

  const pump = async (): Promise<void> => {
    writing = true;
    try {
      for (let batch = nextBatch(); batch && !failed; batch = nextBatch()) await stream.write(batch);
    } catch (error) {
      failed = true;
      onFailure(error);
    }
    writing = false;
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
      for (;;) {
        const chunk = await stream.read();
        if (chunk === null) return;
        decoder.push(chunk);
      }
    },
  };
  return lane;
};
