/** Sends a log to one reader, at the pace of the reader: nothing is prepared for it before it has taken what it got. */
import type { ServerResponse } from 'node:http';
import type { Clock } from '../../../shared/src/clock.ts';
import { HEARTBEAT_MS, type LogFormat } from './log-format.ts';
import { type LogCursor, type LogSource, sendable, wholeCharacters } from './log-source.ts';

/** What is turned into events at once, bytes: lines of one byte become 13 times as long. */
const MAX_WRITE_BYTES = 16 << 10;
const NEWLINE = 10;

export interface FollowOptions {
  readonly source: LogSource;
  readonly cursor: LogCursor;
  readonly response: ServerResponse;
  readonly format: LogFormat;
  /** False: ends with what there is now. */
  readonly follow: boolean;
  /** The reader has left. */
  readonly gone: AbortSignal;
  /** A response that follows is to end, at the end of a line. */
  readonly stop: AbortSignal;
}

const taken = (response: ServerResponse, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const finish = (): void => {
      response.off('drain', finish);
      signal.removeEventListener('abort', finish);
      resolve();
    };
    response.once('drain', finish);
    signal.addEventListener('abort', finish, { once: true });
  });

const startHeartbeat = (clock: Clock, response: ServerResponse, text: Buffer): (() => void) => {
  let cancel = (): void => undefined;
  const arm = (): void => {
    cancel = clock.timer(HEARTBEAT_MS, () => {
      // Who has not taken what was sent would not take this either.
      if (!response.writableNeedDrain) response.write(text);
      arm();
    });
  };
  arm();
  return () => cancel();
};

interface Sendable {
  readonly bytes: Buffer;
  readonly midLine: boolean;
}

/** What may go out of `bytes`; undefined while the line is not complete. */
const cut = (bytes: Buffer, isLast: boolean, isLimit: boolean): Sendable | undefined => {
  const length = isLimit ? wholeCharacters(bytes) : sendable(bytes, isLast);
  if (length === 0) return undefined;
  const newline = length > MAX_WRITE_BYTES ? bytes.lastIndexOf(NEWLINE, MAX_WRITE_BYTES - 1) : -1;
  const piece = bytes.subarray(0, newline === -1 ? length : newline + 1);
  return { bytes: piece, midLine: piece.at(-1) !== NEWLINE && !(isLast && piece.length === bytes.length) };
};

/** Resolves when the response was ended, or the reader has left. Rejects when the log cannot be read any more. */
export const followLog = async (deps: { clock: Clock }, options: FollowOptions): Promise<void> => {
  const { source, cursor, response, format, follow, gone, stop } = options;
  const either = AbortSignal.any([gone, stop]);
  const until = follow ? Infinity : source.end();
  let isFirst = true;
  let midLine = false;
  const first = format.begin(cursor.offset);
  if (first) response.write(first);
  const stopHeartbeat = format.heartbeat && startHeartbeat(deps.clock, response, format.heartbeat);

  /** What comes next; undefined when there is nothing yet. */
  const nextText = async (): Promise<Buffer | undefined | 'told nothing'> => {
    const step = cursor.offset >= until ? undefined : await cursor.next();
    const { offset } = cursor;
    if (!step) return undefined;
    if (step.kind === 'reset') return format.reset(offset) ?? 'told nothing';
    if (step.kind === 'skipped') {
      const { lines, bytes } = step;
      return format.skipped({ lines, bytes, offset, isFirst }) ?? 'told nothing';
    }
    const available = step.bytes.subarray(0, Math.max(0, until - offset));
    const isLimit = offset + step.bytes.length >= until && !step.last;
    const piece = cut(available, step.last, isLimit);
    if (!piece) return undefined;
    cursor.advance(piece.bytes.length);
    ({ midLine } = piece);
    return format.lines(piece.bytes, offset);
  };

  try {
    // Who asked for what there is gets all of it: a clean end before would look like the end of the log.
    while (!gone.aborted && (!stop.aborted || midLine || !follow)) {
      const seen = source.version();
      const text = await nextText();
      if (text === undefined) {
        if (!follow && stop.aborted && cursor.offset < until) return void response.destroy();
        if (!follow || source.isOver() || stop.aborted) break;
        await source.changed(seen, either);
      } else if (text !== 'told nothing') {
        isFirst = false;
        if (!response.write(text)) await taken(response, follow && !stop.aborted ? either : gone);
      }
    }
    if (!gone.aborted) response.end();
  } finally {
    stopHeartbeat?.();
  }
};
