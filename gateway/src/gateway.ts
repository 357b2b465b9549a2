/** The composition root: makes the parts of a gateway, joins them, and ends them in the right order. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock, delay, type Clock } from '../../shared/src/clock.ts';
import { describeError } from '../../shared/src/errors.ts';
import { loadOrCreateInternalToken } from '../../shared/src/identity/internal-token.ts';
import { loadOrCreateKey, type IdentityKey } from '../../shared/src/identity/keys.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import { listenQuic, type QuicListener } from '../../shared/src/transport/quic.ts';
import { whyNoQuic } from '../../shared/src/transport/quic-native.ts';
import { narrowedBy } from './access/admission.ts';
import { createBlocks } from './access/blocks.ts';
import { createInterstitial } from './access/interstitial.ts';
import { createLogAccess } from './access/log-access.ts';
import { originRules } from './access/origins.ts';
import { createPortGate } from './access/port-gate.ts';
import { createRevocations } from './access/revocations.ts';
import { apexWithoutSignIn } from './access/sign-in/no-sign-in.ts';
import { createSignIn, type SignIn, type SignInDeps } from './access/sign-in/sign-in.ts';
import { createOtherAuthority, type OtherAuthority } from './access/other-authority.ts';
import { createSigningKeys } from './access/signing-keys.ts';
import { createTicketKeys } from './access/ticket-keys.ts';
import { createTokenVerifier } from './access/tokens.ts';
import type { GatewayConfig, InternalAddress, ListenAddress } from './config.ts';
import type { Directory } from './directory/directory.ts';
import { openEmbeddedDirectory } from './directory/embedded.ts';
import { keepKeysFresh } from './directory/key-rotation.ts';
import { CertificateError } from './edge/certificates.ts';
import { createEdge, type Edge } from './edge/edge.ts';
import { openCertificates, type LiveCertificates } from './edge/live-certificates.ts';
import { createOwnHosts } from './hosts/own-hosts.ts';
import { createLogsHost } from './logs/logs-host.ts';
import { createViewerPage } from './logs/viewer-page.ts';
import { createAccessLog } from './observability/access-log.ts';
import { createDashboard, type Dashboard } from './observability/dashboard/dashboard.ts';
import { listenInternal, type InternalListener } from './observability/internal-listener.ts';
import type { Logger } from './observability/log.ts';
import { createMetrics, type Metrics } from './observability/metrics.ts';
import { createCallbackHost } from './oauth/callback-host.ts';
import { createForwarder } from './proxy/forwarder.ts';
import { isNoIPv6, listenError, StartError } from './start-error.ts';
import { createAcceptor, type Acceptor } from './tunnels/acceptor.ts';
import { createTcpTunnels } from './tunnels/tcp-tunnels.ts';
import { ownAddress } from './tunnels/own-address.ts';
import { createOwnMembership, type OwnMembership } from './tunnels/own-membership.ts';
import { createRegistry, type TunnelRegistry } from './tunnels/registry.ts';
import { createTunnelTotals } from './tunnels/totals.ts';

export { StartError } from './start-error.ts';

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

export interface Gateway {
  readonly id: string;
  readonly addresses: {
    readonly https: readonly ListenAddress[];
    readonly http: readonly ListenAddress[];
    readonly quic: readonly ListenAddress[];
    readonly internal: InternalAddress;
  };
  /** Port of the URLs that runners are told. */
  readonly publicPort: number;
  readonly directory: Directory;
  readonly registry: TunnelRegistry;
  /** Reads the files of the certificates now. */
  checkCertificates(): ReturnType<LiveCertificates['check']>;
  /** Drains, then ends. A second call with `drainTimeoutMs: 0` ends a drain that is under way. */
  close(options?: { readonly drainTimeoutMs?: number }): Promise<void>;
}

/**
 * How long the end of the QUIC listeners is waited for, ms. Every leg has said goodbye before; what is left is the
 * draining period of handshakes that were refused (RFC 9000 section 10.2), up to 3 s, in which nothing is sent.
 */
const QUIC_CLOSE_MS = 250;

/** Ends what was made so far, the latest first. Every one is tried; failures are logged. */
const createClosers = (log: Logger) => {
  const closers: { name: string; close: () => Promise<void> | void }[] = [];
  return {
    add(name: string, close: () => Promise<void> | void): void {
      closers.push({ name, close });
    },
    async run(): Promise<void> {
      for (let closer = closers.pop(); closer; closer = closers.pop()) {
        try {
          await closer.close();
        } catch (error) {
          log.error({ err: error, part: closer.name }, 'a part of the gateway could not be closed');
        }
      }
    },
  };
};
type Closers = ReturnType<typeof createClosers>;

/** Listens on each address; where the machine has no IPv6, `[::]` is passed over (or becomes 0.0.0.0, see `fallback`). */
const listenAll = async <T>(
  addresses: readonly ListenAddress[],
  listen: (address: ListenAddress) => Promise<T>,
  options: { option: string; protocol: 'TCP' | 'UDP'; log: Logger; fallback: boolean },
): Promise<T[]> => {
  const bound: T[] = [];
  for (const address of addresses) {
    try {
      bound.push(await listen(address));
    } catch (error) {
      if (address.host !== '::' || !isNoIPv6(error)) {
        throw listenError(options.option, address, options.protocol, error);
      }
      options.log.warn(
        { option: options.option, port: address.port },
        'this machine has no IPv6, IPv4 alone is served',
      );
      if (!options.fallback) continue;
      const ipv4 = { host: '0.0.0.0', port: address.port };
      bound.push(
        await listen(ipv4).catch((cause: unknown) => {
          throw listenError(options.option, ipv4, options.protocol, cause);
        }),
      );
    }
  }
  if (bound.length === 0 && addresses.length > 0) {
    throw new StartError(options.option, 'none of its addresses can be listened on. This machine has no IPv6.');
  }
  return bound;
};

/** Everything a gateway consists of, before it listens. */
interface Parts {
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
}

/** What the parts learn of only when the listeners are up. */
interface Bound {
  https: ListenAddress[];
  http: ListenAddress[];
  readonly quic: QuicListener[];
  internal: InternalListener | undefined;
}

const openDirectory = async (config: GatewayConfig, deps: GatewayDeps, clock: Clock): Promise<Directory> => {
  try {
    return await openEmbeddedDirectory(
      { clock, log: deps.log },
      { path: join(config.stateDir, 'directory.sqlite'), issuer: `https://api.${config.domains[0]}` },
    );
  } catch (error) {
    throw new StartError('stateDir', describeError(error), { cause: error });
  }
};

const openOtherAuthority = async (
  { authority }: GatewayConfig,
  deps: GatewayDeps,
  clock: Clock,
  directory: Directory,
): Promise<OtherAuthority | undefined> => {
  if (!authority) return undefined;
  if ((await directory.keyRing('authority')).issuer === authority.issuer) {
    throw new StartError('authority.issuer', `${authority.issuer} is the issuer of this cluster itself`);
  }
  const ca =
    authority.ca === undefined
      ? undefined
      : await readFile(authority.ca, 'utf8').catch((cause: unknown) => {
          throw new StartError('authority.ca', describeError(cause), { cause });
        });
  const other = createOtherAuthority({ clock, log: deps.log }, authority, { ca });
  // Its keys are there when the first runner comes; while it does not answer, everything else goes on.
  other.trust(undefined).catch(() => undefined);
  return other;
};

const loadKey = async (config: GatewayConfig): Promise<IdentityKey> => {
  try {
    return await loadOrCreateKey(join(config.stateDir, 'gateway-key.json'));
  } catch (error) {
    throw new StartError('stateDir', describeError(error), { cause: error });
  }
};

const openSignIn = async (config: GatewayConfig, deps: SignInDeps): Promise<SignIn | undefined> => {
  if (!config.signIn) return undefined;
  try {
    return await createSignIn(deps, config.signIn);
  } catch (error) {
    throw new StartError('signIn', describeError(error), { cause: error });
  }
};

const openCertificateStore = async (config: GatewayConfig, log: Logger, clock: Clock): Promise<LiveCertificates> => {
  try {
    const store = await openCertificates({ clock, log }, config);
    for (const { names, certificatePath, fingerprint, selfSigned, validTo } of store.certificates) {
      log.info(
        { names, certificatePath, fingerprint, selfSigned, validTo: new Date(validTo).toISOString() },
        'certificate',
      );
    }
    for (const warning of store.warnings) log.warn({ warning }, 'a certificate needs attention');
    return store;
  } catch (error) {
    if (!(error instanceof CertificateError)) throw error;
    throw new StartError(config.tls.length > 0 ? 'tls' : 'stateDir', error.message, { cause: error });
  }
};

const makeParts = async (
  config: GatewayConfig,
  deps: GatewayDeps,
  clock: Clock,
  bound: Bound,
  closers: Closers,
): Promise<Parts> => {
  const { log } = deps;
  const { limits, domains } = config;
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
    ownAddress(config, {
      id: membership.gatewayId,
      publicKey: key.publicKey,
      quic: bound.quic.map(({ address }) => address),
      https: bound.https,
    }),
    ...(deps.otherGateways?.() ?? []),
  ];
  const policy = (organization: string | undefined) =>
    organization === undefined ? undefined : config.organizations[organization];
  const totals = createTunnelTotals();
  const metrics = createMetrics({
    tunnels: () => ({ ...totals.snapshot(registry.legs()), ...acceptor.stats() }),
    certificates: () => certificates.certificates,
    certificateFaults: () => certificates.faults().length,
    droppedLogLines: deps.droppedLogLines,
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
  const interstitial = config.everyonePorts.interstitial
    ? createInterstitial({ route: (id) => registry.route(id) })
    : undefined;
  const gate = createPortGate({
    route: (id) => registry.route(id),
    policy,
    tokens,
    revocations,
    sessions: signIn?.portSessions,
    startSignIn: (exchange) => signIn?.portPages.startSignIn(exchange),
    blocks,
    origins: originRules(config.cors),
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
  const acceptor = createAcceptor({
    directory,
    registry,
    membership,
    clock,
    log,
    limits,
    gateways,
    ...(other ? { otherAuthority: other } : {}),
    mayBeInspected: (organization) => config.organizations[organization]?.allowInspectedTls ?? true,
  });
  closers.add('acceptor', () => acceptor.close());

  const callbacks = await createCallbackHost({ directory, registry, clock, log }, limits);
  closers.add('callbacks', () => callbacks.close());
  const forwarder = createForwarder({
    route: (id) => registry.route(id),
    gate,
    noindex: config.everyonePorts.noindex,
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
  const logExchange = createAccessLog(log, config.accessLog);
  const edge = createEdge({
    domains,
    publicPorts: () => new Set([publicPort()]),
    publicPort,
    certificates,
    ticketKeys,
    forwarder,
    handlers: {
      apex: hosts.apex,
      api: hosts.api,
      logs,
      tunnel,
      portPages(exchange, asked) {
        const isServed = signIn?.portPages.serve(exchange, asked) || interstitial?.serve(exchange, asked);
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
  return { directory, membership, other, registry, acceptor, edge, metrics, key, signIn, certificates, dashboard };
};

/**
 * Starts a gateway; it serves when this resolves. Rejects with {@link StartError} where a person can do something about
 * it, with the signal's reason when that is aborted meanwhile; nothing is left open then.
 */
export const startGateway = async (
  config: GatewayConfig,
  deps: GatewayDeps,
  options: { readonly signal: AbortSignal },
): Promise<Gateway> => {
  const closers = createClosers(deps.log);
  try {
    return await start(config, deps, closers, options.signal);
  } catch (error) {
    await closers.run();
    throw error;
  }
};

/** Nobody gets through then, but a gateway that ended for it would only come back to the same. */
const allExpired = ({ certificates }: LiveCertificates, clock: Clock): string | undefined =>
  certificates.every(({ validTo }) => validTo <= clock.now()) ? 'every certificate has expired' : undefined;

const start = async (
  config: GatewayConfig,
  deps: GatewayDeps,
  closers: Closers,
  signal: AbortSignal,
): Promise<Gateway> => {
  signal.throwIfAborted();
  const { log } = deps;
  const clock = deps.clock ?? systemClock;
  const bound: Bound = { https: [], http: [], quic: [], internal: undefined };
  let notReady: string | undefined = 'starting';
  const parts = await makeParts(config, deps, clock, bound, closers);
  const { edge, acceptor, registry, membership, metrics, directory } = parts;
  signal.throwIfAborted();

  const token = await loadOrCreateInternalToken(config.stateDir).catch((cause: unknown) => {
    throw new StartError('stateDir', describeError(cause), { cause });
  });
  const startedAt = clock.monotonic();
  const internal = await listenInternal(
    {
      token,
      dashboard: parts.dashboard.routes(token),
      notReady: () => notReady ?? allExpired(parts.certificates, clock),
      impaired: () => {
        const noSignIn = parts.signIn?.problem();
        const problems = [
          noSignIn && `nobody can sign in: ${noSignIn}`,
          parts.other?.problem(),
          ...parts.certificates.faults().map((fault) => `a certificate cannot be replaced: ${fault}`),
        ];
        return problems.filter((problem) => problem !== undefined).join('\n') || undefined;
      },
      metrics,
      status: () => ({
        gateway: { id: membership.gatewayId, upForMs: Math.round(clock.monotonic() - startedAt), notReady },
        signIn: parts.signIn && { issuer: config.signIn?.issuer, problem: parts.signIn.problem() },
        listeners: { https: bound.https, http: bound.http, quic: bound.quic.map(({ address }) => address) },
        certificates: parts.certificates.certificates.map((certificate) => ({
          ...certificate,
          validTo: new Date(certificate.validTo).toISOString(),
        })),
        edge: edge.stats(),
        legs: registry.legs(),
        environments: registry.environments(),
      }),
    },
    config.listeners.internal,
  ).catch((cause: unknown) => {
    const { internal: address } = config.listeners;
    throw listenError('listeners.internal', address.kind === 'unix' ? address.path : address, 'TCP', cause);
  });
  bound.internal = internal;

  const { listeners } = config;
  const withoutQuic = whyNoQuic();
  // Runners then come over TCP.
  if (withoutQuic && listeners.quic.length > 0) log.warn({ reason: withoutQuic.message }, 'no tunnels over UDP');
  await listenAll(
    withoutQuic ? [] : listeners.quic,
    async (address) => {
      const listener = await listenQuic({
        ...address,
        key: parts.key,
        onConnection: (connection) => acceptor.accept(connection),
      });
      bound.quic.push(listener);
    },
    { option: 'listeners.quic', protocol: 'UDP', log, fallback: false },
  );
  bound.https = await listenAll(listeners.https, (address) => edge.listenHttps(address), {
    option: 'listeners.https',
    protocol: 'TCP',
    log,
    fallback: true,
  });
  bound.http = await listenAll(listeners.http, (address) => edge.listenHttp(address), {
    option: 'listeners.http',
    protocol: 'TCP',
    log,
    fallback: true,
  });
  signal.throwIfAborted();
  notReady = undefined;
  metrics.setUp(true);
  const addresses = {
    https: [...bound.https],
    http: [...bound.http],
    quic: bound.quic.map(({ address }) => address),
    internal: internal.address,
  };

  const hurry = new AbortController();
  const drain = async (drainTimeoutMs: number): Promise<void> => {
    notReady = 'draining';
    metrics.setUp(false);
    // Load balancers notice; everything is still served.
    await delay(clock, config.drainDelayMs, hurry.signal);
    registry.drain(drainTimeoutMs);
    edge.drain();
    const cancel = clock.timer(drainTimeoutMs, () => hurry.abort());
    await edge.idle({ signal: hurry.signal }).finally(cancel);
  };
  let closing: Promise<void> | undefined;
  const close = async (drainTimeoutMs: number): Promise<void> => {
    if (drainTimeoutMs > 0) {
      await drain(drainTimeoutMs).catch((error: unknown) => {
        if (!hurry.signal.aborted) throw error;
        log.warn({ ...edge.stats() }, 'the gateway ends with requests in flight');
      });
    }
    notReady = 'closed';
    metrics.setUp(false);
    registry.drain(0);
    await closers.run();
  };
  return {
    id: membership.gatewayId,
    addresses,
    publicPort: config.publicPort ?? bound.https[0]?.port ?? 443,
    directory,
    registry,
    checkCertificates: () => parts.certificates.check(),
    close(options = {}) {
      const drainTimeoutMs = options.drainTimeoutMs ?? config.drainTimeoutMs;
      if (closing && drainTimeoutMs === 0) hurry.abort();
      closing ??= close(drainTimeoutMs);
      return closing;
    },
  };
};
