/** The configuration of a gateway: YAML and variables are parsed into one frozen type, or every fault is named. */
import type { Admission } from '../../shared/src/protocol/messages.ts';
import type { GatewayLimits } from './limits.ts';

export interface ListenAddress {
  /** IP address or host name, without brackets. */
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
}
export type InternalAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

export interface OrganizationPolicy {
  readonly portSharing: boolean;
  /** The widest admission that ports of the organization may have. */
  readonly highestAdmission: Admission;
  readonly allowInspectedTls: boolean;
  readonly limits: Partial<GatewayLimits>;
}

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface GatewayConfig {
  /** Lower-case; at least one. */
  readonly domains: readonly string[];
  readonly listeners: {
    readonly https: readonly ListenAddress[];
    readonly quic: readonly ListenAddress[];
    readonly http: readonly ListenAddress[];
    readonly internal: InternalAddress;
  };
  /** Port in the URLs that are printed; undefined: that of the first https listener. */
  readonly publicPort: number | undefined;
  /** `host:port` that runners dial over UDP; empty: the API's host name and the port of the QUIC listener. */
  readonly advertise: { readonly quic: readonly string[] };
  /** Paths, absolute. Empty: self-signed, in `<stateDir>/self-signed`. */
  readonly tls: readonly { readonly certificate: string; readonly key: string }[];
  /** Absolute. */
  readonly stateDir: string;
  readonly directory: { readonly type: 'embedded' };
  readonly organizations: Readonly<Record<string, OrganizationPolicy>>;
  readonly limits: GatewayLimits;
  readonly drainDelayMs: number;
  readonly drainTimeoutMs: number;
  /** Addresses and networks (CIDR) of proxies that are believed. */
  readonly trustedProxies: readonly string[];
  readonly logLevel: LogLevel;
}
