/** The client's metrics in the Prometheus text format (version 0.0.4), without a library: a runner embeds this. */
import type { LegStatus, RunnerStatus } from './status.ts';
import { TRANSPORTS } from './transport.ts';

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [labels: Labels, value: number];

const escapeLabel = (value: string): string =>
  value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');

export interface MetricFamily {
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly help: string;
  readonly samples: readonly Sample[];
}

const family = (name: string, type: MetricFamily['type'], help: string, samples: readonly Sample[]): MetricFamily => ({
  name,
  type,
  help,
  samples,
});

const renderFamily = ({ name, type, help, samples }: MetricFamily): string => {
  const lines = samples.map(([labels, value]) => {
    const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escapeLabel(text)}"`);
    return `${name}${pairs.length > 0 ? `{${pairs.join(',')}}` : ''} ${value}`;
  });
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...lines, ''].join('\n');
};

const packetSamples = (packets: LegStatus['packets'], index: number): Sample[] =>
  packets === undefined ? [] : (['sent', 'lost'] as const).map((what) => [{ leg: String(index), what }, packets[what]]);

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

export const collectMetrics = (status: RunnerStatus): readonly MetricFamily[] => {
  const serving = status.legs.filter(({ state }) => state !== 'standby');
  const ways = Map.groupBy(serving, ({ transport, reason, inspected }) => `${transport} ${reason} ${inspected}`);
  const count = (state: string): number => status.environments.filter((entry) => entry.state === state).length;
  const prefix = 'gitpod_tunnel_client';
  return [
    family(`${prefix}_online`, 'gauge', 'Whether at least one leg is up.', [[{}, status.state === 'online' ? 1 : 0]]),
    family(
      `${prefix}_legs`,
      'gauge',
      'Legs that are up.',
      TRANSPORTS.map((transport) => [{ transport }, serving.filter((leg) => leg.transport === transport).length]),
    ),
    family(
      `${prefix}_leg_transport_info`,
      'gauge',
      'Legs that are up, by transport and why it is used, and by whether TLS is inspected on the way.',
      [...ways.values()].flatMap((legs): Sample[] =>
        legs
          .slice(0, 1)
          .map(({ transport, reason, inspected }) => [
            { transport, reason, inspected: String(inspected) },
            legs.length,
          ]),
      ),
    ),
    family(
      `${prefix}_leg_rtt_seconds`,
      'gauge',
      'Round-trip time of each leg, in the order they came up.',
      status.legs.flatMap(({ rttMs }, index): Sample[] =>
        rttMs === undefined ? [] : [[{ leg: String(index) }, rttMs / 1_000]],
      ),
    ),
    family(
      `${prefix}_leg_echo_seconds`,
      'gauge',
      'How soon the lanes of each leg answer an echo.',
      status.legs.flatMap(({ echoMs }, index): Sample[] =>
        echoMs === undefined ? [] : [[{ leg: String(index) }, echoMs / 1_000]],
      ),
    ),
    family(
      `${prefix}_leg_packets_total`,
      'counter',
      'Packets sent on each leg over QUIC, and those of them that were lost.',
      status.legs.flatMap(({ packets }, index) => packetSamples(packets, index)),
    ),
    family(
      `${prefix}_leg_gateway_packets_total`,
      'counter',
      'Packets that the gateway has sent on each leg over QUIC, and those of them that were lost.',
      status.legs.flatMap(({ gatewayPackets }, index) => packetSamples(gatewayPackets, index)),
    ),
    family(`${prefix}_tunnel_streams_open`, 'gauge', 'Tunnel streams that are open.', [
      [{}, sum(status.legs.map(({ openStreams }) => openStreams))],
    ]),
    family(
      `${prefix}_tunnel_streams_total`,
      'counter',
      'Tunnel streams by how they were answered.',
      Object.entries(status.streams.answered).map(([result, value]) => [{ result }, value]),
    ),
    family(`${prefix}_tunnel_bytes_total`, 'counter', 'Payload of tunnel streams.', [
      [{ direction: 'sent' }, status.bytesSent],
      [{ direction: 'received' }, status.bytesReceived],
    ]),
    family(
      `${prefix}_environments`,
      'gauge',
      'Announced environments by what the gateways made of them.',
      ['accepted', 'refused', 'pending'].map((state) => [{ state }, count(state)]),
    ),
    family(
      `${prefix}_membership_expiry_timestamp_seconds`,
      'gauge',
      'When the membership ends, seconds since the epoch.',
      status.membershipExpiresAt === undefined ? [] : [[{}, status.membershipExpiresAt / 1_000]],
    ),
  ];
};

export const renderMetrics = (status: RunnerStatus): string => collectMetrics(status).map(renderFamily).join('');
