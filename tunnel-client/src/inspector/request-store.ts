/**
 * The last requests of each environment, in memory and nowhere else. What is kept is accounted for to the byte; the
 * oldest go first, of an environment that has too many and of all of them when there is too much.
 *
 * What was sent to the application is kept as it was, secrets included, because it can be sent again; it leaves this
 * module as a whole only towards the application. Headers of responses are redacted before they are kept.
 */
import type { Clock } from '../../../shared/src/clock.ts';
import type { Target } from '../../../shared/src/protocol/target.ts';
import type { Direction, Exchange, ExchangeSink, RequestLine, StatusLine } from './exchange-observer.ts';
import { redactHeaders } from './redaction.ts';

/** Requests of one environment: what a person looks through. The oldest go. */
export const KEPT_REQUESTS = 200;
/** Of a body, bytes. The rest passes and is only counted. */
export const KEPT_BODY_BYTES = 64 << 10;
/** Of all that is kept, bytes, over all environments. The oldest go. */
export const MAX_KEPT_BYTES = 32 << 20;
/** What a request takes in memory beside its text and bodies, bytes, accounted for each. */
export const REQUEST_OVERHEAD_BYTES = 2 << 10;
/** What a header takes beside its text, bytes: two strings and the list they are in. Thousands of short ones are possible. */
export const FIELD_OVERHEAD_BYTES = 160;

/** `open`: the response is not complete. `cut`: and never will be. `other`: from here on it could not be read. */
export type ExchangeState = 'open' | 'done' | 'cut' | 'upgraded' | 'other';

export interface KeptBody {
  /** That passed. */
  bytes: number;
  /** The beginning, `keptBytes` of it, with room for more. */
  kept: Buffer;
  keptBytes: number;
}

export interface KeptExchange {
  readonly id: string;
  readonly target: Target;
  /** ms since the epoch. */
  readonly at: number;
  readonly replayOf: string | undefined;
  /** Undefined: no HTTP. As it was sent: not to be shown. */
  readonly line: RequestLine | undefined;
  /** As they were sent: not to be shown. */
  readonly fields: readonly string[];
  readonly bodies: Readonly<Record<Direction, KeptBody>>;
  readonly interim: number[];
  state: ExchangeState;
  isRequestComplete: boolean;
  status: StatusLine | undefined;
  /** Redacted. */
  responseHeaders: readonly (readonly [name: string, value: string])[];
  trailers: readonly (readonly [name: string, value: string])[];
  /** After the first byte of the request, ms. */
  answeredAfterMs: number | undefined;
  endedAfterMs: number | undefined;
  /** Bytes that passed after the upgrade, or unread. */
  readonly passed: Record<Direction, number>;
  note: string | undefined;
}

export interface RequestStore {
  /** Where what passes on a connection to `target` is written. */
  sink(target: Target, replayOf?: string): ExchangeSink;
  environments(): readonly { readonly id: string; readonly requests: number }[];
  /** Newest first. */
  list(environmentId: string): KeptExchange[];
  get(environmentId: string, id: string): KeptExchange | undefined;
  clear(environmentId: string): void;
  /** Bytes that are kept, as accounted for. */
  bytes(): number;
}

interface Entry {
  readonly exchange: KeptExchange;
  bytes: number;
  isKept: boolean;
}

/** `onChange`: something of it has changed, or it is no longer kept. */
export const createRequestStore = (
  deps: { readonly clock: Clock; readonly onChange: (exchange: KeptExchange) => void },
  limits = { requests: KEPT_REQUESTS, bytes: MAX_KEPT_BYTES },
): RequestStore => {
  const { clock, onChange } = deps;
  /** By id, oldest first. */
  const all = new Map<string, Entry>();
  const byEnvironment = new Map<string, Map<string, Entry>>();
  let bytes = 0;
  let lastId = 0;

  const drop = (entry: Entry): void => {
    const { id, target, bodies } = entry.exchange;
    entry.isKept = false;
    bytes -= entry.bytes;
    all.delete(id);
    const siblings = byEnvironment.get(target.environmentId);
    siblings?.delete(id);
    if (siblings?.size === 0) byEnvironment.delete(target.environmentId);
    // It may go on for long, and be held by its connection.
    for (const body of [bodies.request, bodies.response]) Object.assign(body, { kept: Buffer.alloc(0), keptBytes: 0 });
  };
  const charge = (entry: Entry, more: number): void => {
    entry.bytes += more;
    bytes += more;
    while (bytes > limits.bytes) {
      const [oldest] = all.values();
      if (!oldest) return;
      drop(oldest);
    }
  };

  const add = (exchange: KeptExchange, size: number): Entry => {
    const entry: Entry = { exchange, bytes: 0, isKept: true };
    const { environmentId } = exchange.target;
    let siblings = byEnvironment.get(environmentId);
    if (!siblings) byEnvironment.set(environmentId, (siblings = new Map<string, Entry>()));
    const [oldest] = siblings.values();
    if (oldest && siblings.size >= limits.requests) drop(oldest);
    // With its last entry the map of the environment has gone.
    if (siblings.size === 0) byEnvironment.set(environmentId, siblings);
    siblings.set(exchange.id, entry);
    all.set(exchange.id, entry);
    charge(entry, REQUEST_OVERHEAD_BYTES + size);
    return entry;
  };

  const begin = (
    target: Target,
    replayOf: string | undefined,
    line: RequestLine | undefined,
    fields: readonly string[],
  ): Exchange => {
    const startedAt = clock.monotonic();
    const elapsed = (): number => clock.monotonic() - startedAt;
    const exchange: KeptExchange = {
      id: String(++lastId),
      target,
      at: clock.now(),
      replayOf,
      line,
      fields,
      bodies: { request: emptyBody(), response: emptyBody() },
      interim: [],
      state: 'open',
      isRequestComplete: false,
      status: undefined,
      responseHeaders: [],
      trailers: [],
      answeredAfterMs: undefined,
      endedAfterMs: undefined,
      passed: { request: 0, response: 0 },
      note: undefined,
    };
    const entry = add(exchange, sizeOf(fields) + (line?.target.length ?? 0));
    const changed = (): void => {
      if (entry.isKept) onChange(exchange);
    };
    const answered = (status: StatusLine, responseFields: readonly string[]): void => {
      exchange.status = status;
      exchange.answeredAfterMs = elapsed();
      if (!entry.isKept) return;
      exchange.responseHeaders = redactHeaders(responseFields);
      charge(entry, sizeOf(responseFields));
    };
    changed();
    return {
      id: exchange.id,
      body(direction, chunk) {
        const body = exchange.bodies[direction];
        body.bytes += chunk.length;
        const part = chunk.subarray(0, KEPT_BODY_BYTES - body.keptBytes);
        if (entry.isKept && part.length > 0) {
          charge(entry, keep(body, part));
        }
        changed();
      },
      requestEnd() {
        exchange.isRequestComplete = true;
      },
      interim(status) {
        if (exchange.interim.length < MAX_INTERIM) exchange.interim.push(status);
      },
      responseHead(status, responseFields) {
        answered(status, responseFields);
        changed();
      },
      end(trailers) {
        exchange.state = 'done';
        exchange.endedAfterMs = elapsed();
        if (trailers.length > 0 && entry.isKept) {
          exchange.trailers = redactHeaders(trailers);
          charge(entry, sizeOf(trailers));
        }
        changed();
      },
      upgraded(status, responseFields) {
        answered(status, responseFields);
        exchange.state = 'upgraded';
        changed();
      },
      passed(direction, count) {
        exchange.passed[direction] += count;
        changed();
      },
      unreadable(why) {
        exchange.state = 'other';
        exchange.note = why;
        changed();
      },
      closed() {
        if (exchange.state === 'done' || exchange.endedAfterMs !== undefined) return;
        exchange.endedAfterMs = elapsed();
        if (exchange.state === 'open') exchange.state = 'cut';
        changed();
      },
    };
  };

  return {
    sink: (target, replayOf) => ({
      begin: (line, fields) => begin(target, replayOf, line, fields),
      beginOther: () => begin(target, replayOf, undefined, []),
    }),
    environments: () => [...byEnvironment].map(([id, entries]) => ({ id, requests: entries.size })),
    list: (environmentId) =>
      [...(byEnvironment.get(environmentId)?.values() ?? [])].map(({ exchange }) => exchange).reverse(),
    get: (environmentId, id) => byEnvironment.get(environmentId)?.get(id)?.exchange,
    clear(environmentId) {
      for (const entry of byEnvironment.get(environmentId)?.values() ?? []) drop(entry);
    },
    bytes: () => bytes,
  };
};

/** Interim responses that are remembered of a request. The rest is not. */
const MAX_INTERIM = 8;

const emptyBody = (): KeptBody => ({ bytes: 0, kept: Buffer.alloc(0), keptBytes: 0 });

/** Copies, since a chunk may be a view of far more; returns by how many bytes the memory for it has grown. */
const keep = (body: KeptBody, part: Buffer): number => {
  const needed = body.keptBytes + part.length;
  const before = body.kept.length;
  if (needed > before) {
    // Of its own: a slab that small buffers share would stay with all that is in it.
    const larger = Buffer.allocUnsafeSlow(Math.min(KEPT_BODY_BYTES, Math.max(needed, 2 * before)));
    body.kept.copy(larger, 0, 0, body.keptBytes);
    body.kept = larger;
  }
  part.copy(body.kept, body.keptBytes);
  body.keptBytes = needed;
  return body.kept.length - before;
};

/** Names and values alternating, of latin1: one byte a character. */
const sizeOf = (fields: readonly string[]): number =>
  fields.reduce((sum, text) => sum + text.length, (fields.length / 2) * FIELD_OVERHEAD_BYTES);
