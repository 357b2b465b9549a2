/** One line for each exchange. Neither query nor fragment nor any header value: secrets travel in these. */
import { pino, type DestinationStream } from 'pino';
import type { GatewayConfig } from '../config.ts';
import type { ExchangeRecord } from '../proxy/exchange.ts';
import type { Logger } from './log.ts';

/** What the access log reads of an exchange. */
export interface LoggedExchange {
  readonly requestId: string;
  readonly host: string;
  readonly method: string;
  readonly target: string;
  readonly protocol: string;
  readonly clientAddress: string;
  readonly startedAt: number;
  readonly record: ExchangeRecord;
}

/** Characters of a path that are logged; a longer one is cut. */
export const MAX_LOGGED_PATH = 512;

/** The path of a request target without its query, cut to a sensible length. */
export const loggedPath = (target: string): string => {
  const end = target.search(/[?#]/);
  const path = end === -1 ? target : target.slice(0, end);
  return path.length > MAX_LOGGED_PATH ? `${path.slice(0, MAX_LOGGED_PATH)}…` : path;
};

const round = (ms: number | undefined): number | undefined => (ms === undefined ? undefined : Math.round(ms * 10) / 10);

/** Between two points of a request, ms; undefined when it did not come so far. */
const between = (from: number | undefined, to: number | undefined): number | undefined =>
  from === undefined || to === undefined ? undefined : round(to - from);

/** Answers from here on are failures, whoever made them: nobody wants to miss one of them. */
const FIRST_FAILURE_STATUS = 500;
/** Values of the part of a request id that decides: 32 random bits. */
const ID_RANGE = 2 ** 32;

/** Whether a request is among those that are logged. By its id, so that gateways of one request agree. */
export const isSampled = (requestId: string, sample: number): boolean =>
  sample >= 1 || Number.parseInt(requestId.slice(0, 8), 16) < sample * ID_RANGE;

/** The time as the other lines have it; thousands of requests end in the same few milliseconds. */
const createTimeText = (): (() => string) => {
  let at = NaN;
  let text = '';
  return () => {
    const now = Date.now();
    if (now !== at) {
      at = now;
      text = new Date(now).toISOString();
    }
    return text;
  };
};

/**
 * Writes the lines, as the logger does, and to where it does. Their fields are listed here and none is a secret, so they
 * are not searched for some: that search took a third of the gateway's time (measured at 4,000 requests a second). What
 * else the logger does for a line takes three times as long as to write it down.
 */
export const createAccessLog = (
  log: Logger,
  settings: () => GatewayConfig['accessLog'],
): ((exchange: LoggedExchange, status: number, nowMs: number) => void) => {
  const { [pino.symbols.streamSym]: destination } = log as unknown as {
    readonly [pino.symbols.streamSym]: DestinationStream;
  };
  const bindings = log.bindings();
  const timeText = createTimeText();
  return (exchange, status, nowMs) => {
    const { enabled, sample } = settings();
    if (!enabled || !log.isLevelEnabled('info')) return;
    const { record } = exchange;
    const isFailure = record.errorCode !== undefined || status >= FIRST_FAILURE_STATUS;
    if (!isFailure && !isSampled(exchange.requestId, sample)) return;
    const durationMs = nowMs - exchange.startedAt;
    const line = {
      level: 'info',
      time: timeText(),
      ...bindings,
      requestId: exchange.requestId,
      method: exchange.method,
      host: exchange.host,
      path: loggedPath(exchange.target),
      protocol: exchange.protocol,
      status,
      error: record.errorCode,
      durationMs: round(durationMs),
      edgeMs: round(record.edgeMs ?? durationMs),
      tunnelMs: between(record.edgeMs, record.tunnelMs),
      upstreamMs: between(record.tunnelMs, record.upstreamMs),
      bytesReceived: record.bytesReceived,
      bytesSent: record.bytesSent,
      clientAddress: exchange.clientAddress,
      environmentId: record.environmentId,
      runnerId: record.runnerId,
      port: record.port,
      legId: record.legId,
      sample: isFailure || sample >= 1 ? undefined : sample,
      msg: 'request',
    };
    destination.write(`${JSON.stringify(line)}\n`);
  };
};
