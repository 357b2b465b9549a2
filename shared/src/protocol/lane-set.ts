/** The lanes of a leg: which there are, who opens them, and which one a tunnel stream is put on. */
import type { Connection, TransportStream } from '../transport/connection.ts';
import type { BulkTurns } from './bulk-turns.ts';
import { LANE_KIND, laneKind, laneName, laneNumber, type FrameHandlers } from './frames.ts';
import { createLane, type Lane } from './lane.ts';
import type { LegLimits } from './limits.ts';

export interface LaneSet {
  /** Runs the first small lane, which was opened with `welcome`. */
  start(first: TransportStream): void;
  /** The small lane with the fewest streams; opens another when they fill up. Undefined until there is one. */
  small(): Lane | undefined;
  /** A bulk lane of this side that exists by now, the one with the fewest streams; opens another when all are in use. */
  bulk(): Lane | undefined;
  /** Takes a transport stream of the peer. Rejects with LaneError when it is no lane that may be there. */
  accept(stream: TransportStream): Promise<void>;
  /** Whether the peer may name this lane in a MOVE. */
  mayMoveTo(name: number): boolean;
}

/** The peer opened a transport stream that is no lane. */
export class LaneError extends Error {
  override readonly name = 'LaneError';
}

export const createLaneSet = (
  deps: {
    connection: Connection;
    handlers: (lane: Lane) => FrameHandlers;
    fail: (error: unknown) => void;
    ended: () => boolean;
    bulkTurns: BulkTurns;
  },
  options: { role: 'acceptor' | 'dialler'; limits: LegLimits; bulkLanes: number },
): LaneSet => {
  const { limits, role, bulkLanes } = options;
  const smallLanes: Lane[] = [];
  const ownBulk: Lane[] = [];
  const names = new Set<number>();
  let opening = false;

  const run = (name: number, stream: TransportStream, own: boolean): Lane => {
    const lane = createLane(name, stream, deps.fail, {
      first: own ? Uint8Array.of(name) : undefined,
      bulkTurns: laneKind(name) === LANE_KIND.bulk ? deps.bulkTurns : undefined,
    });
    lane.run(deps.handlers(lane)).then(() => deps.fail(new LaneError('a lane ended before goodbye')), deps.fail);
    return lane;
  };

  const open = async (lanes: Lane[], kind: number): Promise<void> => {
    if (opening) return;
    opening = true;
    try {
      const stream = await deps.connection.openStream({ signal: AbortSignal.timeout(limits.handshakeTimeoutMs) });
      if (!deps.ended()) lanes.push(run(laneName(kind, lanes.length), stream, true));
    } catch (error) {
      deps.fail(error);
    } finally {
      opening = false;
    }
  };

  const fewest = (lanes: readonly Lane[]): Lane | undefined =>
    lanes.reduce<Lane | undefined>((best, each) => (best && best.streams <= each.streams ? best : each), undefined);

  return {
    start(first) {
      smallLanes.push(run(laneName(LANE_KIND.small, 0), first, true));
    },
    small() {
      const lane = fewest(smallLanes);
      // Only the accepting side opens small lanes; both sides send on them.
      if (
        role === 'acceptor' &&
        lane &&
        lane.streams >= limits.streamsPerSmallLane &&
        smallLanes.length < limits.smallLanes
      ) {
        void open(smallLanes, LANE_KIND.small);
      }
      return lane;
    },
    bulk() {
      const lane = fewest(ownBulk);
      if ((!lane || lane.streams > 0) && ownBulk.length < bulkLanes) void open(ownBulk, LANE_KIND.bulk);
      return lane;
    },
    async accept(stream) {
      const chunk = await stream.read();
      const name = chunk?.[0] ?? 0;
      const small = laneKind(name) === LANE_KIND.small;
      const expected = small
        ? role === 'dialler' && laneNumber(name) < limits.smallLanes
        : laneKind(name) === LANE_KIND.bulk && laneNumber(name) < bulkLanes;
      if (!chunk || !expected || names.has(name))
        throw new LaneError(`a transport stream that is no lane (first byte ${name})`);
      names.add(name);
      const lane = run(name, chunk.byteLength > 1 ? pushedBack(stream, chunk.subarray(1)) : stream, false);
      if (small) smallLanes.push(lane);
    },
    mayMoveTo: (name) =>
      laneNumber(name) <
      (laneKind(name) === LANE_KIND.small ? limits.smallLanes : laneKind(name) === LANE_KIND.bulk ? bulkLanes : 0),
  };
};

/** `stream`, with `bytes` to be read first. */
const pushedBack = (stream: TransportStream, bytes: Uint8Array): TransportStream => {
  let first: Uint8Array | undefined = bytes;
  return {
    read() {
      const chunk = first;
      first = undefined;
      return chunk ? Promise.resolve(chunk) : stream.read();
    },
    write: (chunk) => stream.write(chunk),
    finish: () => stream.finish(),
    reset: () => stream.reset(),
  };
};
