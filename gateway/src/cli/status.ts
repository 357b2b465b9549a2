/** `gateway status`: what the running gateway does. */
import { formatHostPort } from '../../../shared/src/transport/address.ts';
import { formatTable } from '../../../shared/src/terminal-text.ts';
import { loadConfig } from './context.ts';
import type { CliWorld } from './context.ts';
import { askStatus, type GatewayStatusAnswer } from './internal.ts';
import { formatFields, formatJson } from './output.ts';

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

/** `3 d 4 h`, `4 h 5 min`, `5 min`, `12 s` */
const formatAge = (ms: number): string => {
  if (ms < MINUTE_MS) return `${Math.floor(ms / 1_000)} s`;
  if (ms < HOUR_MS) return `${Math.floor(ms / MINUTE_MS)} min`;
  if (ms < 24 * HOUR_MS) return `${Math.floor(ms / HOUR_MS)} h ${Math.floor((ms % HOUR_MS) / MINUTE_MS)} min`;
  return `${Math.floor(ms / (24 * HOUR_MS))} d ${Math.floor((ms % (24 * HOUR_MS)) / HOUR_MS)} h`;
};

export const renderStatus = (status: GatewayStatusAnswer): string => {
  const { gateway, signIn, listeners, certificates, edge, legs } = status;
  const addresses = (list: readonly { host: string; port: number }[]): string =>
    list.map(({ host, port }) => formatHostPort(host, port)).join(', ') || 'none';
  const certificate = certificates.map(({ names, validTo }) => `${names[0] ?? '?'} until ${validTo.slice(0, 10)}`);
  const fields = formatFields({
    gateway: gateway.id,
    state: gateway.notReady ?? 'ready',
    up: formatAge(gateway.upForMs),
    https: addresses(listeners.https),
    ...(listeners.http.length === 0 ? {} : { http: addresses(listeners.http) }),
    quic: addresses(listeners.quic),
    certificate: certificate.join(', '),
    'sign-in': signIn ? (signIn.problem ?? signIn.issuer ?? 'ready') : 'none',
    clients: `${edge.connections} connections, ${edge.requestsInFlight} requests, ${edge.upgrades} upgraded`,
    runners: `${new Set(legs.map(({ runnerId }) => runnerId)).size} with ${legs.length} legs`,
    environments: String(status.environments.length),
  });
  if (legs.length === 0) return fields;
  // In two lines: a runner's id takes half of 80 columns.
  const rows = legs.flatMap(({ runnerId, transport, state, rttMs, openStreams, remoteAddress }) => {
    const roundTrip = rttMs === undefined ? [] : [`${rttMs.toFixed(1)} ms`];
    return [
      [runnerId, [transport, state, ...roundTrip, `${openStreams} open`].join(', ')],
      ['', `from ${remoteAddress}`],
    ];
  });
  return `${fields}\n${formatTable(['runner', 'leg'], rows)}\n`;
};

export const showStatus = async (
  world: CliWorld,
  options: { readonly config?: string; readonly json?: boolean },
): Promise<void> => {
  const status = await askStatus(await loadConfig(world, options.config), world.stop);
  world.stdout.write(options.json ? formatJson(status) : renderStatus(status));
};
