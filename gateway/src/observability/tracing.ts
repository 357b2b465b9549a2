/**
 * OpenTelemetry: which requests are traced, and the spans of each. A traced request has a server span and, as far as it
 * came, two children: `tunnel` (a stream on a leg, until its target was connected) and `upstream` (from there to the end
 * of the answer), which the application's own spans hang below. They are made when the request has ended, of what the
 * access log tells as well; until then tracing keeps three ids.
 *
 * Loaded only where `tracing` is configured.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import type { GatewayConfig } from '../config.ts';
import { CLIENT_CLOSED_STATUS, type ExchangeRecord } from '../proxy/exchange.ts';
import { traceParentOf } from '../proxy/trace-parent.ts';
import { VERSION } from '../version.ts';
import { isSampled, loggedPath, type LoggedExchange } from './access-log.ts';
import type { Logger } from './log.ts';
import { encodeSpans, type Attributes, type Span } from './otlp.ts';
import { openReceiver } from './otlp-receiver.ts';
import { createSpanExport, type SpanCounts, type SpanExport } from './span-export.ts';

/** What tracing reads of an exchange. */
export interface TracedExchange extends LoggedExchange {
  readonly authorityPort: number;
  readonly rawHeaders: readonly string[];
}

export interface Tracing {
  /** `traceparent` for the upstream of a traced request; undefined: it is not traced. */
  traceParent(exchange: TracedExchange): string | undefined;
  ended(exchange: TracedExchange, status: number, nowMs: number): void;
  counts(): SpanCounts;
  close(): Promise<void>;
}

interface Trace {
  readonly traceId: string;
  /** The client's span. */
  readonly parentSpanId: string | undefined;
  readonly flags: string;
}

const SERVICE = 'gitpod-gateway';
/** From here on a server's answer is its failure; 4xx are the client's (semantic conventions, HTTP spans). */
const FIRST_FAILURE_STATUS = 500;
/** Methods that are told as they are; a client's inventions are `_OTHER` (semantic conventions, HTTP spans). */
const METHODS: ReadonlySet<string> = new Set([
  ...['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'CONNECT', 'TRACE', 'QUERY'],
]);

/** Span ids are three parts of the request id, which is random: nothing more has to be drawn or kept. */
const spanIds = (requestId: string) => ({
  server: requestId.slice(0, 16),
  tunnel: requestId.slice(8, 24),
  upstream: requestId.slice(16),
});

/**
 * A client that says "not sampled" is obeyed. One that says "sampled" is a stranger, who could have every request traced
 * so: its trace is continued for the same share of requests as any other, drawn by our own random id, not by its.
 */
const chooseTrace = ({ requestId, rawHeaders }: TracedExchange, sampleRatio: number): Trace | undefined => {
  if (!isSampled(requestId, sampleRatio)) return undefined;
  const remote = traceParentOf(rawHeaders);
  if (remote === undefined) return { traceId: requestId, parentSpanId: undefined, flags: '01' };
  const [, traceId = '', parentSpanId, flags = ''] = remote.split('-');
  return (Number.parseInt(flags, 16) & 1) === 0 ? undefined : { traceId, parentSpanId, flags };
};

const methodOf = (method: string): string => (METHODS.has(method) ? method : '_OTHER');

const errorType = (status: number, { errorCode }: ExchangeRecord): string | undefined => {
  if (errorCode !== undefined) return errorCode;
  if (status === CLIENT_CLOSED_STATUS) return 'client_closed';
  return status >= FIRST_FAILURE_STATUS ? String(status) : undefined;
};

/** The spans of a request that has ended. `endMs` is wall clock. */
const spansOf = (exchange: TracedExchange, trace: Trace, status: number, endMs: number, durationMs: number): Span[] => {
  const { requestId, record, host, authorityPort } = exchange;
  const ids = spanIds(requestId);
  const startMs = endMs - durationMs;
  const method = methodOf(exchange.method);
  const path = loggedPath(exchange.target);
  const error = errorType(status, record);
  const isError = error !== undefined && status >= FIRST_FAILURE_STATUS;
  const common = {
    'http.request.method': method,
    'http.request.method_original': method === exchange.method ? undefined : loggedPath(exchange.method),
    'http.response.status_code': status === CLIENT_CLOSED_STATUS ? undefined : status,
    'server.address': host,
    'server.port': authorityPort,
    'error.type': error,
    'gitpod.request.id': requestId,
    'gitpod.environment.id': record.environmentId,
    'gitpod.runner.id': record.runnerId,
  };
  const make = (span: Pick<Span, 'spanId' | 'name' | 'kind'> & Partial<Span>): Span => ({
    traceId: trace.traceId,
    parentSpanId: ids.server,
    parentIsRemote: false,
    startMs,
    endMs,
    attributes: {},
    events: [],
    isError,
    ...span,
  });
  const spans = [
    make({
      spanId: ids.server,
      parentSpanId: trace.parentSpanId,
      parentIsRemote: trace.parentSpanId !== undefined,
      name: method,
      kind: 'server',
      attributes: {
        ...common,
        'url.scheme': 'https',
        'url.path': path,
        'network.protocol.name': 'http',
        'network.protocol.version': exchange.protocol === 'h2' ? '2' : '1.1',
        'client.address': exchange.clientAddress,
        'gitpod.port': record.port,
      },
    }),
  ];
  const { edgeMs, tunnelMs, upstreamMs } = record;
  if (edgeMs === undefined) return spans;
  const tunnel: Attributes = { 'gitpod.leg.id': record.legId, 'gitpod.leg.transport': record.legTransport };
  spans.push(
    make({
      spanId: ids.tunnel,
      name: 'tunnel',
      kind: 'internal',
      startMs: startMs + edgeMs,
      endMs: tunnelMs === undefined ? endMs : startMs + tunnelMs,
      attributes: { ...tunnel, 'error.type': tunnelMs === undefined ? error : undefined },
      isError: isError && tunnelMs === undefined,
    }),
  );
  if (tunnelMs === undefined) return spans;
  spans.push(
    make({
      spanId: ids.upstream,
      name: method,
      kind: 'client',
      startMs: startMs + tunnelMs,
      attributes: { ...common, ...tunnel, 'url.full': `https://${host}:${authorityPort}${path}` },
      events: upstreamMs === undefined ? [] : [{ name: 'response head', atMs: startMs + upstreamMs }],
    }),
  );
  return spans;
};

export const createTracing = async (
  deps: {
    readonly clock: Clock;
    readonly log: Logger;
    /** Id of the gateway. */
    readonly instance: string;
  },
  config: NonNullable<GatewayConfig['tracing']>,
): Promise<Tracing> => {
  const { clock, log, instance } = deps;
  const receiver = await openReceiver(config);
  const resource = {
    'service.name': SERVICE,
    'service.version': VERSION,
    'service.instance.id': instance,
  };
  const scope = { name: SERVICE, version: VERSION };
  const spans: SpanExport = createSpanExport({
    clock,
    log,
    send: (batch, options) => receiver.send(encodeSpans(resource, scope, batch), options),
  });
  const traces = new WeakMap<TracedExchange, Trace | { readonly traceId?: undefined }>();
  const traceOf = (exchange: TracedExchange): Trace | undefined => {
    let trace = traces.get(exchange);
    if (!trace) traces.set(exchange, (trace = chooseTrace(exchange, config.sampleRatio) ?? {}));
    return trace.traceId === undefined ? undefined : trace;
  };
  return {
    traceParent(exchange) {
      const trace = traceOf(exchange);
      return trace && `00-${trace.traceId}-${spanIds(exchange.requestId).upstream}-${trace.flags}`;
    },
    ended(exchange, status, nowMs) {
      const trace = traceOf(exchange);
      if (trace) spans.add(spansOf(exchange, trace, status, clock.now(), nowMs - exchange.startedAt));
    },
    counts: () => spans.counts(),
    async close() {
      await spans.close();
      await receiver.close();
    },
  };
};
