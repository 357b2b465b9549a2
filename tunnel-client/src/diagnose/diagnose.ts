/**
 * Finds out whether a client would get through to its gateway, and over which transport. It changes nothing: its legs
 * stay on standby, so that no gateway sends anything over them, and a running client goes on undisturbed.
 *
 *     membership, API, buffers, names      at once
 *     UDP to every address, TCP and TLS    at once, when it is known where the gateways are
 *     a leg over each transport            one after the other, so that they do not share the bandwidth
 */
import { randomBytes } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError, REFUSALS, RefusedError } from '../../../shared/src/errors.ts';
import { GATEWAYS_PATH, gatewaysResponseSchema } from '../../../shared/src/identity/enrolment.ts';
import { sign } from '../../../shared/src/identity/keys.ts';
import type { GatewayAddress } from '../../../shared/src/protocol/messages.ts';
import { formatHostPort, type HostPort, parseHostPort } from '../../../shared/src/transport/address.ts';
import { createQuicDialer } from '../../../shared/src/transport/quic.ts';
import { createApiClient, UnreachableError } from '../api-client.ts';
import type { GatewayUrl } from '../gateway-url.ts';
import { MAX_ADDRESSES } from '../happy-eyeballs.ts';
import { createLegDialer, type DialLeg } from '../leg-dialer.ts';
import { createOutbound, type Outbound, OutboundError } from '../outbound.ts';
import { NO_PROXY_SETTINGS, type ProxySettings } from '../proxy-settings.ts';
import { createQuicConnector } from '../quic-connector.ts';
import { createResolver } from '../resolver.ts';
import { createTcpConnector, tcpTargets } from '../tcp-connector.ts';
import { type Transport, TRANSPORT_LABELS, type TransportChoice, TRANSPORTS } from '../transport.ts';
import { VERSION } from '../version.ts';
import { createCheckRun, type CheckRun, type Progress } from './check-run.ts';
import { checkMembership, checkReceiveBuffer, describeClock, type Member } from './local-checks.ts';
import {
  checkName,
  checkQuic,
  checkUpgrade,
  connectTls,
  describeAlpn,
  describeCertificate,
  formatMs,
  outboundAdvice,
  quicAdvice,
} from './network-checks.ts';
import { type Diagnosis, failed, type Finding, judge, ok, skipped } from './report.ts';
import { transfer, TRANSFER_BYTES, TransferError } from './transfer.ts';

/** A look-up has a limit of 4.5 s itself. */
const NAME_LIMIT_MS = 5_000;
/** A SYN or a first packet that is lost is repeated after 1 and 3 s. */
const CONNECT_LIMIT_MS = 8_000;
/** Limit of the API's client, and a little. */
const API_LIMIT_MS = 11_000;
/** Connection, handshake and transfer: 70 KB/s are enough. */
const LEG_LIMIT_MS = 30_000;
const LOCAL_LIMIT_MS = 2_000;
/** Where gateways listen when nobody tells. */
const QUIC_PORT = 4242;
/** Ports of the gateway's HTTPS listeners by default, and of everybody's. */
const TCP_PORTS: readonly number[] = [8443, 443];

export interface DiagnoseDeps {
  readonly clock: Clock;
  /** Asks the client that runs beside; absent: none is asked. */
  readonly askRunning?: (signal: AbortSignal) => Promise<Finding>;
  readonly onProgress?: (progress: Progress) => void;
}

export interface DiagnoseOptions {
  readonly url: GatewayUrl;
  readonly runnerId: string;
  readonly stateDir: string;
  readonly ca: string | undefined;
  readonly proxy: ProxySettings;
  readonly transport: TransportChoice;
  /** An exchange token is configured; it is not used. */
  readonly hasToken: boolean;
}

/** What all steps share. */
interface Context {
  readonly deps: DiagnoseDeps;
  readonly options: DiagnoseOptions;
  readonly run: CheckRun;
  readonly outbound: Outbound;
  readonly direct: Outbound;
  readonly resolver: ReturnType<typeof createResolver>;
  readonly signal: AbortSignal;
}

const proxyOf = ({ outbound, signal }: Context, target: HostPort): Promise<string | undefined> =>
  outbound.proxyOf(target, { signal });

/** Membership, API and what else needs no knowledge of the gateways. */
const checkFirst = async (
  context: Context,
): Promise<{ member: Member | undefined; gateways: readonly GatewayAddress[] }> => {
  const { deps, options, run, resolver, outbound } = context;
  const { clock } = deps;
  const { url } = options;
  let member: Member | undefined;
  let gateways: readonly GatewayAddress[] = [];
  let clockFinding = skipped('the API gave no answer');
  const userAgent = `tunnel-client/${VERSION} diagnose`;
  const api = createApiClient(
    { clock, outbound },
    { url, userAgent, onDate: (...times) => (clockFinding = describeClock(...times)) },
  );
  const proxy = await proxyOf(context, url);
  const through = proxy === undefined ? '' : ` through the proxy ${proxy}`;
  const askApi = async (signal: AbortSignal): Promise<Finding> => {
    const startedAt = clock.monotonic();
    try {
      ({ gateways } = await api.get(GATEWAYS_PATH, gatewaysResponseSchema, { signal }));
      const tookMs = clock.monotonic() - startedAt;
      return ok(`${url.origin}: answered in ${formatMs(tookMs)}${through}`, { tookMs, gateways, proxy });
    } catch (error) {
      signal.throwIfAborted();
      const { cause } = error as Error;
      const code = error instanceof UnreachableError && cause instanceof OutboundError ? cause.code : undefined;
      const advice = outboundAdvice(code) ?? 'Check the URL of the gateway, and that it runs and is reached from here.';
      return failed(describeError(code === undefined ? (error as Error).message : error), advice, { code });
    }
  };
  const tunnelHost = url.host.replace(/^api\./, 'tunnel.');
  const names = [...new Set([url.host, tunnelHost])];
  await Promise.all([
    ...(deps.askRunning
      ? [
          run.run({
            id: 'running',
            name: 'Running client',
            limitMs: CONNECT_LIMIT_MS,
            work: deps.askRunning,
            advice: '',
          }),
        ]
      : []),
    run.run({
      id: 'membership',
      name: 'Membership',
      limitMs: API_LIMIT_MS,
      advice: 'See the check of the API.',
      work: async (signal) => {
        const checked = await checkMembership({ clock, api }, { ...options, signal });
        ({ member } = checked);
        return checked.finding;
      },
    }),
    run.run({
      id: 'api',
      name: 'API',
      limitMs: API_LIMIT_MS,
      work: askApi,
      advice: 'Check the URL of the gateway, and that it is reached from here.',
    }),
    run.run({
      id: 'udp-buffer',
      name: 'UDP receive buffer',
      limitMs: LOCAL_LIMIT_MS,
      work: checkReceiveBuffer,
      advice: 'None needed.',
    }),
    ...names.map((host) =>
      run.run({
        id: `name:${host}`,
        name: 'Name',
        limitMs: NAME_LIMIT_MS,
        advice: 'Check the name servers of this machine.',
        work: (signal) => checkName(host, { resolver }, { isBehindProxy: proxy !== undefined, signal }),
      }),
    ),
  ]);
  await run.run({
    id: 'clock',
    name: 'Clock',
    limitMs: LOCAL_LIMIT_MS,
    work: () => Promise.resolve(clockFinding),
    advice: '',
  });
  // The API's list is the newest; without it, what the last one was.
  return { member, gateways: gateways.length > 0 ? gateways : (member?.enrolment.current()?.gateways ?? []) };
};

/** Every address of every gateway. */
const quicAddresses = async (context: Context, gateways: readonly GatewayAddress[]): Promise<HostPort[]> => {
  const { options, run, resolver, signal } = context;
  const listed = gateways.flatMap(({ quic }) => quic);
  const texts = listed.length > 0 ? listed : [formatHostPort(options.url.host, QUIC_PORT)];
  const targets = [...new Set(texts)].slice(0, MAX_ADDRESSES).map(parseHostPort);
  const known = new Set([options.url.host, options.url.host.replace(/^api\./, 'tunnel.')]);
  const found = await Promise.all(
    targets.map(async ({ host, port }) => {
      if (!known.has(host)) {
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

const checkUdp = async (context: Context, gateways: readonly GatewayAddress[]): Promise<void> => {
  const { deps, run } = context;
  const addresses = await quicAddresses(context, gateways);
  await Promise.all(
    addresses.map((address) =>
      run.run({
        id: `quic:${formatHostPort(address.host, address.port)}`,
        name: `UDP ${address.port}`,
        limitMs: CONNECT_LIMIT_MS,
        advice: quicAdvice(address),
        work: (signal) => checkQuic(address, deps, signal),
      }),
    ),
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

const checkTcp = async (context: Context, gateways: readonly GatewayAddress[]): Promise<void> => {
  const { deps, options, run, outbound, direct } = context;
  const named = new Set(tcpTargets(gateways[0] ?? {}, options.url).map(({ host, port }) => formatHostPort(host, port)));
  const open: { target: HostPort; socket: TLSSocket }[] = [];
  const check = (target: HostPort, way: Outbound, label: string): Promise<unknown> => {
    const where = formatHostPort(target.host, target.port);
    return run.run({
      id: `tcp:${where}${label && `:${label}`}`,
      name: `TCP ${target.port}${label && ` ${label}`}`,
      limitMs: CONNECT_LIMIT_MS,
      advice: `Let TCP to port ${target.port} of ${target.host} out.`,
      work: async (signal) => {
        const advice = `Let TCP to port ${target.port} of ${target.host} out, or use a proxy (HTTPS_PROXY).`;
        const { finding, socket } = await connectTls(target, { outbound: way, clock: deps.clock }, { advice, signal });
        if (socket && way === outbound) open.push({ target, socket });
        else socket?.destroy();
        const isSpare = !named.has(where) || way !== outbound;
        if (finding.state !== 'failed' || !isSpare) return finding;
        return { ...finding, state: 'warning', advice: 'None needed while another port or the proxy lets it through.' };
      },
    });
  };
  await Promise.all(
    tcpCandidates(gateways, options.url).map(async (target) => {
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

const megabytes = (bytesPerSecond: number): string =>
  bytesPerSecond >= 1e7 ? `${Math.round(bytesPerSecond / 1e6)}` : (bytesPerSecond / 1e6).toFixed(1);

const checkLeg = async (
  { deps }: Context,
  dial: DialLeg,
  gateway: GatewayAddress,
  transport: Transport,
  signal: AbortSignal,
): Promise<Finding> => {
  let leg;
  try {
    leg = await dial(gateway, transport, { signal });
  } catch (error) {
    signal.throwIfAborted();
    const advice =
      error instanceof RefusedError
        ? `${REFUSALS[error.code].hint.replace(/\.$/, '')}.`
        : transport === 'quic'
          ? 'Follow the advice for UDP above.'
          : 'Follow the advice for TCP, ALPN and upgrades above.';
    return failed(describeError(error), advice);
  }
  leg.attach({});
  try {
    const { rttMs, tookMs, goodput, loss } = await transfer(leg, deps, { signal });
    const lost = loss === undefined ? '' : `, ${(loss * 100).toFixed(1)} % lost`;
    const result =
      `gateway ${leg.peer.id}: round trip ${formatMs(rttMs)}, 1 MiB each way in ${formatMs(tookMs)} ` +
      `(${megabytes(goodput)} MB/s)${lost}${leg.inspected ? '; TLS is inspected on the way' : ''}`;
    return ok(result, { rttMs, transferMs: tookMs, goodput, loss, inspected: leg.inspected, gatewayId: leg.peer.id });
  } catch (error) {
    if (!(error instanceof TransferError)) throw error;
    const kib = `${Math.round(error.receivedBytes / 1_024)} of ${TRANSFER_BYTES / 1_024} KiB`;
    return failed(
      `the leg is up, but the transfer stopped after ${kib}: ${error.message}`,
      'Packets of full size seem to get lost: check the MTU on the way (VPN, PPPoE), and let ICMP "too big" pass.',
      { receivedBytes: error.receivedBytes },
    );
  } finally {
    await leg.close('closed');
  }
};

/** Legs over the transports that may be used; resolves with those that carried the transfer. */
const checkLegs = async (
  context: Context,
  member: Member | undefined,
  gateway: GatewayAddress | undefined,
  transports: readonly Transport[],
): Promise<Transport[]> => {
  const { deps, options, run, resolver, outbound } = context;
  const { clock } = deps;
  const carried: Transport[] = [];
  if (!member || !gateway) return carried;
  const { key, enrolment } = member;
  const dialer = createQuicDialer({ key });
  const dial = createLegDialer({
    clock,
    enrolment,
    sign: (message) => sign(key, message),
    connectors: {
      quic: createQuicConnector({ clock, resolver, dialer }),
      webtransport: createTcpConnector({ clock, outbound }, { transport: 'webtransport', url: options.url }),
      websocket: createTcpConnector({ clock, outbound }, { transport: 'websocket', url: options.url }),
    },
    hello: {
      instance: randomBytes(16).toString('base64url'),
      instanceStartedAt: clock.now(),
      agent: `tunnel-client/${VERSION} diagnose`,
    },
  });
  try {
    for (const transport of transports) {
      const { state } = await run.run({
        id: `leg:${transport}`,
        name: `Leg, ${TRANSPORT_LABELS[transport]}`,
        limitMs: LEG_LIMIT_MS,
        advice: 'Handshakes pass and data does not: check the MTU on the way, and what else a firewall looks at.',
        work: (signal) => checkLeg(context, dial, gateway, transport, signal),
      });
      if (state === 'ok') carried.push(transport);
    }
  } finally {
    dialer.close();
  }
  return carried;
};

/** Without a membership there are no legs: what the handshakes below them have come to. */
const reachable = (run: CheckRun, transports: readonly Transport[]): Transport[] => {
  const passed = (kind: string): boolean =>
    run.results().some(({ id, state }) => id.startsWith(`${kind}:`) && state === 'ok');
  const kinds: Readonly<Record<Transport, string>> = { quic: 'quic', webtransport: 'alpn', websocket: 'upgrade' };
  return transports.filter((transport) => passed(kinds[transport]));
};

/** Rejects with the signal's reason alone. */
export const diagnose = async (
  deps: DiagnoseDeps,
  options: DiagnoseOptions,
  { signal }: { readonly signal: AbortSignal },
): Promise<Diagnosis> => {
  const { clock } = deps;
  const resolver = createResolver({ clock });
  const ca = options.ca === undefined ? {} : { ca: options.ca };
  const run = createCheckRun(deps, { signal });
  const context: Context = {
    deps,
    options,
    run,
    resolver,
    signal,
    outbound: createOutbound({ clock, resolver }, { proxy: options.proxy, ...ca }),
    direct: createOutbound({ clock, resolver }, { proxy: NO_PROXY_SETTINGS, ...ca }),
  };
  const transports = options.transport === 'auto' ? TRANSPORTS : [options.transport];
  const { member, gateways } = await checkFirst(context);
  await Promise.all([checkUdp(context, gateways), checkTcp(context, gateways)]);
  const carried = await checkLegs(context, member, gateways[0], transports);
  const [transport] = member ? carried : reachable(run, transports);
  await run.run({
    id: 'transport',
    name: 'Transport',
    limitMs: LOCAL_LIMIT_MS,
    advice: '',
    work: () => Promise.resolve(conclusion(transport, member !== undefined, options.transport)),
  });
  const checks = judge(run.results(), transport);
  return {
    gateway: options.url.origin,
    runnerId: options.runnerId,
    transport,
    ok: checks.every(({ state }) => state !== 'failed'),
    checks,
  };
};

const conclusion = (transport: Transport | undefined, isTested: boolean, choice: TransportChoice): Finding => {
  if (transport === undefined) {
    return failed('none gets through', 'Follow the advice above, beginning with the first row that failed.');
  }
  const label = TRANSPORT_LABELS[transport];
  if (choice !== 'auto') return ok(`${label}, as configured`, { transport });
  return ok(isTested ? `${label} would be chosen` : `${label} would be tried first; no leg was tested`, { transport });
};
