/**
 * What the inspector shows instead of secrets. Headers are known by name, the rest by the names that secrets usually
 * have: query parameters, members of JSON, fields of forms. That is a best effort, and docs/inspector.md says so.
 */
const REDACTED = '[redacted]';

/** What the last word, or the last two, of a name may be: `x-csrf-token`, `clientSecret`, `private_key`. */
const SECRET_WORDS: ReadonlySet<string> = new Set(
  (
    'token tokens secret secrets password passwd passphrase pwd credential credentials authorization auth signature ' +
    ' sig assertion jwt cookie cookies session sessionid sid otp pin cvv apikey accesskey secretkey privatekey ' +
    'authtoken accesstoken refreshtoken idtoken'
  ).split(' '),
);
/** Before `key`, which alone is seldom a secret. */
const KEY_WORDS: ReadonlySet<string> = new Set('api access private secret auth signing encryption master'.split(' '));
/** Of OAuth, where they stand in a query or a form: anywhere else these words mean other things. */
const PARAMETER_WORDS: ReadonlySet<string> = new Set(['code', 'state', 'nonce', 'key', 'verifier', 'pass']);

/** `accessToken`, `access-token` and `ACCESS_TOKEN` are the same words. */
const wordsOf = (name: string): string[] =>
  name
    .replaceAll(/([a-z0-9])([A-Z])/g, '$1_$2')
    .toLowerCase()
    .split(/[^a-z0-9]+/)
    .filter(Boolean);

export const isSecretName = (name: string): boolean => {
  const words = wordsOf(name);
  const last = words.at(-1) ?? '';
  return SECRET_WORDS.has(last) || (last === 'key' && KEY_WORDS.has(words.at(-2) ?? ''));
};
const isSecretParameter = (name: string): boolean =>
  isSecretName(name) || PARAMETER_WORDS.has(wordsOf(name).at(-1) ?? '');

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    return text;
  }
};

/** A JSON Web Token anywhere: three parts, of which the first is an object. */
const JWT = /(?<![\w-])eyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*/g;

/** `a=1&token=…`. */
export const redactForm = (text: string): string =>
  text
    .split('&')
    .map((pair) => {
      const equals = pair.indexOf('=');
      const name = pair.slice(0, Math.max(0, equals));
      return equals >= 0 && isSecretParameter(decoded(name)) ? `${name}=${REDACTED}` : pair;
    })
    .join('&')
    .replaceAll(JWT, REDACTED);

const redactParameters = (text: string, pattern: RegExp): string =>
  text.replaceAll(pattern, (whole, mark: string, name: string) =>
    isSecretParameter(decoded(name)) ? `${mark}${name}=${REDACTED}` : whole,
  );

/** A URL, whole or without its origin, and whatever stands before it. */
export const redactUrl = (text: string): string =>
  redactParameters(text, /(&amp;|[?&#;])([^=?&#;\s"'<>]{1,128})=([^&#;\s"'<>]*)/g)
    .replaceAll(/\/\/[^/@\s"'<>]{1,512}@/g, `//${REDACTED}@`)
    .replaceAll(JWT, REDACTED);

const SCHEMES = /^(?:basic|bearer|digest|negotiate|ntlm|token|dpop|aws4-hmac-sha256) /i;

const redactHeader = (name: string, value: string): string => {
  const lower = name.toLowerCase();
  if (lower === 'cookie') return value.replaceAll(/=[^;]*/g, `=${REDACTED}`);
  if (lower === 'set-cookie') return value.replace(/=[^;]*/, `=${REDACTED}`);
  if (lower.endsWith('authorization')) return `${SCHEMES.exec(value)?.[0] ?? ''}${REDACTED}`;
  // What a WebSocket handshake calls a key is none, and neither is what tells two attempts apart.
  if (lower === 'idempotency-key' || lower.startsWith('sec-websocket-')) return value;
  const isSecret = isSecretName(lower) || (lower.startsWith('x-') && lower.endsWith('-key'));
  return isSecret ? REDACTED : redactUrl(value);
};

/** Name and value alternating. */
export const redactHeaders = (fields: readonly string[]): [name: string, value: string][] => {
  const pairs: [string, string][] = [];
  for (let index = 0; index < fields.length; index += 2) {
    const name = fields[index] ?? '';
    pairs.push([name, redactHeader(name, fields[index + 1] ?? '')]);
  }
  return pairs;
};

/** Strings, whole or without their end, punctuation, and whatever else there is. */
const JSON_TOKEN = /"(?:[^"\\]|\\[^])*(?:"|\\?$)|[{}[\],:]|[^\s{}[\],:"]+/g;

const NO_SECRET = /^(?:true|false|null)$/;
/** Language models count tokens. */
const COUNT = /^\d{1,9}$/;

const nameOf = (token: string): string => {
  try {
    return String(JSON.parse(token));
  } catch {
    return token.slice(1, -1);
  }
};

/**
 * The values of members with the name of a secret, in JSON that may be cut off, be one of several, or stand among other
 * text: events, lines. Everything else is left as it is written; `JSON.parse` would change numbers.
 */
export const redactJson = (text: string): string => {
  const out: string[] = [];
  let copied = 0;
  let name: string | undefined;
  let secret = '';
  let isSecret = false;
  /** Open brackets of a value that is left out. */
  let depth = 0;
  let from = 0;
  const leaveOut = (end: number): void => {
    out.push(text.slice(copied, from), `"${REDACTED}"`);
    copied = end;
    isSecret = false;
  };
  for (const match of text.matchAll(JSON_TOKEN)) {
    const [token] = match;
    const end = match.index + token.length;
    const opens = token === '{' || token === '[';
    const closes = token === '}' || token === ']';
    if (depth > 0) {
      depth += opens ? 1 : closes ? -1 : 0;
      if (depth === 0) leaveOut(end);
    } else if (isSecret) {
      from = match.index;
      if (opens) depth = 1;
      else if (closes || token === ',' || NO_SECRET.test(token)) isSecret = false;
      else if (/tokens$/i.test(secret) && COUNT.test(token)) isSecret = false;
      else leaveOut(end);
    } else if (token === ':' && name !== undefined) {
      secret = name;
      isSecret = isSecretName(name);
    }
    name = token.startsWith('"') ? nameOf(token) : undefined;
  }
  if (depth > 0) leaveOut(text.length);
  return out.join('') + text.slice(copied);
};

/** Parts of `multipart/form-data` by the name of their field. */
export const redactMultipart = (text: string, boundary: string): string =>
  text
    .split(`--${boundary}`)
    .map((part) => {
      const head = part.indexOf('\r\n\r\n');
      const name = /\bname="([^"\r\n]{1,256})"/i.exec(part.slice(0, Math.max(0, head)))?.[1];
      if (name === undefined || !isSecretName(name)) return part;
      return `${part.slice(0, head + 4)}${REDACTED}${part.endsWith('\r\n') ? '\r\n' : ''}`;
    })
    .join(`--${boundary}`);

/** Text of any kind. */
export const redactText = (text: string): string =>
  // No semicolon before a parameter: in a program it stands before assignments.
  redactParameters(redactJson(text), /(&amp;|[?&#])([^=?&#;\s"'<>]{1,128})=([^&#;\s"'<>\\]*)/g).replaceAll(
    JWT,
    REDACTED,
  );
