/**
 * How a leg begins: both sides show their memberships, and that they hold the keys these name. See messages.ts for the
 * sequence. Until `welcome` a connection may have the control stream only.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { LegClosedError, RefusedError, TransportError, isRefusal, type LegCloseCode } from '../errors.ts';
import type { Clock } from '../clock.ts';
import type { JsonWebKeySet } from '../identity/enrolment.ts';
import type { Membership } from '../identity/membership.ts';
import type { Connection } from '../transport/connection.ts';
import { createBulkTurns, type BulkTurns } from './bulk-turns.ts';
import { createControlStream, MessageError, type ControlStream } from './control-stream.ts';
import type { Leg } from './leg.ts';
import { createLeg, parseCloseCode } from './leg-core.ts';
import { createMessageMeter } from './message-meter.ts';
import { LEG_LIMITS, MAX_HANDSHAKE_MESSAGE_BYTES, type LegLimits } from './limits.ts';
import {
  PROTOCOL_VERSIONS,
  type GatewayAddress,
  type LegFeature,
  type MessageOf,
  type MessageType,
} from './messages.ts';
import { checkProof, expectedKey, makeProof, type Signer, type Transcript } from './proof.ts';

interface HandshakeDeps {
  readonly clock: Clock;
  /** This side's own membership, as it is now. */
  readonly membership: () => string;
  /** Signs with the key of the membership. Without it only transports that prove keys can be used. */
  readonly sign?: Signer;
  /** Checks the peer's membership against the key that the peer has proved, or will. Throws RefusedError. */
  readonly verify: (token: string, peerKey: Uint8Array) => Promise<Membership>;
  readonly limits?: Partial<LegLimits>;
  /** Shared by all legs of a process that have the same owner; without it a leg has its own. */
  readonly bulkTurns?: BulkTurns;
}

export interface AcceptDeps extends HandshakeDeps {
  /** Called when the peer has shown who it is. Throws RefusedError to refuse the leg. */
  readonly admit: (
    peer: Membership,
    hello: MessageOf<'hello'>,
    way: { readonly inspected: boolean },
  ) => Promise<void> | void;
  readonly welcome: (peer: Membership) => {
    gatewayId: string;
    gateways: readonly GatewayAddress[];
    trust?: JsonWebKeySet;
  };
}

export interface DialDeps extends HandshakeDeps {
  readonly hello: {
    instance: string;
    instanceStartedAt: number;
    agent: string;
    replaces?: string;
    features?: LegFeature[];
  };
}

const nonce = (): string => randomBytes(32).toString('base64url');

const TURNED_AWAY = 'the other side ended the connection before the handshake; it may have too many of them';

/** What a `goodbye` before `welcome` means for who receives it. */
const refusedBy = (message: MessageOf<'goodbye'>): Error =>
  isRefusal(message.code)
    ? new RefusedError(message.code, {
        by: 'remote',
        ...(message.reason === undefined ? {} : { detail: message.reason }),
        ...(message.serverTime === undefined ? {} : { serverTime: message.serverTime }),
        ...(message.retryAfterMs === undefined ? {} : { retryAfterMs: message.retryAfterMs }),
      })
    : new LegClosedError(parseCloseCode(message.code), 'remote', message.reason);

/** Both sides show this sentence to people. */
const noCommonVersion = (speaks: { dialler: readonly number[]; acceptor: readonly number[] }): RefusedError => {
  const { dialler, acceptor } = speaks;
  const older = Math.max(...dialler) < Math.max(...acceptor) ? 'tunnel client' : 'gateway';
  const detail =
    `the tunnel client speaks version ${dialler.join(' and ')} of the tunnel protocol, ` +
    `the gateway version ${acceptor.join(' and ')}: update the ${older}`;
  return new RefusedError('protocol_version', { detail });
};

const receive = async <T extends MessageType>(control: ControlStream, type: T): Promise<MessageOf<T>> => {
  const message = await control.receive(MAX_HANDSHAKE_MESSAGE_BYTES);
  if (message === null) throw new TransportError('the connection ended during the handshake');
  if (message.type === 'goodbye') throw refusedBy(message);
  if (message.type !== type) throw new MessageError('protocol_error', `${message.type} where ${type} was expected`);
  return message as MessageOf<T>;
};

/**
 * Runs `steps` under the handshake's time limits. When they fail, says goodbye with the reason, waits a moment for it
 * to arrive, closes the connection, and throws.
 */
const underLimits = async (
  connection: Connection,
  clock: Clock,
  limits: LegLimits,
  signal: AbortSignal,
  steps: (control: (stream: ControlStream) => void, heard: () => void) => Promise<Leg>,
): Promise<Leg> => {
  let control: ControlStream | undefined;
  let isHeard = false;
  let fail: (error: Error) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => {});
  const timedOut = (): void => fail(new LegClosedError('handshake_timeout', 'local'));
  const cancelHello = clock.timer(limits.helloTimeoutMs, timedOut);
  const cancelAll = clock.timer(limits.handshakeTimeoutMs, timedOut);
  const onAbort = (): void => fail(signal.reason instanceof Error ? signal.reason : new Error('aborted'));
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  void connection.closed.then((end) =>
    fail(new TransportError('the connection ended during the handshake', { by: end.by, cause: end.error })),
  );
  const running = steps(
    (stream) => (control = stream),
    () => {
      isHeard = true;
      cancelHello();
    },
  );
  running.catch(() => {});
  try {
    return await Promise.race([running, failed]);
  } catch (error) {
    const reason: unknown =
      signal.aborted && !(error instanceof RefusedError) ? new LegClosedError('closed', 'local') : error;
    await refuse(connection, control, clock, limits, reason);
    if (!isHeard && error instanceof TransportError) {
      // Whether a stream or the connection tells first is chance.
      const { by, error: fault } = await connection.closed;
      if (by === 'remote' && !fault) throw new TransportError(TURNED_AWAY, { code: 'turned_away', cause: error });
    }
    throw error;
  } finally {
    cancelHello();
    cancelAll();
    signal.removeEventListener('abort', onAbort);
  }
};

const refuse = async (
  connection: Connection,
  control: ControlStream | undefined,
  clock: Clock,
  limits: LegLimits,
  error: unknown,
): Promise<void> => {
  const goodbye = goodbyeFor(error);
  if (control && goodbye) {
    let cancel = (): void => {};
    const timeout = new Promise<void>((resolve) => {
      cancel = clock.timer(limits.goodbyeTimeoutMs, resolve);
    });
    const said = control.send(goodbye).then(
      () => connection.closed,
      () => undefined,
    );
    await Promise.race([said, timeout]);
    cancel();
  }
  connection.close(error instanceof Error ? error : undefined);
};

/** Undefined where the other side ended it. */
const goodbyeFor = (
  error: unknown,
):
  | {
      type: 'goodbye';
      code: LegCloseCode;
      reason?: string;
      supported?: number[];
      serverTime?: number;
      retryAfterMs?: number;
    }
  | undefined => {
  if (error instanceof RefusedError) {
    if (error.by === 'remote') return undefined;
    return {
      type: 'goodbye',
      code: error.code,
      reason: error.message.slice(error.code.length + 2, 1_024),
      ...(error.code === 'protocol_version' ? { supported: [...PROTOCOL_VERSIONS] } : {}),
      ...(error.serverTime === undefined ? {} : { serverTime: error.serverTime }),
      ...(error.retryAfterMs === undefined ? {} : { retryAfterMs: error.retryAfterMs }),
    };
  }
  if (error instanceof MessageError) return { type: 'goodbye', code: error.code, reason: error.message };
  if (error instanceof LegClosedError) return error.by === 'remote' ? undefined : { type: 'goodbye', code: error.code };
  if (error instanceof TransportError) return undefined;
  return { type: 'goodbye', code: 'internal' };
};

/**
 * The accepting side (gateway). A signal that is aborted with a RefusedError tells the peer its code. Rejects with RefusedError, LegClosedError, MessageError or TransportError, after the
 * peer was told and the connection closed.
 */
export const acceptLeg = (
  connection: Connection,
  deps: AcceptDeps,
  { signal }: { signal: AbortSignal },
): Promise<Leg> => {
  const limits = { ...LEG_LIMITS, ...deps.limits };
  return underLimits(connection, deps.clock, limits, signal, async (use, heard) => {
    const control = createControlStream(await connection.acceptStream({ signal }), createMessageMeter(deps, limits));
    use(control);
    // Anything but the control stream is a fault until `welcome`; the leg takes over behind it.
    const nextStream = connection.acceptStream({ signal: new AbortController().signal });
    let extra = false;
    nextStream.then(
      () => (extra = true),
      () => undefined,
    );
    const hello = await receive(control, 'hello');
    heard();
    const version = PROTOCOL_VERSIONS.find((each) => hello.versions.includes(each));
    if (version === undefined) throw noCommonVersion({ dialler: hello.versions, acceptor: PROTOCOL_VERSIONS });
    const peer = await deps.verify(hello.membership, expectedKey(connection, hello.membership));
    const isProved = connection.peerKey !== undefined;
    if (isProved) await deps.admit(peer, hello, { inspected: false });
    const membership = deps.membership();
    const transcript: Transcript = {
      diallerNonce: hello.nonce,
      acceptorNonce: nonce(),
      diallerMembership: hello.membership,
      acceptorMembership: membership,
      transport: connection.transport,
    };
    await control.send({
      type: 'challenge',
      version,
      membership,
      nonce: transcript.acceptorNonce,
      ...makeProof(connection, transcript, 'acceptor', deps.sign),
    });
    const proof = await receive(control, 'proof');
    if (extra) throw new MessageError('protocol_error', 'a transport stream before welcome');
    const { inspected } = checkProof(connection, transcript, 'dialler', peer, proof);
    if (!isProved) await deps.admit(peer, hello, { inspected });
    const { gatewayId, gateways, trust } = deps.welcome(peer);
    const id = randomUUID();
    const firstLane = await connection.openStream({ signal });
    await control.send({ type: 'welcome', legId: id, gatewayId, gateways: [...gateways], ...(trust ? { trust } : {}) });
    return createLeg({
      id,
      role: 'acceptor',
      peer,
      inspected,
      // Without what has been checked: it is as long as all the rest.
      greeting: { ...hello, membership: '' },
      connection,
      control,
      limits,
      clock: deps.clock,
      bulkTurns: deps.bulkTurns ?? createBulkTurns(),
      firstLane,
      nextStream,
    });
  });
};

/** The dialling side (tunnel client). Rejects like {@link acceptLeg}. */
export const dialLeg = (connection: Connection, deps: DialDeps, { signal }: { signal: AbortSignal }): Promise<Leg> => {
  const limits = { ...LEG_LIMITS, ...deps.limits };
  return underLimits(connection, deps.clock, limits, signal, async (use, heard) => {
    const control = createControlStream(await connection.openStream({ signal }), createMessageMeter(deps, limits));
    use(control);
    const own = { membership: deps.membership(), nonce: nonce() };
    await control.send({ type: 'hello', versions: [...PROTOCOL_VERSIONS], ...own, ...deps.hello });
    const challenge = await receive(control, 'challenge');
    heard();
    if (!PROTOCOL_VERSIONS.includes(challenge.version)) {
      throw noCommonVersion({ dialler: PROTOCOL_VERSIONS, acceptor: [challenge.version] });
    }
    const peer = await deps.verify(challenge.membership, expectedKey(connection, challenge.membership));
    const transcript: Transcript = {
      diallerNonce: own.nonce,
      acceptorNonce: challenge.nonce,
      diallerMembership: own.membership,
      acceptorMembership: challenge.membership,
      transport: connection.transport,
    };
    const { inspected } = checkProof(connection, transcript, 'acceptor', peer, challenge);
    await control.send({ type: 'proof', ...makeProof(connection, transcript, 'dialler', deps.sign) });
    const welcome = await receive(control, 'welcome');
    return createLeg({
      id: welcome.legId,
      role: 'dialler',
      peer,
      inspected,
      greeting: welcome,
      connection,
      control,
      limits,
      clock: deps.clock,
      bulkTurns: deps.bulkTurns ?? createBulkTurns(),
    });
  });
};
