/**
 * The grammar of names in host names, shared by who parses them (gateway) and who announces them (tunnel client).
 *
 *     port-host = <port>["s"]"--"<id>"."<domain>       3000--0199da78-c047-77b9-a098-0bbab101cde7.us01.gitpod.dev
 *     port      = 1..5 digits, 1024..65535, no leading zero; 22999 is the log port
 *     id        = [a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?, without "--", not a reserved word
 */

/** Where the log server of an environment is reached. Never an ordinary exposed port. */
export const LOG_PORT = 22_999;
const MIN_PORT = 1_024;
const MAX_PORT = 65_535;

const RESERVED_IDS: ReadonlySet<string> = new Set(['api', 'auth', 'tunnel', 'www', 'lighthouse', 'static']);
const ID = /^[a-z0-9](?:[a-z0-9-]{0,48}[a-z0-9])?$/;

/** Whether `text` may be the id of a runner or an environment. A port label has a length of at most 7 + 2 + 50 ≤ 63. */
export const isId = (text: string): boolean => ID.test(text) && !text.includes('--') && !RESERVED_IDS.has(text);

/** One sentence for a person who wrote a wrong id. */
export const ID_RULE =
  'an id is 1 to 50 lower-case letters, digits and single hyphens, starts and ends with a letter or digit, and is none of ' +
  [...RESERVED_IDS].join(', ');

/** The port that `text` names, or undefined. */
export const parsePort = (text: string): number | undefined => {
  if (!/^[1-9][0-9]{3,4}$/.test(text)) return undefined;
  const port = Number(text);
  return port >= MIN_PORT && port <= MAX_PORT ? port : undefined;
};

/** Whether an environment may expose `port` as an ordinary port. */
export const isExposablePort = (port: number): boolean =>
  Number.isInteger(port) && port >= MIN_PORT && port <= MAX_PORT && port !== LOG_PORT;

/** Host name (without port) of an environment's port. */
export const portHost = (port: number, environmentId: string, domain: string): string =>
  `${port}--${environmentId}.${domain}`;

/** URL of `host` on the public port, which is left out where it is the scheme's own. */
export const publicUrl = (host: string, publicPort: number, path = '/'): string =>
  `https://${host}${publicPort === 443 ? '' : `:${publicPort}`}${path}`;
