/** The URL of a gateway's API, as a person writes it: `https://api.<domain>[:port]`. */
export interface GatewayUrl {
  /** Without a path: `https://api.gateway.localhost:8443`. */
  readonly origin: string;
  /** Host name of the API, lower-case, no port: the audience of what the runner signs. */
  readonly host: string;
  readonly port: number;
}

const EXAMPLE = 'it looks like https://api.gateway.example or https://api.gateway.example:8443';

/** `new URL` would take the host for a scheme. */
const BARE_HOST = /^api\.[a-z0-9.-]+(?::\d+)?$/i;

/** Throws RangeError with a sentence for the person who wrote it. */
export const parseGatewayUrl = (text: string): GatewayUrl => {
  if (BARE_HOST.test(text)) throw new RangeError(`"${text}" has no https:// in front: did you mean https://${text}?`);
  let url: URL;
  try {
    url = new URL(text);
  } catch (cause) {
    throw new RangeError(`"${text}" is not the URL of a gateway: ${EXAMPLE}`, { cause });
  }
  const suggestion = `https://${url.hostname.startsWith('api.') ? '' : 'api.'}${url.host}`;
  if (url.protocol === 'http:')
    throw new RangeError(`the gateway is spoken to over https: did you mean ${suggestion}?`);
  if (url.protocol !== 'https:') throw new RangeError(`"${text}" is not the URL of a gateway: ${EXAMPLE}`);
  if (url.username || url.password) throw new RangeError('the URL of a gateway has no user name and no password in it');
  if (/^[0-9.]+$|^\[/.test(url.hostname)) {
    throw new RangeError(`the URL of a gateway has a name and not an address in it: ${EXAMPLE}`);
  }
  if (!url.hostname.startsWith('api.')) {
    throw new RangeError(`the host of the URL does not begin with "api.": did you mean ${suggestion}?`);
  }
  if (url.pathname !== '/' || url.search || url.hash) {
    throw new RangeError(`the URL of a gateway ends behind the host: did you mean ${suggestion}?`);
  }
  return { origin: url.origin, host: url.hostname.replace(/\.$/, ''), port: url.port === '' ? 443 : Number(url.port) };
};
