/** The gateway's metrics, in a registry of its own. No runner or environment id is a label: their number has no bound. */
import { STATUS_CODES } from 'node:http';
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { CLIENT_CLOSED_STATUS } from '../proxy/exchange.ts';

export interface TunnelSnapshot {
  /** Live legs by transport. */
  readonly legs: ReadonlyMap<string, number>;
  readonly openStreams: number;
  /** Payload since the gateway started, legs that are gone included. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly unauthenticated: number;
  readonly turnedAway: number;
}

export interface Metrics {
  /** Prometheus text format. */
  text(): Promise<string>;
  readonly contentType: string;
  requestStarted(): void;
  requestEnded(request: {
    readonly protocol: string;
    readonly status: number;
    readonly durationMs: number;
    /** Until the upstream's response head, if one came. */
    readonly upstreamMs: number | undefined;
    /** Why the gateway answered instead of the application. */
    readonly errorCode: string | undefined;
  }): void;
  /** A connection or request of which no exchange could be made. */
  refused(code: string): void;
  joined(result: string): void;
  legClosed(reason: string): void;
  echoed(rttMs: number): void;
  /** 1 once everything is up, 0 while it drains. */
  setUp(up: boolean): void;
}

const PREFIX = 'gitpod_gateway_';
/** Pages of dev servers take from milliseconds to tens of seconds; streams end up in the last one. */
const REQUEST_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
/** From the same machine to the other side of the earth over a bad link. */
const RTT_BUCKETS = [0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 5];
/** Errors that lie behind the gateway: the tunnel or the application. */
const BACKEND_FAILURES =
  /^(?:upstream_|tunnel_lost$|runner_offline$|logs_unreachable$|login_(?:interrupted|service_unreachable|not_configured|runner_offline)$)/;

/**
 * A status as a label: those of the registry and 499 (the client left) by themselves, what an application makes up by its
 * class. So their number has a bound.
 */
const statusLabel = (status: number): string =>
  status === CLIENT_CLOSED_STATUS || Object.hasOwn(STATUS_CODES, status)
    ? String(status)
    : `${Math.trunc(status / 100)}xx`;

export const createMetrics = (deps: {
  readonly tunnels: () => TunnelSnapshot;
  readonly certificates?: () => readonly { readonly names: readonly string[]; readonly validTo: number }[];
  /** Certificates whose files hold something that cannot replace them. */
  readonly certificateFaults?: () => number;
  readonly droppedLogLines?: (() => number) | undefined;
  /** Spans for OpenTelemetry; undefined: none are made. */
  readonly spans?: () => { readonly exported: number; readonly failed: number; readonly dropped: number } | undefined;
}): Metrics => {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });

  const up = new Gauge({ name: `${PREFIX}proxy_up`, help: 'Whether the gateway serves.', registers });
  up.set(0);
  // Counted in numbers of our own, and handed over when somebody reads: labels are hashed at each call otherwise.
  let running = 0;
  const ended = new Map<string, Map<number, number>>();
  new Counter({
    name: `${PREFIX}proxy_http_requests_total`,
    help: 'Requests that ended.',
    labelNames: ['protocol', 'status_code'] as const,
    registers,
    collect() {
      this.reset();
      for (const [protocol, statuses] of ended) {
        for (const [status, count] of statuses) this.inc({ protocol, status_code: statusLabel(status) }, count);
      }
    },
  });
  new Gauge({
    name: `${PREFIX}proxy_http_requests_in_flight`,
    help: 'Requests and upgraded connections under way.',
    registers,
    collect() {
      this.set(running);
    },
  });
  const duration = new Histogram({
    name: `${PREFIX}proxy_http_request_duration_seconds`,
    help: 'From the head of a request to the end of its response.',
    labelNames: ['protocol'] as const,
    buckets: REQUEST_BUCKETS,
    registers,
  });
  const backendDuration = new Histogram({
    name: `${PREFIX}proxy_http_backend_request_duration_seconds`,
    help: 'From the head of a request to the head of the response of the application.',
    labelNames: ['protocol'] as const,
    buckets: REQUEST_BUCKETS,
    registers,
  });
  const backendFailures = new Counter({
    name: `${PREFIX}proxy_http_backend_failures_total`,
    help: 'Requests that failed behind the gateway, by error code.',
    labelNames: ['error_type'] as const,
    registers,
  });
  const refused = new Counter({
    name: `${PREFIX}proxy_refused_total`,
    help: 'Connections and requests refused before they were routed, by error code.',
    labelNames: ['error_type'] as const,
    registers,
  });
  const joins = new Counter({
    name: `${PREFIX}joins_total`,
    help: 'Joins and renewals of runners, by result.',
    labelNames: ['result'] as const,
    registers,
  });
  const legsClosed = new Counter({
    name: `${PREFIX}legs_closed_total`,
    help: 'Legs that ended, by reason.',
    labelNames: ['reason'] as const,
    registers,
  });
  const rtt = new Histogram({
    name: `${PREFIX}leg_rtt_seconds`,
    help: 'Round trip of the echoes by which the data path of each leg is watched.',
    buckets: RTT_BUCKETS,
    registers,
  });

  new Gauge({
    name: `${PREFIX}legs`,
    help: 'Live legs.',
    labelNames: ['transport'] as const,
    registers,
    collect() {
      this.reset();
      for (const [transport, count] of deps.tunnels().legs) this.set({ transport }, count);
    },
  });
  new Gauge({
    name: `${PREFIX}certificate_expiry_timestamp_seconds`,
    help: 'When a TLS certificate of the configuration expires, by its first name.',
    labelNames: ['certificate'] as const,
    registers,
    collect() {
      this.reset();
      for (const { names, validTo } of deps.certificates?.() ?? []) {
        this.set({ certificate: names[0] ?? '' }, validTo / 1_000);
      }
    },
  });
  new Gauge({
    name: `${PREFIX}certificate_faults`,
    help: 'TLS certificates whose files were replaced by something that cannot be used; the old ones serve.',
    registers,
    collect() {
      this.set(deps.certificateFaults?.() ?? 0);
    },
  });
  new Gauge({
    name: `${PREFIX}tunnel_streams_open`,
    help: 'Open tunnel streams.',
    registers,
    collect() {
      this.set(deps.tunnels().openStreams);
    },
  });
  new Counter({
    name: `${PREFIX}tunnel_bytes_total`,
    help: 'Payload of tunnel streams.',
    labelNames: ['direction'] as const,
    registers,
    collect() {
      const { bytesSent, bytesReceived } = deps.tunnels();
      this.reset();
      this.inc({ direction: 'sent' }, bytesSent);
      this.inc({ direction: 'received' }, bytesReceived);
    },
  });
  new Gauge({
    name: `${PREFIX}unauthenticated_connections`,
    help: 'Tunnel connections that have not shown who they are.',
    registers,
    collect() {
      this.set(deps.tunnels().unauthenticated);
    },
  });
  new Counter({
    name: `${PREFIX}log_lines_dropped_total`,
    help: 'Lines of the log that were lost because its sink takes none.',
    registers,
    collect() {
      this.reset();
      this.inc(deps.droppedLogLines?.() ?? 0);
    },
  });
  new Counter({
    name: `${PREFIX}trace_spans_total`,
    help: 'OpenTelemetry spans, by what became of them.',
    labelNames: ['result'] as const,
    registers,
    collect() {
      this.reset();
      for (const [result, count] of Object.entries(deps.spans?.() ?? {})) this.inc({ result }, count);
    },
  });
  new Counter({
    name: `${PREFIX}connections_turned_away_total`,
    help: 'Tunnel connections closed before their handshake because there were too many.',
    registers,
    collect() {
      this.reset();
      this.inc(deps.tunnels().turnedAway);
    },
  });

  return {
    text: () => registry.metrics(),
    contentType: registry.contentType,
    requestStarted: () => void running++,
    requestEnded({ protocol, status, durationMs, upstreamMs, errorCode }) {
      running--;
      let statuses = ended.get(protocol);
      if (!statuses) ended.set(protocol, (statuses = new Map()));
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      duration.observe({ protocol }, durationMs / 1_000);
      if (upstreamMs !== undefined) backendDuration.observe({ protocol }, upstreamMs / 1_000);
      if (errorCode && BACKEND_FAILURES.test(errorCode)) backendFailures.inc({ error_type: errorCode });
    },
    refused: (code) => refused.inc({ error_type: code }),
    joined: (result) => joins.inc({ result }),
    legClosed: (reason) => legsClosed.inc({ reason }),
    echoed: (rttMs) => rtt.observe(rttMs / 1_000),
    setUp: (isUp) => up.set(isUp ? 1 : 0),
  };
};
