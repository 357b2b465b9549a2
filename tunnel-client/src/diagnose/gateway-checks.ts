/** UDP to every address of every gateway; TCP and TLS to the first one, through the proxy and direct. */
import { isIP } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { GatewayAddress } from '../../../shared/src/protocol/messages.ts';
import { formatHostPort, type HostPort, parseHostPort } from '../../../shared/src/transport/address.ts';
import type { GatewayUrl } from '../gateway-url.ts';
import { MAX_ADDRESSES } from '../happy-eyeballs.ts';
import type { Outbound } from '../outbound.ts';
import { tcpTargets } from '../tcp-connector.ts';
import { CONNECT_LIMIT_MS, type Context, LOCAL_LIMIT_MS, NAME_LIMIT_MS, proxyOf } from './context.ts';
import {
  checkName,
  checkQuic,
  checkUpgrade,
  connectTls,
  describeAlpn,
  describeCertificate,
  quicAdvice,
} from './network-checks.ts';
import { type Finding, skipped } from './report.ts';

/** Where gateways listen when nobody tells. */
const QUIC_PORT = 4242;
/** Ports of the gateway's HTTPS listeners by default, and of everybody's. */
const TCP_PORTS: readonly number[] = [8443, 443];

/** Every address of every gateway. */
const quicAddresses = async (context: Context, gateways: readonly GatewayAddress[]): Promise<HostPort[]> => {
  const { run, resolver, signal } = context;
  const listed = gateways.flatMap(({ quic }) => quic);
  const texts = listed.length > 0 ? listed : [formatHostPort(context.url.host, QUIC_PORT)];
  const targets = [...new Set(texts)].slice(0, MAX_ADDRESSES).map(parseHostPort);
  const known = new Set([context.url.host, context.url.host.replace(/^api\./, 'tunnel.')]);
  const found = await Promise.all(
    targets.map(async ({ host, port }) => {
      if (!known.has(host) && isIP(host) === 0) {
        known.add(host);
        await run.run({
          id: `name:${host}`,
          name: 'Name',
          limitMs: NAME_LIMIT_MS,
          advice: 'Check the name servers of this machine.',
          work: (limited) => checkName(host, { resolver }, { isBehindProxy: false, signal: limited }),
        });
      }
      // What is wrong with a name, its own check has told.
      const addresses = await resolver.resolve(host, { signal }).catch(() => []);
      return addresses.map(({ address }) => ({ host: address, port }));
    }),
  );
  signal.throwIfAborted();
  const unique = new Map(found.flat().map((each) => [formatHostPort(each.host, each.port), each]));
  return [...unique.values()].slice(0, MAX_ADDRESSES);
};

export const checkUdp = async (context: Context, gateways: readonly GatewayAddress[]): Promise<void> => {
  const { deps, run } = context;
  const addresses = await quicAddresses(context, gateways);
  await Promise.all(
    addresses.map((address) => {
      const where = formatHostPort(address.host, address.port);
      return run.run({
        id: `quic:${where}`,
        name: `UDP ${address.port}`,
        where,
        limitMs: CONNECT_LIMIT_MS,
        advice: quicAdvice(address),
        work: (signal) => checkQuic(address, deps, signal),
      });
    }),
  );
};

/** Ports where tunnels over TCP may be, those that gateways name first. */
const tcpCandidates = (gateways: readonly GatewayAddress[], url: GatewayUrl): HostPort[] => {
  const [gateway] = gateways;
  const named = tcpTargets(gateway ?? {}, url);
  const host = named[0]?.host ?? url.host;
  const all = [...named, ...TCP_PORTS.map((port) => ({ host, port }))];
  return [...new Map(all.map((each) => [formatHostPort(each.host, each.port), each])).values()].slice(0, MAX_ADDRESSES);
};

export const checkTcp = async (context: Context, gateways: readonly GatewayAddress[]): Promise<void> => {
  const { deps, run, outbound, direct } = context;
  const named = new Set(tcpTargets(gateways[0] ?? {}, context.url).map(({ host, port }) => formatHostPort(host, port)));
  const open: { target: HostPort; socket: TLSSocket }[] = [];
  const check = (target: HostPort, way: Outbound, label: string): Promise<unknown> => {
    const where = formatHostPort(target.host, target.port);
    return run.run({
      id: `tcp:${where}${label && `:${label}`}`,
      name: `TCP ${target.port}${label && ` ${label}`}`,
      where,
      limitMs: CONNECT_LIMIT_MS,
      advice: `Let TCP to port ${target.port} of ${target.host} out.`,
      work: async (signal) => {
        const advice = `Let TCP to port ${target.port} of ${target.host} out, or use a proxy (HTTPS_PROXY).`;
        const { finding, socket } = await connectTls(target, { outbound: way, clock: deps.clock }, { advice, signal });
        if (socket && way === outbound) open.push({ target, socket });
        else socket?.destroy();
        const isSpare = !named.has(where) || way !== outbound;
        if (finding.state !== 'failed' || !isSpare) return finding;
        // Nobody depends on it: that it is shut is no fault.
        return skipped(finding.result);
      },
    });
  };
  await Promise.all(
    tcpCandidates(gateways, context.url).map(async (target) => {
      const proxy = await proxyOf(context, target);
      if (proxy === undefined) return check(target, outbound, '');
      return Promise.all([check(target, outbound, 'by proxy'), check(target, direct, 'direct')]);
    }),
  );
  const best = open.find(({ target }) => named.has(formatHostPort(target.host, target.port))) ?? open[0];
  if (best) await checkTls(context, best);
  for (const { socket } of open) socket.destroy();
};

const checkTls = async (
  { deps, run, outbound }: Context,
  { target, socket }: { target: HostPort; socket: TLSSocket },
): Promise<void> => {
  const where = formatHostPort(target.host, target.port);
  const shown = (id: string, name: string, finding: () => Finding): Promise<unknown> =>
    run.run({
      id: `${id}:${where}`,
      name,
      limitMs: LOCAL_LIMIT_MS,
      advice: '',
      work: () => Promise.resolve(finding()),
    });
  await shown('certificate', 'Certificate', () => describeCertificate(socket, target.host, deps.clock.now()));
  await shown('alpn', 'ALPN', () => describeAlpn(socket, target));
  await run.run({
    id: `upgrade:${where}`,
    name: 'Upgrade',
    limitMs: CONNECT_LIMIT_MS,
    advice: `A proxy holds upgrades back: except ${target.host} from inspection.`,
    work: (signal) => checkUpgrade(target, { outbound }, signal),
  });
};
