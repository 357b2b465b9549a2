/** The checks of a diagnosis that look at the way to the gateway: names, UDP, TCP, TLS, proxies. */
import type { TLSSocket } from 'node:tls';
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError, TransportError } from '../../../shared/src/errors.ts';
import { createKey } from '../../../shared/src/identity/keys.ts';
import { formatHostPort, type HostPort } from '../../../shared/src/transport/address.ts';
import { createQuicDialer } from '../../../shared/src/transport/quic.ts';
import { dialWebSocket } from '../../../shared/src/transport/websocket.ts';
import { chainOf, shortName } from '../certificate-trust.ts';
import { type Outbound, OutboundError } from '../outbound.ts';
import type { Resolver } from '../resolver.ts';
import { failed, type Finding, ok, warning } from './report.ts';

/** A certificate that ends sooner is worth a warning, ms: two weeks. */
const EXPIRES_SOON_MS = 14 * 86_400_000;
const DAY_MS = 86_400_000;

export const formatMs = (ms: number): string => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

export const checkName = async (
  host: string,
  deps: { resolver: Resolver },
  options: { isBehindProxy: boolean; signal: AbortSignal },
): Promise<Finding> => {
  try {
    const addresses = await deps.resolver.resolve(host, options);
    const of = (family: 4 | 6): string =>
      addresses
        .filter((each) => each.family === family)
        .map(({ address }) => address)
        .join(', ');
    const four = of(4);
    const six = of(6);
    const result = `${host}: ${four || 'no IPv4'}${six ? `, ${six}` : ', no IPv6'}`;
    return ok(result, { host, addresses: addresses.map(({ address }) => address) });
  } catch (error) {
    options.signal.throwIfAborted();
    const result = `${host}: ${describeError(error)}`;
    return options.isBehindProxy
      ? warning(
          result,
          'None needed for what goes through the proxy, which resolves names itself; QUIC needs the name.',
        )
      : failed(
          result,
          `Check the spelling of the gateway's URL, and that the name server of this machine knows ${host}.`,
        );
  }
};

/** A whole QUIC handshake, with a key that nobody knows: the gateway takes it before it asks for a membership. */
export const checkQuic = async (address: HostPort, deps: { clock: Clock }, signal: AbortSignal): Promise<Finding> => {
  const where = formatHostPort(address.host, address.port);
  const startedAt = deps.clock.monotonic();
  const dialer = createQuicDialer({ key: createKey() });
  try {
    const connection = await dialer.dial(address, { signal });
    const tookMs = deps.clock.monotonic() - startedAt;
    connection.close();
    return ok(`${where}: handshake in ${formatMs(tookMs)}`, { handshakeMs: tookMs });
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof TransportError && error.code === 'not_available') {
      return failed(error.message, 'Install the package; until then tunnels run over TCP.');
    }
    return failed(`${where}: no answer`, quicAdvice(address));
  } finally {
    dialer.close();
  }
};

export const quicAdvice = ({ port }: HostPort): string =>
  `Let UDP packets to port ${port} out, and their answers in; until then tunnels run over TCP, which is slower where packets get lost.`;

/** What a TLS connection to the gateway has shown. */
export interface TlsFinding {
  readonly finding: Finding;
  readonly socket: TLSSocket | undefined;
}

export const connectTls = async (
  target: HostPort,
  deps: { outbound: Outbound; clock: Clock },
  options: { advice: string; signal: AbortSignal },
): Promise<TlsFinding> => {
  const where = formatHostPort(target.host, target.port);
  const startedAt = deps.clock.monotonic();
  try {
    const socket = await deps.outbound.connectTls(
      { ...target, servername: target.host, alpn: ['h2', 'http/1.1'] },
      options,
    );
    socket.on('error', () => undefined);
    const tookMs = deps.clock.monotonic() - startedAt;
    const protocol = socket.getProtocol();
    return {
      finding: ok(`${where}: ${protocol ?? 'TLS'} in ${formatMs(tookMs)}`, { handshakeMs: tookMs, protocol }),
      socket,
    };
  } catch (error) {
    options.signal.throwIfAborted();
    const { reason, advice, data } = outboundFinding(error);
    return { finding: failed(`${where}: ${reason}`, advice ?? options.advice, data), socket: undefined };
  }
};

/** What a failed connection says of itself, in parts. */
export const outboundFinding = (
  error: unknown,
): { reason: string; advice: string | undefined; data: Record<string, unknown> } => {
  if (!(error instanceof OutboundError)) return { reason: describeError(error), advice: undefined, data: {} };
  const { code, issuer, reason, advice } = error;
  return { reason, advice: advice === undefined ? undefined : sentence(advice), data: { code, issuer } };
};

/** As a sentence. */
export const sentence = (text: string): string => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

export const describeCertificate = (socket: TLSSocket, host: string, now: number): Finding => {
  const chain = chainOf(socket.getPeerX509Certificate());
  const [leaf] = chain;
  if (!leaf) return failed(`${host}: none was shown`, 'Check what answers there.');
  const top = chain.at(-1) ?? leaf;
  const validTo = new Date(leaf.validTo).getTime();
  const days = Math.floor((validTo - now) / DAY_MS);
  const issuer = shortName(leaf.issuer);
  const root = shortName(top.issuer);
  const isSelfSigned = leaf.issuer === leaf.subject;
  const by = isSelfSigned
    ? 'self-signed'
    : root === issuer
      ? `issued by ${issuer}`
      : `issued by ${issuer}, root ${root}`;
  const result = `${host}: ${by}, ${days} days left`;
  const data = { issuer, root, validTo: leaf.validTo, chain: chain.map(({ subject }) => shortName(subject)) };
  return validTo - now > EXPIRES_SOON_MS
    ? ok(result, data)
    : warning(result, 'Renew the certificate of the gateway.', data);
};

export const describeAlpn = (socket: TLSSocket, { host, port }: HostPort): Finding => {
  const where = formatHostPort(host, port);
  const agreed = socket.alpnProtocol || undefined;
  if (agreed === 'h2') return ok(`${where}: h2`, { alpn: agreed });
  return failed(
    `${where}: ${agreed ?? 'nothing'} was agreed, h2 was offered`,
    `A proxy inspects TLS and speaks no HTTP/2: except ${host} from inspection; until then a WebSocket is used.`,
    { alpn: agreed },
  );
};

/** A whole WebSocket, ended before the tunnel's handshake. */
export const checkUpgrade = async (
  { host, port }: HostPort,
  deps: { outbound: Outbound },
  signal: AbortSignal,
): Promise<Finding> => {
  const authority = formatHostPort(host, port);
  try {
    const connection = await dialWebSocket(
      {
        authority,
        connect: (options) => deps.outbound.connectTls({ host, port, servername: host, alpn: ['http/1.1'] }, options),
      },
      { signal },
    );
    connection.close();
    return ok(`${authority}: WebSockets pass`);
  } catch (error) {
    signal.throwIfAborted();
    const isRefused = error instanceof TransportError && error.code === 'refused';
    const advice = isRefused
      ? `A proxy lets no upgrades pass: except ${host} from inspection, or let it pass the protocol "websocket".`
      : 'Follow the advice for TCP above.';
    return failed(`${authority}: ${outboundFinding(error).reason}`, advice);
  }
};
