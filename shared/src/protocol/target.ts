/** What a tunnel stream is opened to. */
export type TargetKind = 'port' | 'logs' | 'oauth' | 'echo';

/** The wire number of each kind; never reused. */
export const TARGET_KIND = { port: 1, logs: 2, oauth: 3, echo: 4 } as const satisfies Record<TargetKind, number>;

export interface Target {
  readonly kind: TargetKind;
  /** Empty for `oauth` and `echo`. */
  readonly environmentId: string;
  /** 0 for `oauth` and `echo`. */
  readonly port: number;
  /** The tunnel client speaks TLS to the upstream and does not verify its certificate. */
  readonly tls: boolean;
  /** How many gateways the request has passed before this leg: 0 or 1. */
  readonly hops: number;
  /** For the logs of both sides; at most 64 bytes. */
  readonly requestId: string;
  /** W3C trace context `traceparent`, or empty; at most 64 bytes. */
  readonly traceParent: string;
}
