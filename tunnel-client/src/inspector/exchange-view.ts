/** What of a kept request is shown: everything here has its secrets left out. */
import { type BodyView, viewBody } from './body-view.ts';
import { valuesOf } from './message-reader.ts';
import { redactHeaders, redactUrl } from './redaction.ts';
import { whyNoReplay } from './replay.ts';
import type { ExchangeState, KeptExchange } from './request-store.ts';

type Headers = readonly (readonly [name: string, value: string])[];

/** Of a target in a list, characters. The rest is in the request's own page. */
const LISTED_TARGET_CHARACTERS = 512;

export interface ExchangeSummary {
  readonly id: string;
  readonly environmentId: string;
  readonly port: number;
  /** ms since the epoch. */
  readonly at: number;
  /** Undefined: no HTTP. */
  readonly method: string | undefined;
  readonly target: string | undefined;
  readonly status: number | undefined;
  readonly state: ExchangeState;
  readonly contentType: string | undefined;
  readonly requestBytes: number;
  readonly responseBytes: number;
  /** From the first byte of the request to the end of the response, ms; undefined while that is open. */
  readonly durationMs: number | undefined;
  readonly replayOf: string | undefined;
}

export interface ExchangeView extends ExchangeSummary {
  readonly version: string | undefined;
  readonly reason: string | undefined;
  /** To the head of the response, ms. */
  readonly answeredAfterMs: number | undefined;
  readonly interim: readonly number[];
  readonly request: { readonly headers: Headers; readonly body: BodyView };
  readonly response: { readonly headers: Headers; readonly trailers: Headers; readonly body: BodyView };
  /** After an upgrade, or unread. */
  readonly passed: { readonly request: number; readonly response: number };
  readonly note: string | undefined;
  /** Why it cannot be sent again; undefined: it can. */
  readonly noReplay: string | undefined;
}

const round = (ms: number | undefined): number | undefined => (ms === undefined ? undefined : Math.round(ms * 10) / 10);

export const summarize = (exchange: KeptExchange): ExchangeSummary => {
  const { id, target, at, line, status, state, bodies, passed, endedAfterMs, replayOf } = exchange;
  return {
    id,
    environmentId: target.environmentId,
    port: target.port,
    at,
    method: line?.method,
    target: line && redactUrl(line.target).slice(0, LISTED_TARGET_CHARACTERS),
    status: status?.status,
    state,
    contentType: valuesOf(exchange.responseHeaders.flat(), 'content-type')[0],
    requestBytes: bodies.request.bytes + passed.request,
    responseBytes: bodies.response.bytes + passed.response,
    durationMs: round(endedAfterMs),
    replayOf,
  };
};

export const viewExchange = async (exchange: KeptExchange): Promise<ExchangeView> => {
  const { line, status, fields, bodies, responseHeaders, trailers, passed } = exchange;
  const [requestBody, responseBody] = await Promise.all([
    viewBody(bodies.request, fields),
    viewBody(bodies.response, responseHeaders.flat()),
  ]);
  return {
    ...summarize(exchange),
    target: line && redactUrl(line.target),
    version: line?.version,
    reason: status?.reason,
    answeredAfterMs: round(exchange.answeredAfterMs),
    interim: [...exchange.interim],
    request: { headers: redactHeaders(fields), body: requestBody },
    response: { headers: responseHeaders, trailers, body: responseBody },
    passed: { ...passed },
    note: exchange.note,
    noReplay: whyNoReplay(exchange),
  };
};
