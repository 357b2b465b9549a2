/** `traceparent` of W3C Trace Context: which one of a client's is valid, and what goes on instead of it. */
import type { Exchange, UpgradeExchange } from './exchange.ts';

/** Tracing, as those see it who send requests on. */
export interface TraceParents {
  /** For the upstream of a traced request; undefined: it is not traced. */
  traceParent(exchange: Exchange | UpgradeExchange): string | undefined;
}

/** Section 3.2; version ff is invalid, as are zero ids. At most 64 bytes, what OPEN can carry. */
const TRACE_PARENT =
  /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[\x21-\x7e]{1,8})?$/;

/** The valid one of the values that came: several say nothing (section 3.2.1). */
export const validTraceParent = (values: readonly string[]): string | undefined =>
  values.length === 1 && TRACE_PARENT.test(values[0]!) ? values[0] : undefined;

/** The client's, of field lines as they were sent. */
export const traceParentOf = (rawHeaders: readonly string[]): string | undefined =>
  validTraceParent(
    rawHeaders.filter((_, index) => index % 2 === 1 && rawHeaders[index - 1]!.toLowerCase() === 'traceparent'),
  );
