/**
 * When bulk is worked on. It shares a thread, and often too few processors, with small streams and with the requests of
 * clients: so it goes in small pieces, and stands back for a moment while small streams have something to do.
 */
import { systemClock, type Clock } from '../clock.ts';

/**
 * How long bulk stands back behind a sign of small streams, ms: a request, its answer and the next request are each
 * about a millisecond apart on a machine at rest.
 */
const SMALL_AFTERMATH_MS = 3;
/**
 * The longest time for which bulk stands back at once, ms. It stands back for no longer than it has had before, so
 * that it keeps half of the time whatever small streams do; but minutes of its own do not count against it.
 */
const MAX_STAND_BACK_MS = 6;
/** Less is not worth a timer, which has whole ms. */
const MIN_STAND_BACK_MS = 1;

export interface BulkTurns {
  /** A small stream sends or receives. */
  small(): void;
  /** Resolves when bulk may go on: undefined where that is now. */
  standBack(): Promise<void> | undefined;
  /** Resolves when the next piece may be worked on: one in every other turn of the event loop, of whichever lane. */
  nextPiece(): Promise<void>;
}

/** For the legs of one gateway, or of one runner: they share a thread. Real time, whatever the clock of the legs. */
export const createBulkTurns = (clock: Clock = systemClock): BulkTurns => {
  let lastPiece: Promise<void> = Promise.resolve();
  let smallUntil = -Infinity;
  /** Time that bulk has had and has not yet stood back for, ms. */
  let owed = 0;
  let onSince = clock.monotonic();
  let standing: Promise<void> | undefined;

  const untilQuiet = async (since: number): Promise<void> => {
    let now = since;
    while (now < smallUntil && now - since < owed) {
      const delayMs = Math.max(MIN_STAND_BACK_MS, Math.min(smallUntil - now, owed - (now - since)));
      await new Promise<void>((resolve) => void clock.timer(delayMs, resolve));
      now = clock.monotonic();
    }
    owed = Math.max(0, owed - (now - since));
    onSince = now;
    standing = undefined;
  };
  const standBack = (): Promise<void> | undefined => {
    if (standing) return standing;
    const now = clock.monotonic();
    owed = Math.min(owed + now - onSince, MAX_STAND_BACK_MS);
    onSince = now;
    if (now < smallUntil && owed >= MIN_STAND_BACK_MS) standing = untilQuiet(now);
    return standing;
  };
  const pieceBehind = async (before: Promise<void>): Promise<void> => {
    await before;
    await new Promise<void>((resolve) => void setImmediate(() => setImmediate(resolve)));
    await standBack();
  };

  return {
    small() {
      smallUntil = clock.monotonic() + SMALL_AFTERMATH_MS;
    },
    standBack,
    nextPiece() {
      lastPiece = pieceBehind(lastPiece);
      return lastPiece;
    },
  };
};
