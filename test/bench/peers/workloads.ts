/** What is measured: each workload gives one or more rows of the table. */
import {
  downloads,
  latencies,
  type LoadContext,
  newConnections,
  requestsHttp1,
  requestsHttp2,
  uploads,
  webSocketMessages,
} from './load.ts';
import type { System } from './systems.ts';

/** Requests a second of the latency workload. */
export const LATENCY_RATE = 500;

/** Name of a row: figure. */
export type Figures = Readonly<Record<string, number>>;

export interface Workload {
  /** As `--only` takes it. */
  readonly name: string;
  readonly how: string;
  /** How long one measurement takes, s. */
  readonly seconds: number;
  /** A first measurement that is not counted, s: programs are still being compiled, connections opened. */
  readonly warmUpSeconds: number;
  /** Also over ssh behind an nginx that nobody tuned: it only differs in how requests are carried. */
  readonly isAlsoPlain?: true;
  readonly measure: (context: LoadContext, system: System, seconds: number) => Promise<Figures>;
}

export interface Row {
  readonly label: string;
  readonly unit: string;
  /** Whether less is better. */
  readonly isCost?: boolean;
}

const one =
  (name: string, measure: (context: LoadContext, system: System, seconds: number) => Promise<number>) =>
  async (context: LoadContext, system: System, seconds: number): Promise<Figures> => ({
    [name]: await measure(context, system, seconds),
  });

export const ROWS: Readonly<Record<string, Row>> = {
  'requests-h1': { label: 'small requests, HTTP/1.1', unit: 'requests/s' },
  'requests-h2': { label: 'small requests, HTTP/2', unit: 'requests/s' },
  'download-1': { label: 'download, one', unit: 'MiB/s' },
  'download-8': { label: 'download, eight', unit: 'MiB/s' },
  'upload-1': { label: 'upload, one', unit: 'MiB/s' },
  'upload-8': { label: 'upload, eight', unit: 'MiB/s' },
  'latency-p50': { label: `latency at ${LATENCY_RATE}/s, p50`, unit: 'ms', isCost: true },
  'latency-p99': { label: `latency at ${LATENCY_RATE}/s, p99`, unit: 'ms', isCost: true },
  'added-latency-p50': { label: 'of it added by the tunnel, p50', unit: 'ms', isCost: true },
  'added-latency-p99': { label: 'of it added by the tunnel, p99', unit: 'ms', isCost: true },
  websocket: { label: 'WebSocket messages', unit: 'messages/s' },
  connections: { label: 'new connections', unit: 'connections/s' },
  'lossy-cubic': { label: '100 ms, 1 % loss, CUBIC', unit: 'MiB/s' },
  'lossy-bbr': { label: '100 ms, 1 % loss, BBR', unit: 'MiB/s' },
  'idle-legs-1000-memory': { label: 'memory per idle leg, 1,000', unit: 'KB', isCost: true },
  'idle-legs-1000-cpu': { label: 'processor, 1,000 idle legs', unit: '% of a core', isCost: true },
  'idle-legs-1-p50': { label: 'latency beside 1 leg, p50', unit: 'ms', isCost: true },
  'idle-legs-1-p99': { label: 'latency beside 1 leg, p99', unit: 'ms', isCost: true },
  'idle-legs-1000-p50': { label: 'latency beside 1,000 legs, p50', unit: 'ms', isCost: true },
  'idle-legs-1000-p99': { label: 'latency beside 1,000 legs, p99', unit: 'ms', isCost: true },
  'idle-legs-5000-memory': { label: 'memory per idle leg, 5,000', unit: 'KB', isCost: true },
  'idle-legs-5000-cpu': { label: 'processor, 5,000 idle legs', unit: '% of a core', isCost: true },
  'idle-legs-5000-p50': { label: 'latency beside 5,000 legs, p50', unit: 'ms', isCost: true },
  'idle-legs-5000-p99': { label: 'latency beside 5,000 legs, p99', unit: 'ms', isCost: true },
  reconnect: { label: '99 % of 1,000 legs back', unit: 's', isCost: true },
};

/** V8 compiles for 6 to 8 s of load until nothing changes any more. */
const COMPILED_AFTER_SECONDS = 7;

/** Measured with all systems up, one after the other, round by round. */
export const WORKLOADS: readonly Workload[] = [
  {
    name: 'requests-h1',
    how: 'wrk, TLS, 64 connections, 1 KiB answers',
    seconds: 3,
    warmUpSeconds: COMPILED_AFTER_SECONDS,
    isAlsoPlain: true,
    measure: one('requests-h1', requestsHttp1),
  },
  {
    name: 'requests-h2',
    how: 'h2load, 8 connections with 16 streams each, 1 KiB answers',
    seconds: 3,
    warmUpSeconds: COMPILED_AFTER_SECONDS,
    isAlsoPlain: true,
    measure: one('requests-h2', requestsHttp2),
  },
  {
    name: 'download',
    how: 'curl, bodies of 1 GiB or what comes of them in 2 s, one and eight at a time',
    seconds: 2,
    warmUpSeconds: 1,
    measure: async (context, system, seconds) => ({
      'download-1': await downloads(context, system, 1, seconds),
      'download-8': await downloads(context, system, 8, seconds),
    }),
  },
  {
    name: 'upload',
    how: 'curl, bodies of 1 GiB or what arrives of them in 2 s, one and eight at a time',
    seconds: 2,
    warmUpSeconds: 1,
    measure: async (context, system, seconds) => ({
      'upload-1': await uploads(context, system, 1, seconds),
      'upload-8': await uploads(context, system, 8, seconds),
    }),
  },
  {
    name: 'latency',
    how: `${LATENCY_RATE} requests a second at a constant rate, from when each was due; "added" is minus no tunnel`,
    seconds: 4,
    warmUpSeconds: 1,
    measure: async (context, system, seconds) => {
      const { p50, p99 } = await latencies(context, system, LATENCY_RATE, seconds);
      return { 'latency-p50': p50, 'latency-p99': p99 };
    },
  },
  {
    name: 'websocket',
    how: '64 sockets, each with an echo message of 256 bytes under way',
    seconds: 2,
    warmUpSeconds: 1,
    measure: one('websocket', webSocketMessages),
  },
  {
    name: 'connections',
    how: 'h2load, full TLS handshake and one request per connection, bursts of 400',
    seconds: 3,
    warmUpSeconds: 1,
    measure: one('connections', newConnections),
  },
];
