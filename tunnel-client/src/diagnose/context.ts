/** What all steps of a diagnosis share. */
import type { Clock } from '../../../shared/src/clock.ts';
import type { HostPort } from '../../../shared/src/transport/address.ts';
import type { GivenMembership } from '../given-membership.ts';
import type { GatewayUrl } from '../gateway-url.ts';
import type { Outbound } from '../outbound.ts';
import type { ProxySettings } from '../proxy-settings.ts';
import type { Resolver } from '../resolver.ts';
import type { TransportChoice } from '../transport.ts';
import type { CheckRun, Progress } from './check-run.ts';
import type { Finding } from './report.ts';

/** A look-up has a limit of 4.5 s itself. */
export const NAME_LIMIT_MS = 5_000;
/** A SYN or a first packet that is lost is repeated after 1 and 3 s. */
export const CONNECT_LIMIT_MS = 8_000;
/** What stays on this machine. */
export const LOCAL_LIMIT_MS = 2_000;

export interface DiagnoseDeps {
  readonly clock: Clock;
  /** Asks the client that runs beside; absent: none is asked. */
  readonly askRunning?: (signal: AbortSignal) => Promise<Finding>;
  readonly onProgress?: (progress: Progress) => void;
}

export interface DiagnoseOptions {
  /** All that are configured; of several the one that is kept, else the fastest, is looked at. */
  readonly urls: readonly GatewayUrl[];
  readonly runnerId: string;
  readonly stateDir: string;
  /** The private key as a JWK; absent: that of the state directory. */
  readonly key: string | undefined;
  /** From another authority. */
  readonly membership: GivenMembership | undefined;
  readonly ca: string | undefined;
  readonly proxy: ProxySettings;
  readonly transport: TransportChoice;
  /** An exchange token is configured; it is not used. */
  readonly hasToken: boolean;
}

/** `direct` goes past the proxy. */
export interface Context {
  /** The gateway that is looked at. */
  readonly url: GatewayUrl;
  readonly deps: DiagnoseDeps;
  readonly options: DiagnoseOptions;
  readonly run: CheckRun;
  readonly outbound: Outbound;
  readonly direct: Outbound;
  readonly resolver: Resolver;
  readonly signal: AbortSignal;
}

export const proxyOf = ({ outbound, signal }: Context, target: HostPort): Promise<string | undefined> =>
  outbound.proxyOf(target, { signal });
