/** Puts the parts of a running client together: enrolment, supervisor, announcer and dialer know of each other here. */
import { randomBytes } from 'node:crypto';
import type { Clock } from '../../shared/src/clock.ts';
import { type IdentityKey, sign } from '../../shared/src/identity/keys.ts';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import type { MessageOf } from '../../shared/src/protocol/messages.ts';
import { createQuicDialer, type QuicDialer } from '../../shared/src/transport/quic.ts';
import { whyNoQuic } from '../../shared/src/transport/quic-native.ts';
import type { Announcer } from './announcer.ts';
import { createApiClient } from './api-client.ts';
import type { RunnerOptions } from './client-options.ts';
import type { Dialer } from './dialer.ts';
import type { Enrolled } from './enrolled.ts';
import { createEnrolment, type Enrolment, type EnrolmentDeps } from './enrolment.ts';
import { createEnrolmentStore } from './enrolment-store.ts';
import type { GatewayUrl } from './gateway-url.ts';
import { createGivenEnrolment } from './given-membership.ts';
import { createLegDialer } from './leg-dialer.ts';
import type { LogServer } from './log-server/log-server.ts';
import type { Logger } from './logger.ts';
import type { Outbound } from './outbound.ts';
import { createQuicConnector } from './quic-connector.ts';
import type { Resolver } from './resolver.ts';
import type { LegEvent, RunnerEvents } from './status.ts';
import { createSupervisor, type Supervisor } from './supervisor.ts';
import { createTcpConnector } from './tcp-connector.ts';
import { TRANSPORTS } from './transport.ts';
import { createTransportRace } from './transport-race.ts';
import { VERSION } from './version.ts';

/** What needs the key, and so exists only after the start. */
export interface Running {
  readonly key: IdentityKey;
  readonly enrolment: Enrolment;
  readonly quic: QuicDialer;
  readonly supervisor: Supervisor;
  /** Payload of all legs, those that have ended included. */
  bytes(): { bytesSent: number; bytesReceived: number };
}

export interface RunnerContext {
  readonly url: GatewayUrl;
  readonly options: RunnerOptions;
  readonly clock: Clock;
  readonly log: Logger;
  readonly key: IdentityKey;
  readonly resolver: Resolver;
  readonly outbound: Outbound;
  /** At the other end of the healthiest leg. */
  readonly preferredAddress: () => string | undefined;
  readonly announcer: Announcer;
  readonly dialer: Dialer;
  readonly logs: LogServer;
  readonly emit: <E extends keyof RunnerEvents>(event: E, ...args: RunnerEvents[E]) => void;
  readonly report: (error: Error, retryInMs?: number) => void;
  readonly updateState: () => void;
  readonly refreshGateways: () => void;
}

export const startRunner = (context: RunnerContext): Running => {
  const { url, options, clock, log, key, resolver, outbound, announcer, dialer, emit, report, updateState } = context;
  const agent =
    options.agent ?? `tunnel-client/${VERSION} node/${process.versions.node} ${process.platform}-${process.arch}`;
  let ended = { bytesSent: 0, bytesReceived: 0 };
  const quic = createQuicDialer({ key });
  const { preferredAddress } = context;
  const api = createApiClient({ clock, outbound, preferredAddress }, { url, userAgent: agent });
  const store = createEnrolmentStore({ stateDir: options.stateDir, gateway: url.origin, runnerId: options.runnerId });
  const { runnerId, exchangeToken, membership } = options;
  const enrolmentDeps: Omit<EnrolmentDeps, 'store'> = {
    clock,
    random: Math.random,
    log,
    api,
    key,
    onChange: ({ gateways }: Enrolled) => {
      supervisor.setGateways(gateways);
      supervisor.retryNow();
      updateState();
    },
    onError: report,
  };
  const enrolment = membership
    ? createGivenEnrolment(enrolmentDeps, { runnerId, membership })
    : createEnrolment({ ...enrolmentDeps, store }, { runnerId, gateway: url, exchangeToken });
  const legEvent = (leg: Leg, type: 'suspect' | 'recovered' | 'drained' | 'left'): void => {
    log.info({ legId: leg.id, type }, 'leg changed');
    emit('leg', { type, legId: leg.id, gatewayId: gatewayOf(leg) });
  };
  const { transport = 'auto' } = options;
  // Said once; what there is works without it.
  const withoutQuic = transport === 'auto' || transport === 'quic' ? whyNoQuic() : undefined;
  if (withoutQuic) report(withoutQuic);
  const transports = transport === 'auto' ? TRANSPORTS : [transport];
  const dialLeg = createLegDialer({
    clock,
    connectors: {
      quic: createQuicConnector({ clock, resolver, dialer: quic }),
      webtransport: createTcpConnector({ clock, outbound }, { transport: 'webtransport', url }),
      websocket: createTcpConnector({ clock, outbound }, { transport: 'websocket', url }),
    },
    enrolment,
    sign: (message) => sign(key, message),
    hello: { instance: randomBytes(16).toString('base64url'), instanceStartedAt: clock.now(), agent },
  });
  const supervisor = createSupervisor({
    clock,
    random: Math.random,
    log,
    transports,
    dial: createTransportRace({ clock, random: Math.random, dial: dialLeg }, { transports }),
    attach: (leg, onDrain) => {
      leg.attach({
        onStream: (stream) => dialer.handle(stream),
        onMessage: (message) => {
          if (message.type === 'environmentsResult') announcer.onResults(leg, message);
          if (message.type !== 'drain') return;
          // Whoever follows a log there is to go on at another gateway while that one still waits.
          if (message.reason === 'shutdown') context.logs.endLeg(leg);
          onDrain();
        },
      });
    },
    onUp: ({ leg, gatewayId, reason }) => {
      announcer.addLeg(leg, gatewayId);
      const { transport: used, remoteAddress, inspected } = leg;
      const fields = { legId: leg.id, gatewayId, transport: used, reason, remoteAddress, inspected };
      log.info(fields, 'leg up');
      if (inspected) log.warn({ legId: leg.id }, 'TLS is inspected on the way to the gateway');
      emit('leg', { type: 'up', ...fields });
      const { gateways, trust } = leg.greeting as MessageOf<'welcome'>;
      enrolment.learn({ gateways, ...(trust ? { trust } : {}) });
      queueMicrotask(updateState);
    },
    onState: ({ leg, state: legState }) => {
      if (legState === 'left') context.logs.endLeg(leg);
      if (legState !== 'standby') legEvent(leg, legState === 'up' ? 'recovered' : legState);
      updateState();
    },
    onDown: (leg, { code, by, reason, error }) => {
      const { bytesSent, bytesReceived } = leg.stats();
      ended = { bytesSent: ended.bytesSent + bytesSent, bytesReceived: ended.bytesReceived + bytesReceived };
      announcer.removeLeg(leg);
      log.warn({ legId: leg.id, code, by, reason, err: error }, 'leg down');
      const event: LegEvent = { type: 'down', legId: leg.id, gatewayId: gatewayOf(leg), code, by, reason };
      emit('leg', event);
      updateState();
    },
    onError: report,
    onMembershipRefused: () => enrolment.renewSoon(),
    onUnreachable: context.refreshGateways,
  });
  const bytes = (): { bytesSent: number; bytesReceived: number } =>
    supervisor.legs().reduce((total, { leg }) => {
      const { bytesSent, bytesReceived } = leg.stats();
      return { bytesSent: total.bytesSent + bytesSent, bytesReceived: total.bytesReceived + bytesReceived };
    }, ended);
  return { key, enrolment, quic, supervisor, bytes };
};

const gatewayOf = (leg: Leg): string => (leg.greeting.type === 'welcome' ? leg.greeting.gatewayId : leg.peer.id);
