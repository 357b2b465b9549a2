import type { Clock } from '../../shared/src/clock.ts';
import type { EndedBy, LegCloseCode } from '../../shared/src/errors.ts';
import type { Environment, ExposedPort } from '../../shared/src/protocol/messages.ts';
import type { TransportName } from '../../shared/src/transport/connection.ts';
import type { DialerStats } from './dialer.ts';
import type { GatewayMeasurement } from './gateway-selection.ts';
import { healthiestOf } from './leg-score.ts';
import type { LegState, SupervisedLeg } from './supervised-legs.ts';
import type { TransportReason } from './transport.ts';

/**
 * `joining`: no membership yet. `connecting`: no leg is up. `online`: at least one is. `draining`: what is open ends,
 * nothing new begins.
 */
export type RunnerState = 'joining' | 'connecting' | 'online' | 'draining' | 'closed';

export interface LegStatus {
  readonly id: string;
  readonly gatewayId: string;
  readonly transport: TransportName;
  /** Why it is this transport. */
  readonly reason: TransportReason;
  /** Somebody between runner and gateway inspects TLS. */
  readonly inspected: boolean;
  readonly remoteAddress: string;
  readonly state: LegState;
  readonly rttMs: number | undefined;
  /** How soon its lanes answer, ms; undefined until they have. Takes in what waits in them, unlike the round trip. */
  readonly echoMs: number | undefined;
  /** What the client itself asks of gateways goes to this one first: of all legs its lanes answer soonest. */
  readonly isHealthiest: boolean;
  /** Since the leg came up: packets sent, and those of them that were lost. Undefined where TCP keeps that to itself. */
  readonly packets: { readonly sent: number; readonly lost: number } | undefined;
  /** The same of the packets that the gateway has sent, as it told last. */
  readonly gatewayPackets: { readonly sent: number; readonly lost: number } | undefined;
  readonly openStreams: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly upForMs: number;
}

/** What a gateway makes of an environment. */
export interface EnvironmentStatus {
  readonly id: string;
  readonly host: string;
  readonly ports: readonly (ExposedPort & { readonly url: string | undefined })[];
  /** Who answers at the log port: the tunnel client, or a server of the environment. */
  readonly logs: Environment['logs'];
  /** `pending`: no gateway has answered. `refused`: at least one has refused, and none has accepted. */
  readonly state: 'pending' | 'accepted' | 'refused';
  /** Why it was refused, or refused at one of several gateways; or what of it is not served as announced. */
  readonly code: string | undefined;
  readonly message: string | undefined;
}

export interface RunnerProblem {
  /** ms since the epoch. */
  readonly at: number;
  readonly code: string | undefined;
  readonly message: string;
  /** Until it is tried again; undefined where nothing is. */
  readonly retryInMs: number | undefined;
}

/** Of the gateways in the configuration. */
export interface GatewayStatus {
  /** The one the runner belongs to; undefined until it is chosen from a list. */
  readonly gateway: string | undefined;
  /** What was measured when it was chosen; empty where there is only one. */
  readonly measurements: readonly GatewayMeasurement[];
}

export interface RunnerStatus extends GatewayStatus {
  readonly state: RunnerState;
  readonly runnerId: string;
  readonly organization: string | undefined;
  readonly keyFingerprint: string | undefined;
  /** ms since the epoch. */
  readonly membershipExpiresAt: number | undefined;
  readonly legs: readonly LegStatus[];
  readonly environments: readonly EnvironmentStatus[];
  readonly streams: DialerStats;
  readonly oauth: {
    /** Where callbacks go; undefined: they are refused. */
    readonly target: string | undefined;
    /** URL to register with each SCM, by name; `callbackUrl()` has those of other names. */
    readonly callbackUrls: Readonly<Record<string, string>>;
  };
  /** Payload of tunnel streams since the start, over all legs. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** The last ones, newest first. */
  readonly problems: readonly RunnerProblem[];
}

export type LegEvent =
  | {
      readonly type: 'up';
      readonly legId: string;
      readonly gatewayId: string;
      readonly transport: TransportName;
      readonly reason: TransportReason;
      readonly inspected: boolean;
      readonly remoteAddress: string;
    }
  | { readonly type: 'suspect' | 'recovered' | 'drained' | 'left'; readonly legId: string; readonly gatewayId: string }
  | {
      readonly type: 'down';
      readonly legId: string;
      readonly gatewayId: string;
      readonly code: LegCloseCode;
      readonly by: EndedBy;
      readonly reason: string | undefined;
    };

export interface EnvironmentEvent {
  readonly id: string;
  readonly gatewayId: string;
  readonly accepted: boolean;
  /** Why not; when accepted, what of it is not served as announced. */
  readonly code: string | undefined;
  readonly message: string | undefined;
  readonly urls: readonly { readonly port: number; readonly url: string }[];
}

export interface RunnerEvents {
  leg: [event: LegEvent];
  state: [state: RunnerState];
  /** Something failed; `retryInMs` says when it is tried again. Unlike elsewhere in Node, nobody has to listen. */
  error: [error: Error, problem: RunnerProblem];
  environment: [event: EnvironmentEvent];
}

/** `legs` with what each has carried, as of now. */
export const legStatuses = (legs: readonly SupervisedLeg[], clock: Pick<Clock, 'monotonic'>): LegStatus[] => {
  const healthiest = healthiestOf(legs);
  return legs.map((entry) => {
    const { leg, gatewayId, reason, state, upSince, echoMs } = entry;
    const { rttMs, packets, peerPackets, openStreams, bytesSent, bytesReceived } = leg.stats();
    return {
      id: leg.id,
      gatewayId,
      transport: leg.transport,
      reason,
      inspected: leg.inspected,
      remoteAddress: leg.remoteAddress,
      state,
      rttMs,
      echoMs,
      isHealthiest: entry === healthiest,
      packets,
      gatewayPackets: peerPackets,
      openStreams,
      bytesSent,
      bytesReceived,
      upForMs: Math.round(clock.monotonic() - upSince),
    };
  });
};

export const environmentStatus = (
  environment: Environment,
  verdicts: readonly {
    result: {
      accepted: boolean;
      code?: string | undefined;
      message?: string | undefined;
      urls: readonly { port: number; url: string }[];
    };
  }[],
): EnvironmentStatus => {
  const accepted = verdicts.find(({ result }) => result.accepted)?.result;
  const refused = verdicts.find(({ result }) => !result.accepted)?.result;
  return {
    id: environment.id,
    host: environment.host,
    ports: environment.ports.map((port) => ({
      ...port,
      url: accepted?.urls.find((entry) => entry.port === port.port)?.url,
    })),
    logs: environment.logs,
    state: accepted ? 'accepted' : refused ? 'refused' : 'pending',
    code: (refused ?? accepted)?.code,
    message: (refused ?? accepted)?.message,
  };
};
