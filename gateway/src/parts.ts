/** The composition root: makes the parts of a gateway and joins them. `gateway.ts` listens, drains and ends them. */
import { delay, type Clock } from '../../shared/src/clock.ts';
import { type IdentityKey } from '../../shared/src/identity/keys.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import { type QuicListener } from '../../shared/src/transport/quic.ts';
import { narrowedBy } from './access/admission.ts';
import { createBlocks } from './access/blocks.ts';
import { createInterstitial } from './access/interstitial.ts';
import { createLogAccess } from './access/log-access.ts';
import { originRules } from './access/origins.ts';
import { createPortGate } from './access/port-gate.ts';
import { createRevocations } from './access/revocations.ts';
import { apexWithoutSignIn } from './access/sign-in/no-sign-in.ts';
import { type SignIn } from './access/sign-in/sign-in.ts';
import { type OtherAuthority } from './access/other-authority.ts';
import { createSigningKeys } from './access/signing-keys.ts';
import { createTicketKeys } from './access/ticket-keys.ts';
import { createTokenVerifier } from './access/tokens.ts';
import type { ListenAddress } from './config.ts';
import type { Directory } from './directory/directory.ts';
import { keepKeysFresh } from './directory/key-rotation.ts';
import { createEdge, type Edge } from './edge/edge.ts';
import { type LiveCertificates } from './edge/live-certificates.ts';
import { createOwnHosts } from './hosts/own-hosts.ts';
import { createLogsHost } from './logs/logs-host.ts';
import { createViewerPage } from './logs/viewer-page.ts';
import { createAccessLog } from './observability/access-log.ts';
import { createDashboard, type Dashboard } from './observability/dashboard/dashboard.ts';
import { type InternalListener } from './observability/internal-listener.ts';
import type { Logger } from './observability/log.ts';
import { createMetrics, type Metrics } from './observability/metrics.ts';
import { createCallbackHost } from './oauth/callback-host.ts';
import { createForwarder } from './proxy/forwarder.ts';
import { createAcceptor, type Acceptor } from './tunnels/acceptor.ts';
import { createTcpTunnels } from './tunnels/tcp-tunnels.ts';
import { ownAddress } from './tunnels/own-address.ts';
import { createOwnMembership, type OwnMembership } from './tunnels/own-membership.ts';
import { createRegistry, type TunnelRegistry } from './tunnels/registry.ts';
import { createTunnelTotals } from './tunnels/totals.ts';
import type { Closers } from './closers.ts';
import type { LiveConfig } from './live-config.ts';
import {
  loadKey,
  openCertificateStore,
  openDirectory,
  openOtherAuthority,
  openSignIn,
  openTracing,
} from './open-parts.ts';

export interface GatewayDeps {
  readonly log: Logger;
  readonly clock?: Clock;
  /** Lines of the log that were lost because its sink was stuck, for metrics. */
  readonly droppedLogLines?: () => number;
  /** Absent: the embedded one in `stateDir`, opened and closed with the gateway. */
  readonly directory?: Directory;
  /** Absent: kept in `<stateDir>/gateway-key.json`. */
  readonly key?: IdentityKey;
  /** Further gateways of the same domains, as runners are told of them. */
  readonly otherGateways?: () => readonly GatewayAddress[];
  /** 0 to 1, for jitter. */
  readonly random?: () => number;
}

/**
 * How long the end of the QUIC listeners is waited for, ms. Every leg has said goodbye before; what is left is the
 * draining period of handshakes that were refused (RFC 9000 section 10.2), up to 3 s, in which nothing is sent.
 */
const QUIC_CLOSE_MS = 250;

/** Everything a gateway consists of, before it listens. */
export interface Parts {
  readonly directory: Directory;
  readonly membership: OwnMembership;
  readonly other: OtherAuthority | undefined;
  readonly registry: TunnelRegistry;
  readonly acceptor: Acceptor;
  readonly edge: Edge;
  readonly metrics: Metrics;
  readonly key: IdentityKey;
  /** Undefined: nobody can sign in here. */
  readonly signIn: SignIn | undefined;
  readonly certificates: LiveCertificates;
  readonly dashboard: Dashboard;
  /** What was let in is judged anew, by the policies that are in force now. */
  recheck(): void;
}

/** What the parts learn of only when the listeners are up. */
export interface Bound {
  https: ListenAddress[];
  http: ListenAddress[];
  readonly quic: QuicListener[];
  internal: InternalListener | undefined;
}

export const makeParts = async (
  live: LiveConfig,
  deps: GatewayDeps,
  clock: Clock,
  bound: Bound,
  closers: Closers,
): Promise<Parts> => {
  const { log } = deps;
  /** As at the start: what changes later is asked of `live`. */
  const config = live.current();
  const { limits } = live;
  const { domains } = config;
  const directory = deps.directory ?? (await openDirectory(config, deps, clock));
  if (!deps.directory) closers.add('directory', () => directory.close());
  const key = deps.key ?? (await loadKey(config));
  const other = await openOtherAuthority(config, deps, clock, directory);
  if (other) closers.add('other authority', () => other.close());
  const membership = await createOwnMembership({ directory, key, clock, log });
  closers.add('membership', () => membership.close());
  closers.add('internal listener', () => bound.internal?.close());
  // Ends after the registry, which says goodbye on the legs.
  closers.add('QUIC listeners', async () => {
    const closed = Promise.all(bound.quic.map((listener) => listener.close()));
    await Promise.race([closed, delay(clock, QUIC_CLOSE_MS, new AbortController().signal)]);
  });

  const tunnel = await createTcpTunnels(
    { clock, onConnection: (connection) => acceptor.accept(connection) },
    { domains, limits },
  );
  closers.add('tunnels over TCP', () => tunnel.close());

  const publicPort = (): number => config.publicPort ?? bound.https[0]?.port ?? 443;
  const gateways = (): readonly GatewayAddress[] => [
    ownAddress(live.current(), {
      id: membership.gatewayId,
      publicKey: key.publicKey,
      quic: bound.quic.map(({ address }) => address),
      https: bound.https,
    }),
    ...(deps.otherGateways?.() ?? []),
  ];
  const policy = (organization: string | undefined) =>
    organization === undefined ? undefined : live.current().organizations[organization];
  const totals = createTunnelTotals();
  const tracing = await openTracing(config, { clock, log, instance: membership.gatewayId });
  // Ends after everything that serves requests.
  closers.add('tracing', () => tracing?.close());
  const metrics = createMetrics({
    tunnels: () => ({ ...totals.snapshot(registry.legs()), ...acceptor.stats() }),
    certificates: () => certificates.certificates,
    certificateFaults: () => certificates.faults().length,
    droppedLogLines: deps.droppedLogLines,
    spans: () => tracing?.counts(),
  });
  const signingKeys = createSigningKeys({ directory, clock });
  closers.add('signing keys', () => signingKeys.close());
  const revocations = await createRevocations({ directory, clock, log });
  closers.add('revocations', () => revocations.close());
  const ports = {
    has: (port: number) => port === publicPort() || bound.https.some((address) => address.port === port),
  };
  const signIn = await openSignIn(config, {
    keys: signingKeys,
    revocations,
    route: (id) => registry.route(id),
    policy,
    environmentsOf: async (creator) =>
      (await directory.environments({ creator }))
        .filter(({ releasedAt }) => releasedAt === undefined)
        .map(({ id }) => id),
    publicPort,
    ports,
    clock,
    log,
  });
  closers.add('sign-in', () => signIn?.close());
  const hosts = await createOwnHosts({
    apexRoutes: signIn?.apex ?? apexWithoutSignIn,
    directory,
    clock,
    log,
    gateways,
    limits,
    audiences: domains.map((domain) => `api.${domain}`),
    onlyIssuer: other?.only ? other.issuer : undefined,
    onJoin: (result) => metrics.joined(result),
    onRenew: (result) => metrics.joined(result),
  });
  closers.add('hosts', () => hosts.close());
  const blocks = await createBlocks({ directory, clock, log });
  closers.add('blocks', () => blocks.close());
  const tokens = createTokenVerifier({ keys: signingKeys, clock, other });
  const interstitial = createInterstitial({
    route: (id) => registry.route(id),
    isOn: () => live.current().everyonePorts.interstitial,
  });
  const gate = createPortGate({
    route: (id) => registry.route(id),
    policy,
    tokens,
    revocations,
    sessions: signIn?.portSessions,
    startSignIn: (exchange) => signIn?.portPages.startSignIn(exchange),
    blocks,
    origins: () => originRules(live.current().cors),
    interstitial,
    clock,
    log,
  });
  closers.add('gate', () => gate.close());
  const unwatch = [revocations, blocks].map((list) => list.onChange(() => gate.recheck(undefined)));
  closers.add('rechecks', () => unwatch.forEach((stop) => stop()));
  const dashboard = createDashboard({
    directory,
    registry: () => registry,
    tunnels: () => totals.snapshot(registry.legs()),
    isBlocked: (of) => blocks.isBlocked(of),
    gateway: () => ({ id: membership.gatewayId, domain: domains[0], publicPort: publicPort() }),
    clock,
    log,
  });
  closers.add('dashboard', () => dashboard.close());
  const registry = createRegistry({
    directory,
    clock,
    log,
    limits,
    legsPerRunner: (organization) => policy(organization)?.limits.legsPerRunner ?? limits.legsPerRunner,
    random: deps.random ?? Math.random,
    otherIssuer: other?.issuer,
    urls: { domain: domains[0] ?? '', publicPort },
    note: (environment, organization) => narrowedBy({ environment, organization }, policy(organization)),
    observe: {
      environmentChanged: (environmentId) => gate.recheck(environmentId),
      legUp: (leg) => dashboard.observe.legUp(leg),
      announced: (runnerId, results) => dashboard.observe.announced(runnerId, results),
      legClosed(leg, end) {
        dashboard.observe.legClosed(leg, end);
        totals.add(leg.stats());
        metrics.legClosed(end.code);
      },
      legLeft: (leg) => forwarder.leaveLeg(leg),
      rtt: (rttMs) => metrics.echoed(rttMs),
    },
  });
  closers.add('registry', () => registry.close());
  const mayBeInspected = (organization: string): boolean => policy(organization)?.allowInspectedTls ?? true;
  const acceptor = createAcceptor({
    directory,
    registry,
    membership,
    clock,
    log,
    limits,
    gateways,
    ...(other ? { otherAuthority: other } : {}),
    mayBeInspected,
  });
  closers.add('acceptor', () => acceptor.close());

  const callbacks = await createCallbackHost({ directory, registry, clock, log, tracing }, limits);
  closers.add('callbacks', () => callbacks.close());
  const forwarder = createForwarder({
    route: (id) => registry.route(id),
    gate,
    limitsOf: (organization) => policy(organization)?.limits,
    noindex: () => live.current().everyonePorts.noindex,
    tracing,
    log,
    limits,
    clock,
  });
  closers.add('forwarder', () => forwarder.close());
  const logs = createLogsHost({
    access: createLogAccess({ verifier: tokens }),
    route: (id) => registry.route(id),
    forwarder,
    page: createViewerPage(),
    clock,
  });
  const ticketKeys = await createTicketKeys({ directory, clock, log });
  closers.add('ticket keys', () => ticketKeys.close());
  closers.add('rotation of keys', keepKeysFresh({ directory, clock, log }));
  const certificates = await openCertificateStore(config, log, clock);
  closers.add('certificates', () => certificates.close());
  const logExchange = createAccessLog(log, () => live.current().accessLog);
  const edge = createEdge({
    domains,
    publicPorts: () => new Set([publicPort()]),
    publicPort,
    proxies: { trusted: config.trustedProxies, protocol: config.proxyProtocol },
    certificates,
    ticketKeys,
    forwarder,
    handlers: {
      apex: hosts.apex,
      api: hosts.api,
      logs,
      tunnel,
      portPages(exchange, asked) {
        const isServed = signIn?.portPages.serve(exchange, asked) || interstitial.serve(exchange, asked);
        if (!isServed) exchange.fail('not_found');
      },
      runner: (exchange, runnerId) => callbacks.serve(exchange, runnerId),
    },
    log,
    clock,
    limits,
    onExchangeStart: () => metrics.requestStarted(),
    onExchangeEnd(exchange, status) {
      gate.ended(exchange);
      const nowMs = clock.monotonic();
      logExchange(exchange, status, nowMs);
      tracing?.ended(exchange, status, nowMs);
      dashboard.observe.requestEnded(status, exchange.record.errorCode);
      metrics.requestEnded({
        protocol: exchange.protocol,
        status,
        durationMs: nowMs - exchange.startedAt,
        upstreamMs: exchange.record.upstreamMs,
        errorCode: exchange.record.errorCode,
      });
    },
    onRefused: (code) => metrics.refused(code),
  });
  closers.add('edge', () => edge.close());
  const recheck = (): void => {
    gate.recheck(undefined);
    registry.dropLegs(({ inspected, peer: { organization } }) =>
      inspected && organization !== undefined && !mayBeInspected(organization) ? 'inspected_tls' : undefined,
    );
  };
  return {
    directory,
    membership,
    other,
    registry,
    acceptor,
    edge,
    metrics,
    key,
    signIn,
    certificates,
    dashboard,
    recheck,
  };
};
