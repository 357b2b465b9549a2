/**
 * A second opinion on HTTP/1.1: reads requests out of bytes by the letter of RFC 9112, and calls malformed whatever
 * leaves a choice. What it does not read as a request must reach no application. Bytes are latin1 strings.
 */
export interface StrictRequest {
  readonly method: string;
  readonly target: string;
  readonly version: '1.0' | '1.1';
  /** Field lines, name and value, in order. */
  readonly lines: readonly (readonly [name: string, value: string])[];
  readonly body: string;
  readonly trailers: readonly (readonly [name: string, value: string])[];
}

export interface StrictReading {
  readonly requests: readonly StrictRequest[];
  /** Why it stopped: nothing is left, more bytes are needed, or what is left is no request. */
  readonly stopped: 'end' | 'incomplete' | 'malformed';
  /** Bytes that the requests took. */
  readonly taken: number;
}

type Lines = [name: string, value: string][];
type Part<T> = { readonly value: T; readonly next: number } | 'incomplete' | 'malformed';

/** Spaces before the version are no part of anything (section 3). */
const REQUEST_LINE = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) +HTTP\/1\.([01])$/;
const FIELD_LINE =
  /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*$/;
const CHUNK_LINE = /^([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?$/;

export const valuesIn = (lines: StrictRequest['lines'], name: string): string[] =>
  lines.filter(([each]) => each.toLowerCase() === name).map(([, value]) => value);

const readLine = (text: string, from: number): Part<string> => {
  const end = text.indexOf('\n', from);
  if (end < 0) return 'incomplete';
  const line = text.slice(from, end - 1);
  return text[end - 1] === '\r' && end > from && !line.includes('\r') ? { value: line, next: end + 1 } : 'malformed';
};

const readFields = (text: string, from: number): Part<Lines> => {
  const value: Lines = [];
  for (let at = from; ;) {
    const line = readLine(text, at);
    if (typeof line === 'string') return line;
    at = line.next;
    if (line.value === '') return { value, next: at };
    const [, name, content] = FIELD_LINE.exec(line.value) ?? [];
    if (name === undefined || content === undefined) return 'malformed';
    value.push([name, content]);
  }
};

const readChunks = (text: string, from: number): Part<{ body: string; trailers: Lines }> => {
  let body = '';
  for (let at = from; ;) {
    const line = readLine(text, at);
    if (typeof line === 'string') return line;
    const size = Number.parseInt(CHUNK_LINE.exec(line.value)?.[1] ?? '', 16);
    if (Number.isNaN(size)) return 'malformed';
    if (size === 0) {
      const trailers = readFields(text, line.next);
      return typeof trailers === 'string'
        ? trailers
        : { value: { body, trailers: trailers.value }, next: trailers.next };
    }
    const end = line.next + size;
    if (text.length < end + 2) return 'incomplete';
    if (text.slice(end, end + 2) !== '\r\n') return 'malformed';
    body += text.slice(line.next, end);
    at = end + 2;
  }
};

const readRequest = (text: string, from: number): Part<StrictRequest> => {
  let at = from;
  // Empty lines before a request (RFC 9112 section 2.2), in whatever form: Node's parser skips them, and nothing else.
  while (text[at] === '\r' || text[at] === '\n') at += 1;
  const first = readLine(text, at);
  if (typeof first === 'string') return first;
  const [, method, target, minor] = REQUEST_LINE.exec(first.value) ?? [];
  if (method === undefined || target === undefined) return 'malformed';
  const fields = readFields(text, first.next);
  if (typeof fields === 'string') return fields;
  const head = { method, target, version: minor === '1' ? '1.1' : '1.0', lines: fields.value } as const;
  const lengths = valuesIn(fields.value, 'content-length');
  const codings = valuesIn(fields.value, 'transfer-encoding');
  if (codings.length > 0) {
    if (lengths.length > 0 || codings.length > 1 || !/^chunked$/i.test(codings[0]!) || minor === '0')
      return 'malformed';
    const chunks = readChunks(text, fields.next);
    return typeof chunks === 'string' ? chunks : { value: { ...head, ...chunks.value }, next: chunks.next };
  }
  if (lengths.length > 1 || (lengths.length === 1 && !/^[0-9]{1,15}$/.test(lengths[0]!))) return 'malformed';
  const end = fields.next + Number(lengths[0] ?? 0);
  if (text.length < end) return 'incomplete';
  return { value: { ...head, body: text.slice(fields.next, end), trailers: [] }, next: end };
};

/** A connection ends with this request, or becomes another protocol's: nothing behind it is a request. */
export const isLast = ({ version, lines, method }: StrictRequest): boolean => {
  const options = valuesIn(lines, 'connection').join().toLowerCase();
  const isUpgrade = options.includes('upgrade') && valuesIn(lines, 'upgrade').length > 0;
  return version === '1.0' || /\bclose\b/.test(options) || isUpgrade || method === 'CONNECT';
};

export const readRequests = (text: string): StrictReading => {
  const requests: StrictRequest[] = [];
  for (let taken = 0; ;) {
    if (/^[\r\n]*$/.test(text.slice(taken))) return { requests, stopped: 'end', taken };
    const request = readRequest(text, taken);
    if (typeof request === 'string') return { requests, stopped: request, taken };
    requests.push(request.value);
    taken = request.next;
  }
};
