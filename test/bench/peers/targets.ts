/** What the gateway is to reach against its peers, and what it did. */
import { median, ratioOf } from './statistics.ts';
import type { Measured } from './rounds.ts';
import type { SystemName } from './systems.ts';

export interface Target {
  readonly name: string;
  readonly target: string;
  readonly reached: number;
  readonly ok: boolean;
}

/** How much slower a request may be beside 5,000 legs than beside one to count as flat. */
const FLAT_RATIO = 1.2;
/** 1 KB is 1,000 bytes. */
const MEMORY_PER_LEG_KB = 80;
const RECONNECT_SECONDS = 10;

/** The transport that is used wherever UDP gets through. */
const OURS: SystemName = 'gateway-quic';

interface Against {
  readonly row: string;
  readonly peer: SystemName;
  readonly bound: number;
  readonly atMost?: boolean;
}

const AGAINST: readonly Against[] = [
  ...['requests-h1', 'requests-h2'].flatMap((row): Against[] => [
    { row, peer: 'nginx-nebula', bound: 0.5 },
    { row, peer: 'nginx-ssh', bound: 2 },
    { row, peer: 'nginx-ssh-plain', bound: 2 },
  ]),
  ...['download-1', 'download-8', 'upload-1', 'upload-8'].flatMap((row): Against[] => [
    { row, peer: 'nginx-nebula', bound: 1.3 },
    { row, peer: 'nginx-ssh', bound: 0.9 },
  ]),
  { row: 'added-latency-p99', peer: 'nginx-nebula', bound: 2, atMost: true },
  { row: 'websocket', peer: 'nginx-nebula', bound: 0.5 },
];

const known = (numbers: readonly (number | undefined)[] | undefined): number[] =>
  (numbers ?? []).filter((number) => number !== undefined);

const judge = (name: string, words: string, bound: number, reached: number, atMost: boolean): Target => ({
  name,
  target: `${atMost ? 'at most' : 'at least'} ${words}`,
  reached: Number(reached.toPrecision(3)),
  ok: atMost ? reached <= bound : reached >= bound,
});

/** Of everything that was measured; what was not has no line. */
export const judgeTargets = (measured: Measured): Target[] => {
  const targets: Target[] = [];
  for (const { row, peer, bound, atMost = false } of AGAINST) {
    const ours = measured[row]?.[OURS];
    const theirs = measured[row]?.[peer];
    // Differences of small numbers: their rounds are too few to divide one by one.
    const reached = atMost
      ? median(known(ours)) / Math.max(0, median(known(theirs)))
      : ratioOf(ours ?? [], theirs ?? [])?.median;
    if (reached === undefined || Number.isNaN(reached)) continue;
    targets.push(judge(`${row}: ${OURS} / ${peer}`, String(bound), bound, reached, atMost));
  }
  const figure = (row: string): number => median(known(measured[row]?.[OURS]));
  const absolute = (row: string, bound: number, unit: string, reached = figure(row)): void => {
    if (!Number.isNaN(reached)) targets.push(judge(row, `${bound} ${unit}`.trim(), bound, reached, true));
  };
  for (const legs of [1_000, 5_000]) absolute(`idle-legs-${legs}-memory`, MEMORY_PER_LEG_KB, 'KB');
  for (const part of ['p50', 'p99']) {
    const reached = figure(`idle-legs-5000-${part}`) / figure(`idle-legs-1-${part}`);
    absolute(`idle-legs ${part}: beside 5000 legs / beside 1`, FLAT_RATIO, '', reached);
  }
  absolute('reconnect', RECONNECT_SECONDS, 's');
  return targets;
};

/** Rows that follow from others: what the tunnel adds to a request, round by round. */
export const addDerived = (measured: Measured): void => {
  for (const part of ['p50', 'p99']) {
    const all = measured[`latency-${part}`];
    const base = all?.direct;
    if (!all || !base) continue;
    for (const [system, numbers] of Object.entries(all) as [SystemName, (number | undefined)[]][]) {
      if (system === 'direct') continue;
      const added = numbers.map((number, round) => {
        const without = base[round];
        return number === undefined || without === undefined ? undefined : number - without;
      });
      (measured[`added-latency-${part}`] ??= {})[system] = added;
    }
  }
};
