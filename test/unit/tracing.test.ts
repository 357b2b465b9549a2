/** Spans: their encoding against the official encoder, which requests are traced, what each part of a request becomes. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ROOT_CONTEXT, SpanKind, SpanStatusCode, trace, TraceFlags } from '@opentelemetry/api';
import { JsonTraceSerializer } from '@opentelemetry/otlp-transformer';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { TracerProvider, type ReadableSpan } from '@opentelemetry/sdk-trace';
import { parseGatewayConfig } from '../../gateway/src/config.ts';
import { encodeSpans, rejectedSpans, type Span } from '../../gateway/src/observability/otlp.ts';
import { openReceiver, parseHeaderFile, tracesUrl } from '../../gateway/src/observability/otlp-receiver.ts';
import {
  createSpanExport,
  EXPORT_ATTEMPTS,
  EXPORT_INTERVAL_MS,
  EXPORT_RETRY_MS,
  EXPORT_TIMEOUT_MS,
  FAILURE_LOG_INTERVAL_MS,
  FLUSH_ON_CLOSE_MS,
  MAX_RETRY_AFTER_MS,
  MAX_SPANS_PER_EXPORT,
  MAX_WAITING_SPANS,
  type SendResult,
} from '../../gateway/src/observability/span-export.ts';
import { createTracing, type TracedExchange } from '../../gateway/src/observability/tracing.ts';
import { StartError } from '../../gateway/src/start-error.ts';
import { keepLog } from '../support/gateway.ts';
import { createManualClock, settle } from '../support/manual-clock.ts';

const TRACE_ID = '0af7651916cd43dd8448eb211c80319c';
const SPAN: Span = {
  traceId: TRACE_ID,
  spanId: 'b7ad6b7169203331',
  parentSpanId: '00f067aa0ba902b7',
  parentIsRemote: true,
  name: 'GET',
  kind: 'server',
  startMs: 1_790_000_000_123.25,
  endMs: 1_790_000_000_456.5,
  attributes: { 'url.path': '/a "b" ü', 'http.response.status_code': 502, ratio: 0.5, yes: true, absent: undefined },
  events: [{ name: 'response head', atMs: 1_790_000_000_400 }],
  isError: true,
};

/** What both encoders may leave out: whatever is empty or zero says the same as when it is absent. */
const withoutDefaults = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(withoutDefaults);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value)
    .map(([key, inner]) => [key, withoutDefaults(inner)] as const)
    .filter(([, inner]) => !(inner === undefined || inner === 0 || (Array.isArray(inner) && inner.length === 0)))
    .filter(([, inner]) => !(typeof inner === 'object' && inner !== null && Object.keys(inner).length === 0));
  return Object.fromEntries(entries);
};

/** The same span as {@link SPAN}, made and encoded by OpenTelemetry's own packages. */
const officialEncoding = (span: Span, resource: Record<string, string>, scope: { name: string; version: string }) => {
  const ended: ReadableSpan[] = [];
  const provider = new TracerProvider({
    resource: resourceFromAttributes(resource),
    idGenerator: { generateTraceId: () => span.traceId, generateSpanId: () => span.spanId },
    spanProcessors: [
      {
        onStart: () => undefined,
        onEnd: (one) => void ended.push(one),
        forceFlush: () => Promise.resolve(),
        shutdown: () => Promise.resolve(),
      },
    ],
  });
  const parent = {
    traceId: span.traceId,
    spanId: span.parentSpanId!,
    traceFlags: TraceFlags.SAMPLED,
    isRemote: span.parentIsRemote,
  };
  const made = provider.getTracer(scope.name, scope.version).startSpan(
    span.name,
    {
      kind: { server: SpanKind.SERVER, client: SpanKind.CLIENT, internal: SpanKind.INTERNAL }[span.kind],
      startTime: new Date(span.startMs),
      attributes: Object.fromEntries(Object.entries(span.attributes).filter(([, value]) => value !== undefined)),
    },
    trace.setSpanContext(ROOT_CONTEXT, parent),
  );
  for (const { name, atMs } of span.events) made.addEvent(name, new Date(atMs));
  if (span.isError) made.setStatus({ code: SpanStatusCode.ERROR });
  made.end(new Date(span.endMs));
  return JSON.parse(Buffer.from(JsonTraceSerializer.serializeRequest(ended)!).toString('utf8')) as unknown;
};

describe('OTLP', () => {
  const resource = { 'service.name': 'gitpod-gateway', 'service.instance.id': 'g-1' };
  const scope = { name: 'gitpod-gateway', version: '1.2.3' };

  for (const span of [
    SPAN,
    { ...SPAN, kind: 'client', isError: false, parentIsRemote: false, events: [] },
    { ...SPAN, kind: 'internal', startMs: 1_790_000_000_000, endMs: 1_790_000_000_000 },
  ] as const satisfies Span[]) {
    it(`encodes a span (${span.kind}) like OpenTelemetry itself`, () => {
      // `Date` holds whole milliseconds.
      const whole = { ...span, startMs: Math.floor(span.startMs), endMs: Math.floor(span.endMs) };
      const ours: unknown = JSON.parse(encodeSpans(resource, scope, [whole]));
      assert.deepEqual(withoutDefaults(ours), withoutDefaults(officialEncoding(whole, resource, scope)));
    });
  }

  it('keeps microseconds, and ends no span before it began', () => {
    const [span] = (
      JSON.parse(encodeSpans({}, scope, [{ ...SPAN, endMs: SPAN.startMs - 5 }])) as {
        resourceSpans: { scopeSpans: { spans: { startTimeUnixNano: string; endTimeUnixNano: string }[] }[] }[];
      }
    ).resourceSpans[0]!.scopeSpans[0]!.spans;
    assert.equal(span!.startTimeUnixNano, '1790000000123250000');
    assert.equal(span!.endTimeUnixNano, '1790000000123250000');
  });

  it('reads how many spans were refused', () => {
    assert.equal(rejectedSpans('{"partialSuccess":{"rejectedSpans":"3","errorMessage":"no"}}'), 3);
    assert.equal(rejectedSpans('{"partialSuccess":{"rejectedSpans":2}}'), 2);
    for (const nothing of ['', '{}', 'null', '[]', '{"partialSuccess":{"rejectedSpans":"-1"}}', '<html>', '{"a":']) {
      assert.equal(rejectedSpans(nothing), 0, nothing);
    }
  });
});

describe('where spans go', () => {
  it('is v1/traces below the endpoint', () => {
    assert.equal(tracesUrl('http://collector:4318').href, 'http://collector:4318/v1/traces');
    assert.equal(tracesUrl('https://example.com/otlp/').href, 'https://example.com/otlp/v1/traces');
    assert.equal(tracesUrl('https://example.com/v1/traces').href, 'https://example.com/v1/traces');
  });

  it('reads header fields, and never tells their values', () => {
    assert.deepEqual(parseHeaderFile('# who we are\nAuthorization: Bearer abc:def \r\n\nX-Scope-OrgID:  team-1\n'), {
      authorization: 'Bearer abc:def',
      'x-scope-orgid': 'team-1',
    });
    for (const bad of [
      'sesame',
      'Bad Name: sesame',
      'name: ses\u0001ame',
      'Content-Type: sesame',
      'x'.repeat(20_000),
    ]) {
      assert.throws(
        () => parseHeaderFile(bad),
        (error: Error) => !error.message.includes('sesame'),
        bad,
      );
    }
  });

  it('refuses a configuration that cannot work, without repeating what may be secret in it', () => {
    const parse = (tracing: string) => () => parseGatewayConfig(`tracing: ${tracing}`, {});
    assert.equal(parseGatewayConfig('', {}).tracing, undefined);
    const { tracing } = parseGatewayConfig(
      undefined,
      { GATEWAY_TRACING_ENDPOINT: 'http://c:4318', GATEWAY_TRACING_SAMPLE_RATIO: '0.25' },
      {},
    );
    assert.deepEqual(
      { ...tracing },
      { endpoint: 'http://c:4318', headersFile: undefined, ca: undefined, sampleRatio: 0.25 },
    );
    for (const endpoint of ['collector:4318', 'grpc://c:4317', 'https://me:sesame@c', 'https://c/?key=sesame', '""']) {
      assert.throws(parse(`{ endpoint: ${endpoint} }`), (error: Error) => {
        assert.match(error.message, /tracing\.endpoint/);
        assert.doesNotMatch(error.message, /sesame/);
        return true;
      });
    }
    assert.throws(parse('{ endpoint: "http://c:4318", sampleRatio: 2 }'), /tracing\.sampleRatio/);
    assert.throws(parse('{ endpoint: "http://c:4318", headerFile: x }'), /did you mean headersFile/);
  });

  it('names the option whose file cannot be used', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'tracing-'));
    try {
      const bad = join(directory, 'bad');
      await writeFile(bad, 'sesame');
      const config = { endpoint: 'http://c:4318', headersFile: undefined, ca: undefined, sampleRatio: 1 };
      for (const [option, value] of [
        ['headersFile', join(directory, 'absent')],
        ['headersFile', bad],
        ['ca', join(directory, 'absent')],
      ] as const) {
        await assert.rejects(
          openReceiver({ ...config, [option]: value }),
          (error) =>
            error instanceof StartError && error.option === `tracing.${option}` && !/sesame/.test(error.message),
        );
      }
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

describe('the export of spans', () => {
  const some = (count: number): Span[] => Array.from({ length: count }, () => SPAN);
  const start = (answers: (SendResult | 'never')[] = []) => {
    const clock = createManualClock();
    const kept = keepLog();
    const batches: number[] = [];
    const spans = createSpanExport({
      clock,
      log: kept.log,
      send(batch, { signal }) {
        batches.push(batch.length);
        const answer = answers.shift() ?? { kind: 'taken', rejected: 0 };
        if (answer !== 'never') return Promise.resolve(answer);
        return new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason as Error));
        });
      },
    });
    return { clock, spans, batches, lines: kept.lines };
  };
  const LATER: SendResult = { kind: 'later', reason: 'status_503', afterMs: undefined };

  it('collects for a while, and sends a full batch at once', async () => {
    const { clock, spans, batches } = start();
    spans.add(some(3));
    await clock.advance(EXPORT_INTERVAL_MS - 1);
    assert.deepEqual(batches, []);
    await clock.advance(1);
    assert.deepEqual(batches, [3]);
    spans.add(some(MAX_SPANS_PER_EXPORT + 5));
    await settle();
    assert.deepEqual(batches, [3, MAX_SPANS_PER_EXPORT]);
    await clock.advance(EXPORT_INTERVAL_MS);
    assert.deepEqual(batches, [3, MAX_SPANS_PER_EXPORT, 5]);
    assert.deepEqual(spans.counts(), { exported: MAX_SPANS_PER_EXPORT + 8, failed: 0, dropped: 0 });
  });

  it('sends again what may be sent again, as often as it says', async () => {
    const { clock, spans, batches, lines } = start([LATER, { ...LATER, afterMs: 20_000 }]);
    spans.add(some(2));
    await clock.advance(EXPORT_INTERVAL_MS);
    await clock.advance(EXPORT_RETRY_MS);
    assert.equal(batches.length, 2);
    await clock.advance(19_999);
    assert.equal(batches.length, 2);
    await clock.advance(1);
    assert.deepEqual(spans.counts(), { exported: 2, failed: 0, dropped: 0 });
    assert.equal(lines.length, 0);
  });

  it('gives up in the end, at a wish for too long a pause as well', async () => {
    const { clock, spans, batches } = start([LATER, { ...LATER, afterMs: 10 * MAX_RETRY_AFTER_MS }, LATER]);
    spans.add(some(2));
    await clock.advance(EXPORT_INTERVAL_MS);
    await clock.advance(EXPORT_RETRY_MS);
    await clock.advance(MAX_RETRY_AFTER_MS);
    assert.equal(batches.length, EXPORT_ATTEMPTS);
    assert.deepEqual(spans.counts(), { exported: 0, failed: 2, dropped: 0 });
  });

  it('waits for no answer longer than it should', async () => {
    const { clock, spans, batches } = start(['never']);
    spans.add(some(1));
    await clock.advance(EXPORT_INTERVAL_MS);
    await clock.advance(EXPORT_TIMEOUT_MS);
    await clock.advance(EXPORT_RETRY_MS);
    assert.equal(batches.length, 2);
    assert.equal(spans.counts().exported, 1);
  });

  it('counts what the receiver refused, whole or in part, and says so once a minute', async () => {
    const refused: SendResult = { kind: 'refused', reason: 'status_401' };
    const { clock, spans, lines } = start([refused, { kind: 'taken', rejected: 1 }, refused]);
    for (let round = 0; round < 2; round++) {
      spans.add(some(4));
      await clock.advance(EXPORT_INTERVAL_MS);
    }
    assert.deepEqual(spans.counts(), { exported: 3, failed: 5, dropped: 0 });
    assert.deepEqual(
      lines.map(({ spans: count, reason }) => [count, reason]),
      [[4, 'status_401']],
    );
    await clock.advance(FAILURE_LOG_INTERVAL_MS);
    spans.add(some(4));
    await clock.advance(EXPORT_INTERVAL_MS);
    // The one that was not told before is told now.
    assert.deepEqual(lines.at(-1)?.['spans'], 5);
  });

  it('drops what does not fit, and never holds more', async () => {
    const { clock, spans, batches } = start(['never']);
    for (let round = 0; round < MAX_WAITING_SPANS + 10; round++) spans.add(some(1));
    await settle();
    assert.deepEqual(batches, [MAX_SPANS_PER_EXPORT]);
    assert.deepEqual(spans.counts(), { exported: 0, failed: 0, dropped: 10 });
    await clock.advance(EXPORT_TIMEOUT_MS);
    await clock.advance(EXPORT_RETRY_MS);
    assert.equal(spans.counts().exported, MAX_WAITING_SPANS);
  });

  it('sends what is left when it is closed', async () => {
    const { spans, batches, clock } = start();
    spans.add(some(7));
    await Promise.all([spans.close(), spans.close()]);
    assert.deepEqual(batches, [7]);
    spans.add(some(1));
    await clock.advance(EXPORT_INTERVAL_MS);
    assert.deepEqual(spans.counts(), { exported: 7, failed: 0, dropped: 1 });
  });

  it('is closed in time while the receiver is silent, or asks to come later', async () => {
    for (const answer of ['never', { ...LATER, afterMs: 30_000 }] as const) {
      const { spans, clock } = start([answer]);
      spans.add(some(MAX_SPANS_PER_EXPORT + 1));
      await settle();
      const closed = spans.close();
      await clock.advance(FLUSH_ON_CLOSE_MS);
      await closed;
      assert.deepEqual(spans.counts(), { exported: 0, failed: MAX_SPANS_PER_EXPORT, dropped: 1 });
    }
  });
});

describe('which requests are traced', () => {
  const REQUEST_ID = '3f1b2c4d5e6f4a8b9c0d1e2f3a4b5c6d';
  const exchange = (of: { requestId?: string; traceparent?: string[] } = {}): TracedExchange => ({
    requestId: of.requestId ?? REQUEST_ID,
    host: '3000--demo.gateway.localhost',
    authorityPort: 443,
    method: 'GET',
    target: '/',
    rawHeaders: (of.traceparent ?? []).flatMap((value) => ['TraceParent', value]),
    protocol: 'h2',
    clientAddress: '192.0.2.1',
    startedAt: 0,
    record: { bytesReceived: 0, bytesSent: 0 },
  });
  const tracing = (sampleRatio: number) =>
    createTracing(
      { clock: createManualClock(), log: keepLog().log, instance: 'g-1' },
      { endpoint: 'http://127.0.0.1:9', headersFile: undefined, ca: undefined, sampleRatio },
    );
  const remote = (flags: string) => `00-${TRACE_ID}-00f067aa0ba902b7-${flags}`;

  it('are a share of those that come without a trace, and their trace is named after the request', async () => {
    const all = await tracing(1);
    assert.equal(all.traceParent(exchange()), `00-${REQUEST_ID}-${REQUEST_ID.slice(16)}-01`);
    assert.equal((await tracing(0)).traceParent(exchange()), undefined);
    // 0x3f1b2c4d is 0.2465 of the range.
    assert.equal((await tracing(0.24)).traceParent(exchange()), undefined);
    assert.notEqual((await tracing(0.25)).traceParent(exchange()), undefined);
  });

  it('are not those whose client says that they are not', async () => {
    assert.equal((await tracing(1)).traceParent(exchange({ traceparent: [remote('00')] })), undefined);
  });

  it('are of those whose client says so no larger a share: no stranger has more traced', async () => {
    const some = await tracing(0.25);
    assert.equal(
      some.traceParent(exchange({ traceparent: [remote('03')] })),
      `00-${TRACE_ID}-${REQUEST_ID.slice(16)}-03`,
    );
    // Neither the flag nor the id of the trace decides, which a stranger chooses.
    const unlucky = `f${REQUEST_ID.slice(1)}`;
    assert.equal(some.traceParent(exchange({ requestId: unlucky, traceparent: [remote('01')] })), undefined);
  });

  it('begin a trace of their own where what came is none', async () => {
    const all = await tracing(1);
    for (const bad of [
      ['nonsense'],
      [remote('01'), remote('01')],
      [remote('01').replace(/^00/, 'ff')],
      [`00-${'0'.repeat(32)}-00f067aa0ba902b7-01`],
    ]) {
      assert.match(all.traceParent(exchange({ traceparent: bad })) ?? '', new RegExp(`^00-${REQUEST_ID}-`));
    }
  });
});
