/**
 * Spans in OTLP's JSON encoding, as `POST /v1/traces` carries them (opentelemetry-proto 1.x, `trace/v1/trace.proto`;
 * JSON rules: OTLP specification, "JSON Protobuf Encoding": ids in hex, 64-bit times as decimal text, enumerations as
 * numbers). A test compares it with what the official encoder makes.
 */

export type AttributeValue = string | number | boolean;
/** What is undefined is left out. */
export type Attributes = Readonly<Record<string, AttributeValue | undefined>>;

/** `SpanKind`. */
const SPAN_KINDS = { internal: 1, server: 2, client: 3 } as const;
/** `StatusCode` of a span that failed; the others say nothing. */
const STATUS_ERROR = 2;
/** `SpanFlags`: sampled (W3C), and whether it is known, and true, that the parent lies in another process. */
const FLAG_SAMPLED = 0x01;
const FLAG_HAS_REMOTE = 0x100;
const FLAG_REMOTE = 0x200;

export interface Span {
  /** 16 bytes in hex. */
  readonly traceId: string;
  /** 8 bytes in hex. */
  readonly spanId: string;
  readonly parentSpanId: string | undefined;
  /** The parent is a span of somebody else. */
  readonly parentIsRemote: boolean;
  readonly name: string;
  readonly kind: keyof typeof SPAN_KINDS;
  /** Wall clock, ms, with fractions. */
  readonly startMs: number;
  readonly endMs: number;
  readonly attributes: Attributes;
  readonly events: readonly { readonly name: string; readonly atMs: number }[];
  readonly isError: boolean;
}

const valueOf = (value: AttributeValue): Record<string, AttributeValue> => {
  if (typeof value === 'string') return { stringValue: value };
  if (typeof value === 'boolean') return { boolValue: value };
  return Number.isInteger(value) ? { intValue: value } : { doubleValue: value };
};

const attributesOf = (attributes: Attributes): { key: string; value: Record<string, AttributeValue> }[] =>
  Object.entries(attributes).flatMap(([key, value]) => (value === undefined ? [] : [{ key, value: valueOf(value) }]));

/** Microseconds are what the clock tells; as nanoseconds they exceed what a number holds exactly. */
const nanoseconds = (ms: number): string => `${Math.round(ms * 1_000)}000`;

const encodeSpan = (span: Span): Record<string, unknown> => ({
  traceId: span.traceId,
  spanId: span.spanId,
  ...(span.parentSpanId === undefined ? {} : { parentSpanId: span.parentSpanId }),
  name: span.name,
  kind: SPAN_KINDS[span.kind],
  startTimeUnixNano: nanoseconds(span.startMs),
  endTimeUnixNano: nanoseconds(Math.max(span.startMs, span.endMs)),
  attributes: attributesOf(span.attributes),
  events: span.events.map(({ name, atMs }) => ({ name, timeUnixNano: nanoseconds(atMs), attributes: [] })),
  status: span.isError ? { code: STATUS_ERROR } : {},
  flags: FLAG_SAMPLED | FLAG_HAS_REMOTE | (span.parentIsRemote ? FLAG_REMOTE : 0),
});

/** The body of one export (`ExportTraceServiceRequest`). `resource` says which process the spans come from. */
export const encodeSpans = (
  resource: Attributes,
  scope: { readonly name: string; readonly version: string },
  spans: readonly Span[],
): string =>
  JSON.stringify({
    resourceSpans: [
      {
        resource: { attributes: attributesOf(resource) },
        scopeSpans: [{ scope, spans: spans.map(encodeSpan) }],
      },
    ],
  });

/** How many spans the receiver did not take, by its answer (`ExportTraceServiceResponse`); 0 where it says nothing. */
export const rejectedSpans = (answer: string): number => {
  try {
    const { partialSuccess } = JSON.parse(answer) as { partialSuccess?: { rejectedSpans?: string | number } };
    const count = Number(partialSuccess?.rejectedSpans ?? 0);
    return Number.isSafeInteger(count) && count > 0 ? count : 0;
  } catch {
    // The status has said that they were taken; an answer in another form adds nothing.
    return 0;
  }
};
