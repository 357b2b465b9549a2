/**
 * Where everything runs, the same for all systems:
 *
 *     load tool ─ loopback ─ edge of the system ══ link ══ far end of the system ─ loopback ─ upstream
 *     └──────── namespace "edge" ────────┘                └───────── namespace "runner" ─────────┘
 *
 * Without a tunnel the load tool reaches the upstream over the link.
 */
import { createNamespace, joinNamespaces, type Namespace } from '../../support/namespaces.ts';
import { type LossyLink, startLossyLink } from '../../support/lossy-link.ts';

export const EDGE_ADDRESS = '10.77.0.1';
export const RUNNER_ADDRESS = '10.77.0.2';
const PREFIX_LENGTH = 24;
export const DOMAIN = 'bench.test';
/** The environment in the gateway's host names; all systems answer under the same names. */
export const ENVIRONMENT = 'app';
/** Of the upstream without any tunnel. */
export const DIRECT_HOST = `direct.${DOMAIN}`;

/** What of the upstream is asked: port in its namespace. With TLS, for the system without a tunnel, it is 400 more. */
export const SERVICES = { web: 8_000, sink: 8_001, echo: 8_002 } as const;
export type Service = keyof typeof SERVICES;
export const TLS_PORT_DISTANCE = 400;

export const hostOf = (service: Service): string => `${SERVICES[service]}--${ENVIRONMENT}.${DOMAIN}`;

export const HOSTS = [
  '127.0.0.1 localhost',
  `${EDGE_ADDRESS} ${[DOMAIN, `api.${DOMAIN}`, `tunnel.${DOMAIN}`, ...(['web', 'sink', 'echo'] as const).map(hostOf)].join(' ')}`,
  `${RUNNER_ADDRESS} ${DIRECT_HOST}`,
  '',
].join('\n');

export interface Topology {
  readonly edge: Namespace;
  readonly runner: Namespace;
  /** Device of the link, in both namespaces. */
  readonly device: 'cable0' | 'link0';
  readonly congestionControl: string | undefined;
  close(): Promise<void>;
}

export interface LossySettings {
  readonly roundTripMs: number;
  readonly loss: number;
  /** Of every route to the other end, in both namespaces: a name of `net.ipv4.tcp_available_congestion_control`. */
  readonly congestionControl: string;
}

/** The route to the other end, with a congestion control of its own. */
export const setCongestionControl = async (
  namespace: Namespace,
  route: readonly string[],
  congestionControl: string | undefined,
): Promise<void> => {
  if (congestionControl !== undefined) {
    await namespace.run('ip', 'route', 'replace', ...route, 'congctl', congestionControl);
  }
};

export const createTopology = async (lossy?: LossySettings): Promise<Topology> => {
  const edge = await createNamespace();
  const runner = await createNamespace();
  let link: LossyLink | undefined;
  if (lossy === undefined) {
    const ends = [
      { namespace: edge, address: EDGE_ADDRESS },
      { namespace: runner, address: RUNNER_ADDRESS },
    ] as const;
    await joinNamespaces(...ends, PREFIX_LENGTH);
  } else {
    const settings = { delayMs: lossy.roundTripMs / 2, loss: lossy.loss };
    link = await startLossyLink([edge, runner], settings, [EDGE_ADDRESS, RUNNER_ADDRESS]);
    for (const [namespace, other] of [
      [edge, RUNNER_ADDRESS],
      [runner, EDGE_ADDRESS],
    ] as const) {
      await setCongestionControl(namespace, [`${other}/32`, 'dev', 'link0'], lossy.congestionControl);
    }
  }
  return {
    edge,
    runner,
    device: link ? 'link0' : 'cable0',
    congestionControl: lossy?.congestionControl,
    async close() {
      await link?.close();
      await edge.close();
      await runner.close();
    },
  };
};
