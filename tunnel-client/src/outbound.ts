/**
 * Every TLS connection that the client makes to a gateway, for the API and for tunnels over TCP, in these steps:
 *
 *     proxy for the target? ──► its name, else the target's, is resolved ──► addresses are raced ──► TCP
 *       TCP ──► [TLS with the proxy] ──► [CONNECT] ──► TLS with the target: verified, ALPN agreed
 */
import { request } from 'node:http';
import { isIP, type Socket } from 'node:net';
import { connect as connectTls, createSecureContext, type SecureContext, type TLSSocket } from 'node:tls';
import type { Clock } from '../../shared/src/clock.ts';
import { describeError } from '../../shared/src/errors.ts';
import { formatHostPort } from '../../shared/src/transport/address.ts';
import { certificateFault, issuerOf, trustedRoots } from './certificate-trust.ts';
import { interleaveFamilies, MAX_ADDRESSES, raceAttempts, type ResolvedAddress } from './happy-eyeballs.ts';
import { needsAddresses, proxyFor, type ProxyServer, type ProxySettings } from './proxy-settings.ts';
import { ResolveError, type Resolver } from './resolver.ts';
import { connectTcp } from './upstream.ts';

export interface OutboundTarget {
  readonly host: string;
  readonly port: number;
  /** Name that the certificate must be for; also the SNI. */
  readonly servername: string;
  /** Offered by ALPN; what was agreed is `alpnProtocol` of the socket. */
  readonly alpn: readonly string[];
  /** An address: where the name means it among others, it is tried first. */
  readonly preferred?: string;
}

/**
 * `not_found` no address; `unreachable` no TCP connection; `proxy_*` what the proxy did; `not_tls` no TLS handshake,
 * `tls_silent` nor any answer to it;
 * `untrusted`, `wrong_name`, `not_in_time` (its validity) the certificate.
 */
export type OutboundFailure =
  | 'not_found'
  | 'unreachable'
  | 'proxy_unreachable'
  | 'proxy_authentication'
  | 'proxy_denied'
  | 'proxy_failed'
  | 'not_tls'
  | 'tls_silent'
  | 'untrusted'
  | 'wrong_name'
  | 'not_in_time';

/** No connection. The message says what was tried and what a person can do. */
export class OutboundError extends Error {
  override readonly name = 'OutboundError';
  readonly code: OutboundFailure;
  /** What went wrong, without where. */
  readonly reason: string;
  /** What a person can do; undefined where that is not known. */
  readonly advice: string | undefined;
  /** Both. */
  readonly told: string;
  /** Addresses that were dialled, and the proxy, as they stand in messages; may be empty. */
  readonly way: string;
  /** Who issued the certificate that was not trusted. */
  readonly issuer: string | undefined;
  constructor(
    code: OutboundFailure,
    details: {
      reason: string;
      advice?: string | undefined;
      target: string;
      way: string;
      issuer?: string | undefined;
      cause?: unknown;
    },
  ) {
    const { reason, advice } = details;
    const told = advice === undefined ? reason : `${reason}; ${advice}`;
    super(`${details.target}${details.way}: ${told}`, { cause: details.cause });
    this.code = code;
    this.reason = reason;
    this.advice = advice;
    this.told = told;
    this.way = details.way;
    this.issuer = details.issuer;
  }
}

export interface Outbound {
  /** Rejects with {@link OutboundError} or the signal's reason; how long it may take is the caller's to say. */
  connectTls(target: OutboundTarget, options: { readonly signal: AbortSignal }): Promise<TLSSocket>;
  /** URL of the proxy that a target is reached through, without credentials; undefined: none. */
  proxyOf(
    target: { readonly host: string; readonly port: number },
    options: { readonly signal: AbortSignal },
  ): Promise<string | undefined>;
}

export interface OutboundOptions {
  /** PEM of roots that are trusted beside those of the system. */
  readonly ca?: string;
  readonly proxy: ProxySettings;
}

/**
 * Until the first byte of an answer to the TLS handshake, ms: what is lost is repeated some four times until then. TCP
 * connects with small packets; the first one of TLS has full size (a key exchange that quantum computers do not break
 * takes 1.2 KB), and gets lost where the way is narrower than its ends know.
 */
export const TLS_SILENCE_MS = 4_500;

/** What one connection has come to, for the message when it fails. */
interface Attempt {
  readonly target: OutboundTarget;
  readonly proxy: ProxyServer | undefined;
  tried: readonly string[];
}

const preferredFirst = (all: readonly ResolvedAddress[], preferred: string | undefined): ResolvedAddress[] => {
  const isPreferred = ({ address }: ResolvedAddress): boolean => address === preferred;
  return [...all.filter(isPreferred), ...all.filter((each) => !isPreferred(each))];
};

/** Where small packets pass and large ones do not. */
export const MTU_ADVICE =
  'packets of full size seem to get lost: check the MTU on the way (VPN, PPPoE), and let ICMP "too big" pass';

const PROXY_ANSWERS: Readonly<Record<number, { code: OutboundFailure; reason: string; advice: string }>> = {
  407: {
    code: 'proxy_authentication',
    reason: 'the proxy asks for a user name and password that it accepts (407)',
    advice: 'put them into HTTPS_PROXY, as in http://user:password@host:port',
  },
  403: {
    code: 'proxy_denied',
    reason: 'the proxy does not allow this connection (403)',
    advice: 'let it CONNECT to this host and port, or name the host in NO_PROXY',
  },
};

export const createOutbound = (
  deps: { readonly resolver: Resolver; readonly clock: Clock },
  options: OutboundOptions,
): Outbound => {
  const { resolver } = deps;
  let context: SecureContext | undefined;
  /** Made at the first use: reading some hundred roots takes a while. */
  const trust = (): SecureContext => (context ??= createSecureContext({ ca: trustedRoots(options.ca) }));

  const failure = (
    { target, proxy, tried }: Attempt,
    code: OutboundFailure,
    reason: string,
    more: { cause?: unknown; issuer?: string | undefined; advice?: string | undefined } = {},
  ): OutboundError => {
    const addresses = tried.length === 0 ? '' : ` (tried ${tried.join(', ')})`;
    const way = `${proxy ? ` through the proxy ${proxy.url}` : ''}${addresses}`;
    return new OutboundError(code, { reason, target: formatHostPort(target.host, target.port), way, ...more });
  };

  const findProxy = async (
    target: { readonly host: string; readonly port: number },
    signal: AbortSignal,
  ): Promise<ProxyServer | undefined> => {
    if (!options.proxy.server) return undefined;
    let addresses: readonly string[] = [target.host];
    if (needsAddresses(options.proxy, target)) {
      // Behind a proxy names of the outside often have no address: then no range excepts them.
      const found = await resolver.resolve(target.host, { signal }).catch(() => []);
      signal.throwIfAborted();
      addresses = found.map(({ address }) => address);
    }
    return proxyFor(options.proxy, { ...target, addresses });
  };

  const openTcp = async (attempt: Attempt, signal: AbortSignal): Promise<Socket> => {
    const { host, port } = attempt.proxy ?? attempt.target;
    try {
      const all = interleaveFamilies(await resolver.resolve(host, { signal }));
      const found = preferredFirst(all, attempt.target.preferred).slice(0, MAX_ADDRESSES);
      attempt.tried = found.map(({ address }) => formatHostPort(address, port));
      return await raceAttempts(
        deps,
        found,
        ({ address }, race) => connectTcp({ address, port }, race),
        (late) => void late.destroy(),
        { signal },
      );
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      const code = attempt.proxy ? 'proxy_unreachable' : error instanceof ResolveError ? 'not_found' : 'unreachable';
      const advice = attempt.proxy ? 'check host and port in HTTPS_PROXY, and that the proxy runs' : undefined;
      throw failure(attempt, code, describeError(error), { cause: error, advice });
    }
  };

  /** Verifies by hand, because the certificate is gone once Node has refused it. Nothing is sent before. */
  const verified = (attempt: Attempt, secure: TLSSocket, peer: string): OutboundError | undefined => {
    if (secure.authorized) return undefined;
    const leaf = secure.getPeerX509Certificate();
    // A string, whatever the types say.
    const cause: unknown = secure.authorizationError;
    const { code, fault, advice } = certificateFault(typeof cause === 'string' ? cause : '', leaf);
    return failure(attempt, code, `${peer} certificate ${fault}`, { issuer: issuerOf(leaf), advice });
  };

  const startTls = (
    attempt: Attempt,
    socket: Socket,
    { servername, alpn, peer }: { servername: string; alpn: readonly string[]; peer: string },
    signal: AbortSignal,
  ): Promise<TLSSocket> =>
    new Promise((resolve, reject) => {
      const secure = connectTls({
        socket,
        ...(isIP(servername) !== 0 ? { host: servername } : { servername }),
        ALPNProtocols: [...alpn],
        secureContext: trust(),
        rejectUnauthorized: false,
      });
      const heardBefore = socket.bytesRead;
      const cancelSilence = deps.clock.timer(TLS_SILENCE_MS, () => {
        if (socket.bytesRead > heardBefore) return;
        const reason = 'TCP connects, and the TLS handshake gets no answer';
        giveUp(failure(attempt, 'tls_silent', reason, { advice: MTU_ADVICE }));
      });
      const settle = (act: () => void): void => {
        cancelSilence();
        signal.removeEventListener('abort', onAbort);
        secure.off('error', onError).off('secureConnect', onSecure);
        act();
      };
      const giveUp = (error: Error): void =>
        settle(() => {
          reject(error);
          secure.on('error', () => undefined);
          secure.destroy();
          socket.destroy();
        });
      const onAbort = (): void => giveUp(signal.reason as Error);
      const onError = (cause: Error): void => {
        const isForeign = (cause as NodeJS.ErrnoException).code?.startsWith('ERR_SSL_') === true;
        const reason = isForeign
          ? `what answers there does not speak TLS as expected (${cause.message})`
          : `the TLS handshake was cut off (${describeError(cause)})`;
        const code = attempt.proxy && peer !== 'its' ? 'proxy_failed' : 'not_tls';
        giveUp(failure(attempt, code, reason, { cause, advice: 'check host and port' }));
      };
      const onSecure = (): void => {
        const refused = verified(attempt, secure, peer);
        if (refused) return giveUp(refused);
        settle(() => resolve(secure));
      };
      signal.addEventListener('abort', onAbort, { once: true });
      secure.once('error', onError).once('secureConnect', onSecure);
      secure.once('close', () => socket.destroy());
      if (signal.aborted) onAbort();
    });

  /** RFC 9110 section 9.3.6. */
  const tunnelThrough = (attempt: Attempt, proxy: ProxyServer, socket: Socket, signal: AbortSignal): Promise<Socket> =>
    new Promise((resolve, reject) => {
      const authority = formatHostPort(attempt.target.host, attempt.target.port);
      const asked = request({
        method: 'CONNECT',
        path: authority,
        createConnection: () => socket,
        signal,
        headers: {
          host: authority,
          ...(proxy.authorization === undefined ? {} : { 'proxy-authorization': proxy.authorization }),
        },
      });
      const giveUp = (error: Error): void => {
        reject(error);
        socket.destroy();
      };
      asked.once('error', (cause) => {
        if (signal.aborted) return giveUp(signal.reason as Error);
        const reason = `the proxy gave no answer to CONNECT that HTTP knows (${describeError(cause)})`;
        giveUp(
          failure(attempt, 'proxy_failed', reason, { cause, advice: 'check host, port and scheme in HTTPS_PROXY' }),
        );
      });
      const onAnswer = (status: number): void => {
        const { code, reason, advice } = PROXY_ANSWERS[status] ?? {
          code: 'proxy_failed',
          reason: `the proxy answered ${status} to CONNECT`,
          advice: 'its log says why: it may not reach the host, or allow port 443 only',
        };
        giveUp(failure(attempt, code, reason, { advice }));
      };
      asked.once('response', ({ statusCode = 0 }) => onAnswer(statusCode));
      asked.once('connect', ({ statusCode = 0 }, _socket, head) => {
        if (statusCode < 200 || statusCode > 299) return onAnswer(statusCode);
        if (head.length > 0) socket.unshift(head);
        resolve(socket);
      });
      asked.end();
    });

  return {
    proxyOf: async (target, { signal }) => (await findProxy(target, signal))?.url,
    connectTls: async (target, { signal }) => {
      signal.throwIfAborted();
      const proxy = await findProxy(target, signal);
      const attempt: Attempt = { target, proxy, tried: [] };
      try {
        let socket = await openTcp(attempt, signal);
        if (proxy?.tls) {
          const peer = "the proxy's";
          socket = await startTls(attempt, socket, { servername: proxy.host, alpn: ['http/1.1'], peer }, signal);
        }
        if (proxy) socket = await tunnelThrough(attempt, proxy, socket, signal);
        return await startTls(attempt, socket, { ...target, peer: 'its' }, signal);
      } catch (error) {
        if (!signal.aborted) resolver.forget((proxy ?? target).host);
        throw error;
      }
    },
  };
};
