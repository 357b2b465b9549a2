/** The receiver of spans: where it is, what shows who we are, and what its answers mean (OTLP specification, "OTLP/HTTP"). */
import { readFile } from 'node:fs/promises';
import { rootCertificates } from 'node:tls';
import { Agent, request } from 'undici';
import { describeError } from '../../../shared/src/errors.ts';
import type { GatewayConfig } from '../config.ts';
import { StartError } from '../start-error.ts';
import { rejectedSpans } from './otlp.ts';
import type { SendResult } from './span-export.ts';

/** Bytes of an answer that are read: the few that say how many spans were refused. A longer one is not looked at. */
const MAX_RECEIVER_ANSWER_BYTES = 64 << 10;
/** Bytes of the file with header fields; a longer one is a mistake. */
const MAX_TRACING_HEADERS_BYTES = 16 << 10;

/** Answers after which the same export may be sent again. */
const RETRYABLE: ReadonlySet<number> = new Set([429, 502, 503, 504]);
const FIELD = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e]*?)[ \t]*$/;
/** What the body says of itself is not for a file to decide. */
const OWN_FIELDS: ReadonlySet<string> = new Set(['content-type', 'content-length', 'host', 'connection']);

type TracingConfig = NonNullable<GatewayConfig['tracing']>;

/** One field a line, `name: value`; empty lines and lines that begin with `#` say nothing. Never tells a value. */
export const parseHeaderFile = (text: string): Record<string, string> => {
  if (text.length > MAX_TRACING_HEADERS_BYTES) throw new RangeError('is longer than 16 KiB');
  const fields: Record<string, string> = {};
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const [, name, value] = FIELD.exec(line) ?? [];
    if (name === undefined || value === undefined) throw new RangeError(`line ${index + 1} is not "name: value"`);
    if (OWN_FIELDS.has(name.toLowerCase())) throw new RangeError(`line ${index + 1}: ${name} is set by the gateway`);
    fields[name.toLowerCase()] = value;
  }
  return fields;
};

/** `v1/traces` below the endpoint, as for `OTEL_EXPORTER_OTLP_ENDPOINT`, unless it ends so already. */
export const tracesUrl = (endpoint: string): URL => {
  const url = new URL(endpoint);
  if (!/\/v1\/traces\/?$/.test(url.pathname)) url.pathname = `${url.pathname.replace(/\/$/, '')}/v1/traces`;
  return url;
};

const reasonOf = (error: unknown): string => {
  const { code } = error as { code?: unknown };
  return typeof code === 'string' ? code : 'connection_failed';
};

const retryAfterMs = (value: string | string[] | undefined): number | undefined =>
  typeof value === 'string' && /^\d{1,9}$/.test(value) ? Number(value) * 1_000 : undefined;

export interface Receiver {
  /** Rejects only when the signal is aborted. */
  send(body: string, options: { readonly signal: AbortSignal }): Promise<SendResult>;
  close(): Promise<void>;
}

/** Rejects with StartError where a file cannot be used. */
export const openReceiver = async ({ endpoint, headersFile, ca }: TracingConfig): Promise<Receiver> => {
  const url = tracesUrl(endpoint);
  // Read for each export: a replaced secret counts at once.
  const readFields = async (): Promise<Record<string, string>> =>
    headersFile === undefined ? {} : parseHeaderFile(await readFile(headersFile, 'utf8'));
  await readFields().catch((cause: unknown) => {
    throw new StartError('tracing.headersFile', describeError(cause), { cause });
  });
  const root =
    ca === undefined
      ? undefined
      : await readFile(ca, 'utf8').catch((cause: unknown) => {
          throw new StartError('tracing.ca', describeError(cause), { cause });
        });
  const agent = new Agent({
    connections: 1,
    pipelining: 1,
    ...(root === undefined ? {} : { connect: { ca: [...rootCertificates, root] } }),
  });

  const ask = async (body: string, signal: AbortSignal): Promise<SendResult> => {
    const fields = await readFields();
    const answer = await request(url, {
      dispatcher: agent,
      method: 'POST',
      headers: { ...fields, 'content-type': 'application/json' },
      body,
      signal,
    });
    const { statusCode: status } = answer;
    if (status >= 200 && status < 300) {
      const chunks: Buffer[] = [];
      let bytes = 0;
      for await (const chunk of answer.body as AsyncIterable<Buffer>) {
        bytes += chunk.length;
        if (bytes <= MAX_RECEIVER_ANSWER_BYTES) chunks.push(chunk);
      }
      const text = bytes > MAX_RECEIVER_ANSWER_BYTES ? '' : Buffer.concat(chunks).toString('utf8');
      return { kind: 'taken', rejected: rejectedSpans(text) };
    }
    await answer.body.dump({ limit: MAX_RECEIVER_ANSWER_BYTES, signal });
    const reason = `status_${status}`;
    if (!RETRYABLE.has(status)) return { kind: 'refused', reason };
    return { kind: 'later', reason, afterMs: retryAfterMs(answer.headers['retry-after']) };
  };

  return {
    async send(body, { signal }) {
      try {
        return await ask(body, signal);
      } catch (error) {
        signal.throwIfAborted();
        return { kind: 'later', reason: reasonOf(error), afterMs: undefined };
      }
    },
    close: () => agent.destroy(),
  };
};
