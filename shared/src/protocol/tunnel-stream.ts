/** A tunnel stream: a Duplex whose two directions are bounded by credit. */
import { Duplex } from 'node:stream';
import {
  StreamRefusedError,
  StreamResetError,
  type ResetCode,
  type StreamRefusal,
  type StreamStatus,
} from '../errors.ts';
import { createByteQueue, type ByteQueue } from './byte-queue.ts';
import type { Lane, LaneSource } from './lane.ts';
import type { IncomingTunnelStream, Leg, TunnelStream } from './leg.ts';
import { MAX_BATCH_BYTES, STREAM_BUFFER_BYTES, type LegLimits } from './limits.ts';
import { encodeFin, encodeMove } from './frames.ts';
import type { Target } from './target.ts';

/** What a stream needs of its leg. */
export interface StreamHost {
  readonly leg: Leg;
  /** The bulk lane that a direction may move to now, if there is one. */
  bulkLane(): Lane | undefined;
  sendStatus(stream: LegStream, status: StreamStatus, credit: number): void;
  sendWindow(stream: LegStream, credit: number): void;
  sendReset(stream: LegStream, code: ResetCode): void;
  /** Both directions are over: nothing more is sent or taken for the id. */
  forget(stream: LegStream): void;
  /**
   * The credit of a stream that has received so much wants to grow by `bytes`, to `window`; false when the leg has
   * granted enough.
   */
  mayGrant(bytes: number, window: number, received: number): boolean;
  /** A stream that is not bulk has sent or received something. */
  onSmall(): void;
  /** Round-trip time of the leg in ms. */
  rttMs(): number;
  monotonic(): number;
  readonly limits: LegLimits;
}

export interface StreamSetup {
  readonly id: number;
  /** The lane of its OPEN. */
  readonly lane: Lane;
  readonly target: Target;
  readonly opener: boolean;
  /** Bytes this side may send at once. */
  readonly sendCredit: number;
  /** Bytes the peer may send at once. */
  readonly receiveCredit: number;
  /** Bytes the peer may have under way once the stream is connected; `receiveCredit` at the opener. */
  readonly window: number;
}

/** What came on a lane during one stay there, before the lane became current, and how the direction left it again. */
interface EarlyStay {
  readonly bytes: ByteQueue;
  then: number | 'fin' | undefined;
}
/** Stays on one lane that may wait for their MOVE. A direction moves at most once a second; more is a broken peer. */
const MAX_EARLY_STAYS = 8;

/** Chunks of a writer that wait for the lane; beyond it the writer waits. A batch of 16 KiB chunks has eight. */
const MAX_QUEUED_CHUNKS = 64;

const ignore = (): void => {};

export class LegStream extends Duplex implements TunnelStream, IncomingTunnelStream, LaneSource {
  readonly id: number;
  readonly target: Target;
  readonly turnKey: string;
  readonly connected: Promise<void>;
  bytesSent = 0;
  bytesReceived = 0;
  /** Credit this side has given the peer in all, counted by the leg. */
  window: number;

  /** The small lane of its OPEN: everything but DATA, MOVE and FIN goes there. */
  readonly lane: Lane;
  /** Where this side's direction goes on. */
  sendLane: Lane;

  readonly #host: StreamHost;
  readonly #opener: boolean;
  #settle: { resolve: () => void; reject: (error: Error) => void } | undefined;

  // Sending: chunks wait until the lane takes them. The writer is called back at once while they are less than a batch,
  // so that small chunks leave together; after that, when the lane has taken enough.
  readonly #chunks: Uint8Array[] = [];
  #offset = 0;
  #queuedBytes = 0;
  #sendCredit: number;
  /** Monotonic ms when the credit was last used up; a second time within `bulkAfterMs` makes the direction bulk. */
  #exhaustedAt = -Infinity;
  #isBulk = false;
  /** Monotonic ms of the last write; after `bulkIdleMs` without one the direction is no longer bulk. */
  #lastSentAt = 0;
  #sentSinceIdle = 0;
  #written: ((error?: Error | null) => void) | undefined;
  /** Called back when the last chunk has gone out, and FIN behind it. */
  #final: ((error?: Error | null) => void) | undefined;
  #finSent = false;

  // Receiving: what the reader has not asked for waits here, within credit.
  readonly #arrived = createByteQueue();
  /** Name of the lane on which the peer's direction goes on. */
  #receiveLane: number;
  /** What came on other lanes before the MOVE that names them: DATA overtakes it under load. */
  #early: Map<number, EarlyStay[]> | undefined;
  #receiveCredit: number;
  readonly #creditOnAccept: number;
  #owed = 0;
  #wanted = false;
  #finReceived = false;
  #endPushed = false;
  #growthMark: number;
  #consumedSinceMark = 0;

  #answered = false;
  #over = false;

  constructor(host: StreamHost, setup: StreamSetup) {
    super({ allowHalfOpen: true, highWaterMark: STREAM_BUFFER_BYTES });
    this.#host = host;
    this.id = setup.id;
    this.target = setup.target;
    this.lane = setup.lane;
    this.sendLane = setup.lane;
    this.#receiveLane = setup.lane.name;
    this.turnKey = setup.target.environmentId;
    this.#opener = setup.opener;
    this.#sendCredit = setup.sendCredit;
    this.#receiveCredit = setup.receiveCredit;
    this.window = setup.window;
    this.#creditOnAccept = setup.window - setup.receiveCredit;
    this.#growthMark = host.monotonic();
    this.connected = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.connected.catch(ignore);
    // Without a listener the error of a stream that nobody looks at any more would end the process.
    this.on('error', ignore);
  }

  get leg(): Leg {
    return this.#host.leg;
  }

  accept(): void {
    if (this.#opener || this.#answered || this.#over) return;
    this.#answered = true;
    this.#receiveCredit += this.#creditOnAccept;
    this.#host.sendStatus(this, 'connected', this.#creditOnAccept);
    this.#settle?.resolve();
    this.#resume();
  }

  refuse(code: StreamRefusal): void {
    if (this.#opener || this.#answered || this.#over) return;
    this.#answered = true;
    this.#host.sendStatus(this, code, 0);
    this.#end(new StreamRefusedError(code));
  }

  reset(code: ResetCode): void {
    if (this.#over) return;
    this.#host.sendReset(this, code);
    this.#end(new StreamResetError(code, 'local'));
  }

  // ---- frames from the peer; each returns false when the peer may not send it now

  onStatus(status: StreamStatus, credit: number): boolean {
    if (!this.#opener || this.#answered) return false;
    this.#answered = true;
    if (status === 'connected') {
      this.#settle?.resolve();
      this.onWindow(credit);
    } else {
      this.#end(new StreamRefusedError(status));
    }
    return true;
  }

  /** False: the peer sent more than its credit. */
  onData(bytes: Buffer, chunk: Uint8Array, lane: number): boolean {
    if (bytes.length > this.#receiveCredit || this.#finReceived) return false;
    this.#receiveCredit -= bytes.length;
    this.bytesReceived += bytes.length;
    // Answers to requests, however many on a kept connection, are not bulk.
    this.#sentSinceIdle = 0;
    if (lane === this.lane.name) this.#host.onSmall();
    if (lane === this.#receiveLane) this.#deliver(bytes, chunk);
    else this.#earlyStay(lane)?.bytes.push(bytes, chunk);
    return true;
  }

  /** False: the direction has ended, or left this lane in another way already. */
  onMove(to: number, lane: number): boolean {
    if (this.#finReceived || to === lane) return false;
    if (lane !== this.#receiveLane) return this.#leaveEarly(lane, to);
    this.#receiveLane = to;
    const stay = this.#early?.get(to)?.shift();
    if (!stay) return true;
    for (let bytes = stay.bytes.shift(); bytes; bytes = stay.bytes.shift()) this.#deliver(bytes, bytes);
    if (stay.then === undefined) return true;
    return stay.then === 'fin' ? this.onFin(to) : this.onMove(stay.then, to);
  }

  /** False: the direction ended twice. */
  onFin(lane: number): boolean {
    if (this.#finReceived) return false;
    if (lane !== this.#receiveLane) return this.#leaveEarly(lane, 'fin');
    this.#finReceived = true;
    if (this.#arrived.isEmpty()) this.#pushEnd();
    this.#checkOver();
    return true;
  }

  onWindow(credit: number): boolean {
    this.#sendCredit += credit;
    if (this.#sendCredit > Number.MAX_SAFE_INTEGER) return false;
    if (this.#isBulk && this.sendLane === this.lane) this.#moveTo(this.#host.bulkLane());
    this.#resume();
    return true;
  }

  onReset(code: ResetCode): void {
    this.#end(new StreamResetError(code, 'remote'));
  }

  onLegClosed(error: Error): void {
    this.#end(error);
  }

  // ---- LaneSource

  hasPayload(lane: Lane): boolean {
    return lane === this.sendLane && this.#chunks.length > 0 && this.#sendCredit > 0 && !this.#over;
  }

  takePayload(lane: Lane, maxBytes: number): Uint8Array | undefined {
    const chunk = this.#chunks[0];
    if (!chunk || !this.hasPayload(lane)) return undefined;
    const length = Math.min(maxBytes, this.#sendCredit, chunk.byteLength - this.#offset);
    const payload = chunk.subarray(this.#offset, this.#offset + length);
    if (!this.#isBulk) this.#host.onSmall();
    this.#sendCredit -= length;
    this.bytesSent += length;
    this.#offset += length;
    this.#queuedBytes -= length;
    this.#sentSinceIdle += length;
    if (this.#sendCredit === 0) this.#exhausted();
    if (this.#sentSinceIdle >= this.#host.limits.bulkAfterBytes) this.#isBulk = true;
    if (this.#offset === chunk.byteLength) {
      this.#offset = 0;
      this.#chunks.shift();
    }
    if (this.#written && this.#hasRoom()) {
      process.nextTick(this.#written);
      this.#written = undefined;
    }
    // What is said here goes out behind the payload.
    if (this.#final && this.#chunks.length === 0) this.#finish(this.#final);
    return payload;
  }

  // ---- Duplex

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#send([{ chunk }], callback);
  }

  override _writev(chunks: { chunk: Buffer }[], callback: (error?: Error | null) => void): void {
    this.#send(chunks, callback);
  }

  #send(chunks: readonly { chunk: Buffer }[], callback: (error?: Error | null) => void): void {
    if (this.#chunks.length === 0) {
      const now = this.#host.monotonic();
      if (now - this.#lastSentAt >= this.#host.limits.bulkIdleMs) this.#leaveBulk();
      this.#lastSentAt = now;
    }
    for (const { chunk } of chunks) {
      if (chunk.length === 0) continue;
      this.#chunks.push(chunk);
      this.#queuedBytes += chunk.length;
    }
    if (this.#hasRoom()) callback();
    else this.#written = callback;
    this.#resume();
  }

  /** Whether the writer need not wait. A tiny chunk costs far more than its bytes, so they are counted too. */
  #hasRoom(): boolean {
    return this.#queuedBytes < MAX_BATCH_BYTES && this.#chunks.length < MAX_QUEUED_CHUNKS;
  }

  override _final(callback: (error?: Error | null) => void): void {
    if (this.#over || this.#chunks.length === 0) this.#finish(callback);
    else this.#final = callback;
  }

  #finish(callback: (error?: Error | null) => void): void {
    this.#final = undefined;
    if (!this.#over) {
      this.#finSent = true;
      this.sendLane.control(encodeFin(this.id));
      this.#checkOver();
    }
    process.nextTick(callback);
  }

  override _read(): void {
    this.#wanted = true;
    while (this.#wanted) {
      const bytes = this.#arrived.shift();
      if (!bytes) break;
      this.#wanted = this.push(bytes);
      this.#consumed(bytes.length);
    }
    if (this.#finReceived && this.#arrived.isEmpty()) this.#pushEnd();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    if (!this.#over) {
      this.#host.sendReset(this, 'cancelled');
      this.#over = true;
      this.#host.forget(this);
    }
    this.#settle?.reject(error ?? new StreamResetError('cancelled', 'local'));
    this.#chunks.length = 0;
    this.#early = undefined;
    while (this.#arrived.shift());
    const cancelled = error ?? new StreamResetError('cancelled', 'local');
    if (this.#written) process.nextTick(this.#written, cancelled);
    if (this.#final) process.nextTick(this.#final, cancelled);
    this.#written = undefined;
    this.#final = undefined;
    callback(error);
  }

  #resume(): void {
    if (this.hasPayload(this.sendLane)) this.sendLane.ready(this);
  }

  /** The credit is used up. The second time within a second the direction is bulk, and moves when credit comes back. */
  #exhausted(): void {
    const now = this.#host.monotonic();
    if (now - this.#exhaustedAt <= this.#host.limits.bulkAfterMs) this.#isBulk = true;
    this.#exhaustedAt = now;
    this.#lastSentAt = now;
  }

  /** MOVE is the last frame on the lane that is left: what was handed to it before goes out before. */
  #moveTo(lane: Lane | undefined): void {
    if (!lane || lane === this.sendLane) return;
    this.sendLane.control(encodeMove(this.id, lane.name));
    this.sendLane.streams -= 1;
    this.sendLane = lane;
    lane.streams += 1;
    this.#lastSentAt = this.#host.monotonic();
  }

  #leaveBulk(): void {
    this.#isBulk = false;
    this.#exhaustedAt = -Infinity;
    this.#sentSinceIdle = 0;
    this.#moveTo(this.lane);
  }

  #deliver(bytes: Buffer, chunk: Uint8Array): void {
    if (this.#wanted) {
      this.#wanted = this.push(bytes);
      this.#consumed(bytes.length);
    } else {
      this.#arrived.push(bytes, chunk);
    }
  }

  /** The stay on `lane` that is under way there; undefined when too many wait. */
  #earlyStay(lane: number): EarlyStay | undefined {
    this.#early ??= new Map();
    const stays = this.#early.get(lane) ?? [];
    this.#early.set(lane, stays);
    const last = stays.at(-1);
    if (last && last.then === undefined) return last;
    if (stays.length >= MAX_EARLY_STAYS) return undefined;
    const stay: EarlyStay = { bytes: createByteQueue(), then: undefined };
    stays.push(stay);
    return stay;
  }

  /** A MOVE or FIN on a lane that is not yet current. */
  #leaveEarly(lane: number, then: number | 'fin'): boolean {
    const stay = this.#earlyStay(lane);
    if (!stay) return false;
    stay.then = then;
    return true;
  }

  #pushEnd(): void {
    if (this.#endPushed) return;
    this.#endPushed = true;
    this.push(null);
  }

  /** The reader took `bytes`: credit goes back once half a window is owed, and grows while the reader keeps pace. */
  #consumed(bytes: number): void {
    this.#owed += bytes;
    if (this.#finReceived || this.#over || (!this.#opener && !this.#answered)) return;
    this.#consumedSinceMark += bytes;
    if (this.#owed * 2 < this.window) return;
    let credit = this.#owed;
    if (this.#consumedSinceMark >= this.window) {
      const now = this.#host.monotonic();
      const keepsPace = now - this.#growthMark <= 2 * this.#host.rttMs();
      const grown = this.window * 2;
      if (
        keepsPace &&
        grown <= this.#host.limits.largestCreditBytes &&
        this.#host.mayGrant(this.window, grown, this.bytesReceived)
      ) {
        credit += this.window;
        this.window = grown;
      }
      this.#growthMark = now;
      this.#consumedSinceMark = 0;
    }
    this.#owed = 0;
    this.#receiveCredit += credit;
    this.#host.sendWindow(this, credit);
  }

  #checkOver(): void {
    if (!this.#finSent || !this.#finReceived || this.#over) return;
    this.#over = true;
    this.#host.forget(this);
  }

  /** The stream is over by a frame or with the leg: nothing more is sent for it. */
  #end(error: Error): void {
    if (this.#over) return;
    this.#over = true;
    this.#host.forget(this);
    this.destroy(error);
  }
}
