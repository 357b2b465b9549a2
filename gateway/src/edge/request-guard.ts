/**
 * Refuses requests that two programs on the way could understand differently (safety rows 1–10, 22, 23), from what the
 * parser saw and not from what it made of it. Pure. Node's own parsers refuse most of this before; what they let through
 * differs between versions, so that every rule stands here.
 */
import type { GatewayErrorCode } from '../errors.ts';
import { parseAuthority, type Authority } from './host-router.ts';

export interface RequestHead {
  /** `httpVersion` of the request: `1.0`, `1.1`, `2.0`; whatever else a client claims is refused. */
  readonly httpVersion: string;
  readonly isHttp2: boolean;
  readonly method: string;
  readonly target: string;
  /** Name and value alternating; with HTTP/2 its pseudo-headers too. */
  readonly rawHeaders: readonly string[];
  /** Scheme of the connection, which that of the request must be. `either`: where a proxy ended TLS, it may say both. */
  readonly scheme: 'http' | 'https' | 'either';
  readonly maxFields: number;
}

export type GuardedRequest =
  | {
      readonly ok: true;
      /** `Host` or `:authority` as sent. */
      readonly authority: string;
      /** The same, taken apart. */
      readonly host: Authority;
      /** In origin form, or `*`. */
      readonly target: string;
      /** Without pseudo-headers, and without `Upgrade` and `HTTP2-Settings` unless {@link isWebSocket}. */
      readonly rawHeaders: readonly string[];
      readonly isWebSocket: boolean;
      readonly expectsContinue: boolean;
    }
  | { readonly ok: false; readonly code: GatewayErrorCode };

/** RFC 9110 section 5.6.2. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** What may stand in a target: visible ASCII. `#` never reaches a server in a valid request (RFC 9112 section 3.2). */
const TARGET = /^[\x21\x22\x24-\x7e]+$/;
/** RFC 9110 section 5.5: no control character but the tab. */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
/** RFC 9110 section 8.6. Sixteen digits are beyond what any number here counts exactly. */
const CONTENT_LENGTH = /^[0-9]{1,15}$/;
const ABSOLUTE_FORM = /^([A-Za-z][A-Za-z0-9+.-]*):\/\/([^/?]*)(.*)$/;

/** Fields that decide where a message ends or what the connection becomes: no name that may be read as one of them. */
const FRAMING_FIELDS: ReadonlySet<string> = new Set([
  'transfer-encoding',
  'content-length',
  'connection',
  'host',
  'upgrade',
  'http2-settings',
  'te',
  'expect',
]);
/** RFC 9113 section 8.2.2. */
const FORBIDDEN_IN_HTTP2: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
]);

const refuse = (code: GatewayErrorCode): GuardedRequest => ({ ok: false, code });

interface Fields {
  readonly rawHeaders: string[];
  readonly pseudo: Map<string, string>;
  readonly lines: Map<string, string[]>;
}

/** Nearly every name; such a one looks like no other. */
const PLAIN_NAME = /^[a-z0-9]+(?:-[a-z0-9]+)*$/;

const isLookAlike = (name: string): boolean => {
  if (PLAIN_NAME.test(name)) return false;
  const plain = name.replace(/[^a-z0-9]/g, '-').replace(/^-+|-+$/g, '');
  return plain !== name && FRAMING_FIELDS.has(plain);
};

/** Sorts the fields by name, or says which rule of the grammar one of them breaks. */
const readFields = (head: RequestHead): Fields | GatewayErrorCode => {
  const { rawHeaders } = head;
  if (rawHeaders.length / 2 > head.maxFields) return 'headers_too_large';
  const fields: Fields = { rawHeaders: [], pseudo: new Map(), lines: new Map() };
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? '';
    const value = rawHeaders[index + 1] ?? '';
    if (!VALUE.test(value)) return 'bad_request';
    if (head.isHttp2 && name.startsWith(':')) {
      // RFC 9113 section 8.3: before all regular fields, and once.
      if (fields.rawHeaders.length > 0 || fields.pseudo.has(name)) return 'bad_request';
      fields.pseudo.set(name, value);
      continue;
    }
    const lowerName = name.toLowerCase();
    if (!TOKEN.test(name) || isLookAlike(lowerName)) return 'bad_request';
    if (head.isHttp2 && (lowerName !== name || FORBIDDEN_IN_HTTP2.has(name))) return 'bad_request';
    fields.rawHeaders.push(name, value);
    const lines = fields.lines.get(lowerName);
    if (lines) lines.push(value);
    else fields.lines.set(lowerName, [value]);
  }
  return fields;
};

const members = (lines: readonly string[]): string[] =>
  lines.flatMap((line) => line.split(',')).map((member) => member.trim().toLowerCase());

/** RFC 9112 section 6: one way to tell where the body ends, or none. */
const isFramingSound = (head: RequestHead, lines: Fields['lines']): boolean => {
  const contentLength = lines.get('content-length');
  const transferEncoding = lines.get('transfer-encoding');
  if (contentLength && !(contentLength.length === 1 && CONTENT_LENGTH.test(contentLength[0] ?? ''))) return false;
  if (!transferEncoding) return true;
  // Codings below `chunked` would have to be passed on as they are, which a hop cannot promise.
  const codings = members(transferEncoding);
  return head.httpVersion === '1.1' && !contentLength && codings.length === 1 && codings[0] === 'chunked';
};

const isSameAuthority = (left: string, right: string, defaultPort: number): boolean => {
  const [a, b] = [parseAuthority(left), parseAuthority(right)];
  return a !== undefined && b !== undefined && a.host === b.host && (a.port ?? defaultPort) === (b.port ?? defaultPort);
};

const defaultPortOf = (scheme: RequestHead['scheme']): number => (scheme === 'http' ? 80 : 443);

const isScheme = (scheme: string | undefined, allowed: RequestHead['scheme']): boolean =>
  allowed === 'either' ? scheme === 'http' || scheme === 'https' : scheme === allowed;

/** The authority of the request, once it is certain that everybody reads the same one. */
const readAuthority = (head: RequestHead, { pseudo, lines }: Fields): string | undefined => {
  const hosts = lines.get('host') ?? [];
  if (hosts.length > 1) return undefined;
  if (!head.isHttp2) return hosts[0];
  const authority = pseudo.get(':authority');
  if (authority === undefined) return hosts[0];
  if (hosts[0] !== undefined && !isSameAuthority(authority, hosts[0], defaultPortOf(head.scheme))) return undefined;
  return authority;
};

/** The target in origin form. An absolute one must name the authority and scheme of the request (RFC 9112 section 3.2.2). */
const readTarget = (head: RequestHead, authority: string): string | undefined => {
  const { target } = head;
  if (!TARGET.test(target)) return undefined;
  if (target.startsWith('/')) return target;
  if (target === '*') return head.method === 'OPTIONS' ? target : undefined;
  const absolute = head.isHttp2 ? null : ABSOLUTE_FORM.exec(target);
  if (!absolute || !isScheme(absolute[1]?.toLowerCase(), head.scheme)) return undefined;
  if (!isSameAuthority(absolute[2] ?? '', authority, defaultPortOf(head.scheme))) return undefined;
  const rest = absolute[3] ?? '';
  if (rest === '' && head.method === 'OPTIONS') return '*';
  return rest.startsWith('/') ? rest : `/${rest}`;
};

const isPseudoSound = (head: RequestHead, pseudo: Fields['pseudo']): boolean => {
  if (!head.isHttp2) return true;
  if (!isScheme(pseudo.get(':scheme'), head.scheme)) return false;
  return [...pseudo.keys()].every(
    (name) => name === ':method' || name === ':scheme' || name === ':authority' || name === ':path',
  );
};

/** Whether the head asks for a WebSocket (RFC 6455 section 4.2.1). Anything else that wants an upgrade is not given one. */
export const isWebSocketHead = (head: Pick<RequestHead, 'httpVersion' | 'method' | 'rawHeaders'>): boolean => {
  if (head.httpVersion !== '1.1' || head.method !== 'GET') return false;
  const lines = new Map<string, string[]>([
    ['upgrade', []],
    ['connection', []],
  ]);
  for (let index = 0; index < head.rawHeaders.length; index += 2) {
    lines.get((head.rawHeaders[index] ?? '').toLowerCase())?.push(head.rawHeaders[index + 1] ?? '');
  }
  const protocols = members(lines.get('upgrade')!);
  return (
    protocols.length === 1 && protocols[0] === 'websocket' && members(lines.get('connection')!).includes('upgrade')
  );
};

const wantsUpgrade = ({ lines }: Fields): boolean => lines.has('upgrade') || lines.has('http2-settings');

const withoutUpgrade = (rawHeaders: readonly string[]): string[] => {
  const kept: string[] = [];
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? '';
    if (/^(?:upgrade|http2-settings)$/i.test(name)) continue;
    kept.push(name, rawHeaders[index + 1] ?? '');
  }
  return kept;
};

/** Checks one request head. What it lets through has one meaning only. */
export const guardRequest = (head: RequestHead): GuardedRequest => {
  if (!head.isHttp2 && head.httpVersion !== '1.1' && head.httpVersion !== '1.0') return refuse('bad_request');
  if (!TOKEN.test(head.method)) return refuse('bad_request');
  // CONNECT asks for a tunnel of its own kind; TRACE answers with what the gateway adds (RFC 9110 section 9.3.8).
  if (head.method === 'CONNECT' || head.method === 'TRACE') return refuse('method_not_supported');
  const fields = readFields(head);
  if (typeof fields === 'string') return refuse(fields);
  if (!isPseudoSound(head, fields.pseudo) || !isFramingSound(head, fields.lines)) return refuse('bad_request');
  const authority = readAuthority(head, fields);
  const host = authority === undefined ? undefined : parseAuthority(authority);
  if (authority === undefined || host === undefined) return refuse('bad_host');
  const target = readTarget(head, authority);
  if (target === undefined) return refuse('bad_request');
  const expect = fields.lines.get('expect');
  const expectations = expect ? members(expect) : [];
  if (expectations.some((expectation) => expectation !== '100-continue')) return refuse('expectation_failed');
  const isWebSocket = fields.lines.has('upgrade') && isWebSocketHead(head);
  // The bytes behind such a head are the WebSocket's; a body before them would be a place to hide a request in.
  const contentLength = fields.lines.get('content-length')?.[0];
  if (isWebSocket && (fields.lines.has('transfer-encoding') || Number(contentLength ?? 0) > 0)) {
    return refuse('bad_request');
  }
  return {
    ok: true,
    authority,
    host,
    target,
    rawHeaders: isWebSocket || !wantsUpgrade(fields) ? fields.rawHeaders : withoutUpgrade(fields.rawHeaders),
    isWebSocket,
    expectsContinue: expectations.length > 0 && head.httpVersion !== '1.0',
  };
};
