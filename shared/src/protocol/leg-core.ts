/** The leg behind the handshake: its lanes, its tunnel streams, the control stream, and how all of it ends. */
import {
  LegClosedError,
  StreamRefusedError,
  StreamResetError,
  TransportError,
  isRefusal,
  type LegCloseCode,
} from '../errors.ts';
import type { Clock } from '../clock.ts';
import type { Membership } from '../identity/membership.ts';
import type { Connection, ConnectionStats, TransportStream } from '../transport/connection.ts';
import type { BulkTurns } from './bulk-turns.ts';
import { MessageError, type ControlStream } from './control-stream.ts';
import {
  FrameError,
  LANE_KIND,
  encodeOpen,
  encodeReset,
  encodeStatus,
  encodeWindow,
  laneKind,
  type FrameHandlers,
  type OpenFrame,
} from './frames.ts';
import type { Lane } from './lane.ts';
import { LaneError, createLaneSet } from './lane-set.ts';
import type { Leg, LegEnd, LegHandlers, TunnelStream } from './leg.ts';
import type { LegLimits } from './limits.ts';
import type { Message, MessageOf, OutgoingMessage } from './messages.ts';
import { reportPath } from './path-report.ts';
import { watchSilence } from './silence.ts';
import type { Target } from './target.ts';
import { LegStream, type StreamHost } from './tunnel-stream.ts';

export interface LegParts {
  readonly id: string;
  readonly role: 'acceptor' | 'dialler';
  readonly peer: Membership;
  readonly inspected: boolean;
  readonly greeting: MessageOf<'hello'> | MessageOf<'welcome'>;
  readonly connection: Connection;
  readonly control: ControlStream;
  readonly limits: LegLimits;
  readonly clock: Clock;
  readonly bulkTurns: BulkTurns;
  /** The first small lane, which the accepting side opens with `welcome`. */
  readonly firstLane?: TransportStream;
  /** The next transport stream of the peer, where the handshake was already waiting for it. */
  readonly nextStream?: Promise<TransportStream>;
}

/** The peer broke the protocol above the framing. */
class LegFault extends Error {
  override readonly name = 'LegFault';
  readonly code: LegCloseCode;
  constructor(code: LegCloseCode, message: string) {
    super(message);
    this.code = code;
  }
}

/** RTT that is reckoned with where the transport cannot tell, ms. */
const ASSUMED_RTT_MS = 50;
/**
 * The least RTT that is reckoned with, ms: QUIC tells whole ones, 0 on a local network, where what counts is how long
 * both sides take to be woken.
 */
const SHORTEST_RTT_MS = 5;
/**
 * How long an RTT is remembered, ms. To ask a QUIC connection takes its lock: with 200 downloads, 9 % of the gateway's
 * time went there.
 */
const RTT_MEMORY_MS = 100;
/**
 * Windows of its new size that a stream must have received before it grows in a crowded leg. A reader that stops at
 * once still takes about 5 MiB (4 MiB of send buffer by Linux's default, and the other end's): no window above 256 KiB.
 */
const EARNED_WINDOWS = 16;
/** Codes that a `goodbye` may carry besides refusals; another one counts as `closed`. */
const CLOSE_CODES: ReadonlySet<string> = new Set<LegCloseCode>([
  'closed',
  'replaced',
  'lost',
  'handshake_timeout',
  'protocol_error',
  'flow_control',
  'frame_too_large',
  'limit',
  'data_path',
  'internal',
]);
export const parseCloseCode = (code: string): LegCloseCode =>
  CLOSE_CODES.has(code) || isRefusal(code) ? (code as LegCloseCode) : 'closed';

const ignore = (): void => {};

export const createLeg = (parts: LegParts): Leg => {
  const { connection, control, limits, clock, role } = parts;
  const streams = new Map<number, LegStream>();
  /** Ids count up by two; the side that accepted the leg uses the odd ones. */
  let nextId = role === 'acceptor' ? 1 : 2;
  let lastPeerId = 0;
  let granted = 0;
  let bytesSent = 0;
  let bytesReceived = 0;
  let rttMs = ASSUMED_RTT_MS;
  let rttAt = -Infinity;
  let peerPackets: ConnectionStats['packets'];
  let handlers: LegHandlers = {};
  let pings = 0;
  /** Those that {@link Leg.roundTrip} waits for, by their ids. */
  const asked = new Map<number, () => void>();
  let ended: LegEnd | undefined;
  /** Set once this side has said goodbye: whatever ends the connection after that, this is why. */
  let goodbye: LegEnd | undefined;
  let resolveClosed: (end: LegEnd) => void = ignore;
  const closed = new Promise<LegEnd>((resolve) => {
    resolveClosed = resolve;
  });

  const finish = (end: LegEnd): void => {
    if (ended) return;
    ended = end;
    leg.isOpen = false;
    const cause = new LegClosedError(end.code, end.by, end.reason, { cause: end.error });
    for (const stream of [...streams.values()]) stream.onLegClosed(new StreamResetError('leg_lost', end.by, { cause }));
    connection.close(end.code === 'closed' ? undefined : cause);
    for (const answer of asked.values()) answer();
    asked.clear();
    resolveClosed(end);
  };

  const fail = (error: unknown): void => {
    if (ended) return;
    const fault = faultOf(error);
    if (fault === undefined) {
      // Who ended it, the error of a stream knows before the connection does.
      if (error instanceof TransportError) return finish(goodbye ?? { code: 'lost', by: error.by, error });
      void connection.closed.then((end) =>
        finish(
          goodbye ?? {
            code: 'lost',
            by: end.by,
            error: end.error ?? (error instanceof Error ? error : new Error(String(error))),
          },
        ),
      );
      connection.close(error instanceof Error ? error : undefined);
      return;
    }
    void end({ code: fault.code, by: 'local', reason: fault.message, error: fault });
  };

  /** Says goodbye with the code of `mine`, gives it time to arrive, and finishes. */
  const end = async (mine: LegEnd): Promise<void> => {
    if (goodbye) return;
    goodbye = mine;
    leg.isOpen = false;
    // The peer closes when it has read the goodbye: only then is it certain that nothing is lost with the connection.
    let cancel = ignore;
    const timeout = new Promise<void>((resolve) => {
      cancel = clock.timer(limits.goodbyeTimeoutMs, resolve);
    });
    const reason = mine.reason?.slice(0, 1_024);
    const said = control
      .send({ type: 'goodbye', code: mine.code, ...(reason ? { reason } : {}) })
      .then(() => connection.closed.then(ignore), ignore);
    await Promise.race([said, timeout]);
    cancel();
    finish(mine);
  };

  const streamEnded = (stream: LegStream): void => {
    if (!streams.delete(stream.id)) return;
    granted -= stream.window;
    bytesSent += stream.bytesSent;
    bytesReceived += stream.bytesReceived;
    stream.sendLane.streams -= 1;
  };

  /** The window of a new stream, by what the leg has granted already. */
  const newWindow = (): number => {
    if (granted < limits.grantedBytesPerLeg / 2) return limits.initialCreditBytes;
    if (granted < (limits.grantedBytesPerLeg * 3) / 4) return limits.reducedCreditBytes;
    return limits.smallestCreditBytes;
  };

  // Fields, and no accessors: an object with one is kept as a table, of 600 bytes, and there are thousands of legs.
  const host: Omit<StreamHost, 'leg'> & { leg: Leg } = {
    leg: undefined as unknown as Leg,
    limits,
    bulkLane: () => lanes.bulk(),
    sendStatus: ({ id, lane }, status, credit) => lane.control(encodeStatus(id, status, credit)),
    sendWindow: ({ id, lane }, credit) => lane.control(encodeWindow(id, credit)),
    sendReset: ({ id, lane }, code) => lane.control(encodeReset(id, code)),
    forget: streamEnded,
    mayGrant(bytes, window, received) {
      const sum = granted + bytes;
      // The second half is for readers that go on: one that stalls has let kernel buffers run full before, and would
      // hold what others could use.
      const isCrowded = sum > limits.grantedBytesPerLeg / 2;
      if (isCrowded && received < window * EARNED_WINDOWS) return false;
      if (sum > (limits.grantedBytesPerLeg * 3) / 4) return false;
      granted = sum;
      return true;
    },
    rttMs() {
      const now = clock.monotonic();
      if (now - rttAt >= RTT_MEMORY_MS) {
        rttMs = Math.max(connection.stats().rttMs ?? ASSUMED_RTT_MS, SHORTEST_RTT_MS);
        rttAt = now;
      }
      return rttMs;
    },
    onSmall: () => parts.bulkTurns.small(),
    monotonic: () => clock.monotonic(),
  };

  const add = (stream: LegStream): void => {
    streams.set(stream.id, stream);
    granted += stream.window;
    stream.lane.streams += 1;
  };

  const onOpen = (lane: Lane, laneLastId: number, id: number, open: OpenFrame): void => {
    if (id % 2 === nextId % 2 || id <= laneLastId || streams.has(id))
      throw new LegFault('protocol_error', `OPEN with id ${id}`);
    lastPeerId = Math.max(lastPeerId, id);
    if (open.allowance > limits.reducedCreditBytes)
      throw new LegFault('protocol_error', `OPEN with allowance ${open.allowance}`);
    if (open.target.kind !== 'echo' && !handlers.onStream) return lane.control(encodeReset(id, 'forbidden'));
    if (streams.size >= limits.streamsPerLeg || goodbye || granted + open.allowance > limits.grantedBytesPerLeg) {
      return lane.control(encodeStatus(id, goodbye ? 'draining' : 'limit', 0));
    }
    const stream = new LegStream(host, {
      id,
      lane,
      target: open.target,
      opener: false,
      sendCredit: open.credit,
      receiveCredit: open.allowance,
      window: Math.max(newWindow(), open.allowance),
    });
    add(stream);
    if (open.target.kind === 'echo') {
      stream.accept();
      stream.pipe(stream);
    } else {
      handlers.onStream?.(stream);
    }
  };

  /** The stream of a frame; undefined for one that is over already. Throws for an id that never was. */
  const find = (id: number): LegStream | undefined => {
    const stream = streams.get(id);
    if (!stream && (id % 2 === nextId % 2 ? id >= nextId : id > lastPeerId))
      throw new LegFault('protocol_error', `frame for id ${id}`);
    return stream;
  };
  const expect = (ok: boolean | undefined, code: LegCloseCode, what: string): void => {
    if (ok === false) throw new LegFault(code, what);
  };

  const frameHandlers = (lane: Lane): FrameHandlers => {
    const direction = {
      data: (id: number, bytes: Buffer, chunk: Uint8Array) =>
        expect(find(id)?.onData(bytes, chunk, lane.name), 'flow_control', `DATA beyond credit for id ${id}`),
      fin: (id: number) => expect(find(id)?.onFin(lane.name), 'protocol_error', 'FIN out of turn'),
      move: (id: number, to: number) =>
        expect(lanes.mayMoveTo(to) && (find(id)?.onMove(to, lane.name) ?? true), 'protocol_error', 'MOVE out of turn'),
    };
    if (laneKind(lane.name) === LANE_KIND.bulk) {
      const misplaced = (): never => {
        throw new LegFault('protocol_error', 'a frame that does not belong on a bulk lane');
      };
      return { ...direction, open: misplaced, status: misplaced, window: misplaced, reset: misplaced };
    }
    let lastId = 0;
    return {
      ...direction,
      open(id, open) {
        onOpen(lane, lastId, id, open);
        lastId = id;
      },
      status: (id, status, credit) =>
        expect(find(id)?.onStatus(status, credit), 'protocol_error', 'STATUS out of turn'),
      window: (id, credit) => expect(find(id)?.onWindow(credit), 'protocol_error', 'WINDOW too large'),
      reset: (id, code) => find(id)?.onReset(code),
    };
  };

  const isOverTcp = connection.transport === 'webtransport' || connection.transport === 'websocket';
  // Where one lost packet holds up all streams, several bulk lanes are of no use.
  const lanes = createLaneSet(
    { connection, handlers: frameHandlers, fail, ended: () => ended !== undefined, bulkTurns: parts.bulkTurns },
    { role, limits, bulkLanes: isOverTcp ? 1 : limits.bulkLanes },
  );

  /** Until the connection ends, which rejects it. */
  const acceptLanes = async (): Promise<void> => {
    if (parts.nextStream) lanes.accept(await parts.nextStream).catch(fail);
    const { signal } = new AbortController();
    for (;;) lanes.accept(await connection.acceptStream({ signal })).catch(fail);
  };

  const onMessage = (message: Message | null): void => {
    if (message === null) throw new LegFault('protocol_error', 'the control stream ended before goodbye');
    switch (message.type) {
      case 'goodbye':
        return finish({
          code: parseCloseCode(message.code),
          by: 'remote',
          ...(message.reason ? { reason: message.reason } : {}),
        });
      case 'ping':
        control.send({ type: 'pong', id: message.id }).catch(fail);
        return;
      case 'pong':
        asked.get(message.id)?.();
        asked.delete(message.id);
        return;
      case 'path':
        peerPackets = { sent: message.sent, lost: message.lost };
        return;
      case 'activate':
      case 'environments':
      case 'environmentsResult':
      case 'drain':
        handlers.onMessage?.(message);
        return;
      default:
        throw new LegFault('protocol_error', `${message.type} out of turn`);
    }
  };
  /** No variable holds a message, which may be large, while the next one is awaited. */
  const runControl = async (): Promise<void> => {
    while (!ended) onMessage(await control.receive());
  };

  const leg: Omit<Leg, 'isOpen'> & { isOpen: boolean } = {
    id: parts.id,
    role,
    peer: parts.peer,
    inspected: parts.inspected,
    greeting: parts.greeting,
    transport: connection.transport,
    remoteAddress: connection.remoteAddress,
    closed,
    isOpen: true,
    attach(given) {
      handlers = given;
      runControl().catch(fail);
      acceptLanes().catch(fail);
      if (parts.firstLane) lanes.start(parts.firstLane);
      if (isOverTcp) {
        const onDead = (): void => {
          const error = new TransportError(`nothing came for ${limits.deadAfterMs} ms`);
          finish(goodbye ?? { code: 'lost', by: 'remote', error });
        };
        const ping = (): void => leg.send({ type: 'ping', id: ++pings });
        void closed.then(watchSilence({ clock, connection, ping, onDead }, limits));
      }
      if (role === 'acceptor' && connection.stats().packets) {
        const tell = (packets: { sent: number; lost: number }): void => leg.send({ type: 'path', ...packets });
        void closed.then(reportPath({ clock, connection, tell }));
      }
      void connection.closed.then(({ by, error }) =>
        finish(goodbye ?? { code: 'lost', by, ...(error ? { error } : {}) }),
      );
    },
    openStream(target: Target, { signal }): TunnelStream {
      signal.throwIfAborted();
      if (ended || goodbye) throw new LegClosedError(ended?.code ?? 'closed', ended?.by ?? 'local', ended?.reason);
      const lane = lanes.small();
      if (streams.size >= limits.streamsPerLeg || !lane) throw new StreamRefusedError('limit');
      // What the other side grants shrinks the same way as what this side does, see newWindow.
      const allowance =
        granted < (limits.grantedBytesPerLeg * 3) / 4 ? limits.reducedCreditBytes : limits.smallestCreditBytes;
      const window = newWindow();
      const id = nextId;
      const frame = encodeOpen(id, { target, allowance, credit: window });
      nextId += 2;
      const stream = new LegStream(host, {
        id,
        lane,
        target,
        opener: true,
        sendCredit: allowance,
        receiveCredit: window,
        window,
      });
      add(stream);
      lane.control(frame);
      const onAbort = (): void => {
        stream.destroy(signal.reason instanceof Error ? signal.reason : new StreamResetError('cancelled', 'local'));
      };
      signal.addEventListener('abort', onAbort, { once: true });
      stream.once('close', () => signal.removeEventListener('abort', onAbort));
      return stream;
    },
    send(message: OutgoingMessage) {
      if (!ended && !goodbye) control.send(message).catch(fail);
    },
    roundTrip() {
      if (ended || goodbye) return Promise.resolve();
      pings += 1;
      const id = pings;
      leg.send({ type: 'ping', id });
      return new Promise((resolve) => asked.set(id, resolve));
    },
    stats() {
      const { rttMs, received, packets } = connection.stats();
      let sent = bytesSent;
      let got = bytesReceived;
      for (const stream of streams.values()) {
        sent += stream.bytesSent;
        got += stream.bytesReceived;
      }
      return {
        rttMs,
        received,
        openStreams: streams.size,
        bytesSent: sent,
        bytesReceived: got,
        ...(packets ? { packets } : {}),
        ...(peerPackets ? { peerPackets } : {}),
      };
    },
    async close(code, reason) {
      if (!ended) await end({ code, by: 'local', ...(reason ? { reason } : {}) });
      await closed;
    },
    abort(code, error) {
      finish({ code, by: 'local', ...(error ? { error } : {}) });
    },
  };
  host.leg = leg;
  return leg;
};

/** The fault of the peer behind `error`, or undefined when the transport failed. */
const faultOf = (error: unknown): LegFault | undefined => {
  if (error instanceof LegFault) return error;
  if (error instanceof FrameError || error instanceof LaneError) return new LegFault('protocol_error', error.message);
  if (error instanceof MessageError) return new LegFault(error.code, error.message);
  return undefined;
};
