/**
 * Finds out whether a client would get through to its gateway, and over which transport. It changes nothing: its legs
 * stay on standby, so that no gateway sends anything over them, and a running client goes on undisturbed.
 *
 *     membership, API, buffers, names      at once
 *     UDP to every address, TCP and TLS    at once, when it is known where the gateways are
 *     a leg over each transport            one after the other, so that they do not share the bandwidth
 */
import { GATEWAYS_PATH, gatewaysResponseSchema } from '../../../shared/src/identity/enrolment.ts';
import type { GatewayAddress } from '../../../shared/src/protocol/messages.ts';
import { createApiClient } from '../api-client.ts';
import { createOutbound, OutboundError } from '../outbound.ts';
import { measureGateways, readSelection } from '../gateway-selection.ts';
import type { GatewayUrl } from '../gateway-url.ts';
import { NO_PROXY_SETTINGS } from '../proxy-settings.ts';
import { createResolver } from '../resolver.ts';
import { type Transport, TRANSPORT_LABELS, type TransportChoice, TRANSPORTS } from '../transport.ts';
import { VERSION } from '../version.ts';
import { createCheckRun, type CheckRun } from './check-run.ts';
import {
  CONNECT_LIMIT_MS,
  type Context,
  type DiagnoseDeps,
  type DiagnoseOptions,
  LOCAL_LIMIT_MS,
  NAME_LIMIT_MS,
  proxyOf,
} from './context.ts';
import { checkTcp, checkUdp } from './gateway-checks.ts';
import { checkLegs } from './leg-checks.ts';
import { checkMembership, checkReceiveBuffer, describeClock, type Member } from './local-checks.ts';
import { checkName, formatMs, outboundFinding } from './network-checks.ts';
import { type Diagnosis, failed, type Finding, judge, ok, skipped, warning } from './report.ts';

/** Three connections of 5 s each, ms. */
const MEASURE_LIMIT_MS = 16_000;
/** Limit of the API's client, and a little, ms. */
const API_LIMIT_MS = 11_000;

/** Of several gateways: how long a connection to each takes, and which one the client belongs to. */
const chooseGateway = async ({
  deps,
  options,
  run,
  outbound,
}: Pick<Context, 'deps' | 'options' | 'run' | 'outbound'>): Promise<GatewayUrl> => {
  const { urls, stateDir } = options;
  const [first] = urls;
  if (!first) throw new RangeError('no gateway is configured');
  if (urls.length === 1) return first;
  const kept = await readSelection(stateDir);
  const measured = await Promise.all(
    urls.map(async (url) => {
      const { data } = await run.run({
        id: `gateway:${url.origin}`,
        name: 'Gateway',
        limitMs: MEASURE_LIMIT_MS,
        advice: 'Check the URL, and that the gateway runs and is reached from here.',
        work: async (signal) => {
          const [measurement] = await measureGateways({ clock: deps.clock, outbound }, [url], { signal });
          const isKept = kept?.gateway === url.origin;
          const { connectMs, problem } = measurement ?? { connectMs: undefined, problem: 'no answer' };
          if (connectMs !== undefined) {
            return ok(`${url.origin}: connected in ${formatMs(connectMs)}${isKept ? '; the one in use' : ''}`, {
              connectMs,
              isKept,
            });
          }
          const result = `${url.origin}: ${problem ?? 'no answer'}${isKept ? '; the one in use' : ''}`;
          if (!isKept) return warning(result, 'None needed while another gateway is in use.');
          return failed(result, 'Bring it back, or move to another one: tunnel-client gateway reselect.');
        },
      });
      return { url, isKept: kept?.gateway === url.origin, connectMs: Number(data?.['connectMs'] ?? Infinity) };
    }),
  );
  const fastest = measured.toSorted((a, b) => a.connectMs - b.connectMs)[0];
  return (measured.find(({ isKept }) => isKept) ?? fastest)?.url ?? first;
};

/** Membership, API and what else needs no knowledge of the gateways. */
const checkFirst = async (
  context: Context,
): Promise<{ member: Member | undefined; gateways: readonly GatewayAddress[] }> => {
  const { deps, options, run, resolver, outbound } = context;
  const { clock } = deps;
  const { url } = context;
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
      const { reason, advice, data } = outboundFinding(
        cause instanceof OutboundError ? cause : (error as Error).message,
      );
      const where = cause instanceof OutboundError ? `${url.origin}${cause.way}: ` : '';
      return failed(
        where + reason,
        advice ?? 'Check the URL of the gateway, and that it runs and is reached from here.',
        data,
      );
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
        const checked = await checkMembership({ clock, api }, { ...options, url, signal });
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
  const outbound = createOutbound({ clock, resolver }, { proxy: options.proxy, ...ca });
  const url = await chooseGateway({ deps, options, run, outbound });
  const context: Context = {
    deps,
    options,
    url,
    run,
    resolver,
    signal,
    outbound,
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
    gateway: url.origin,
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
