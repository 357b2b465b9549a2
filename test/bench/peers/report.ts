/** What people and programs read of a run. */
import { median, ratioOf, spread } from './statistics.ts';
import type { Measured, RunRecord } from './rounds.ts';
import { SYSTEM_LABELS, SYSTEM_NAMES, type SystemName } from './systems.ts';
import { judgeTargets, type Target } from './targets.ts';
import { ROWS } from './workloads.ts';

export interface Summary {
  readonly workloads: Record<string, Record<string, { median: number; unit: string }>>;
  readonly targets: readonly Target[];
}

const known = (numbers: readonly (number | undefined)[]): number[] => numbers.filter((number) => number !== undefined);

/** A row that ROWS does not know would have no unit: a slip of whoever measured it. */
const rowOf = (name: string): (typeof ROWS)[string] => {
  const row = ROWS[name];
  if (row === undefined) throw new Error(`"${name}" is not in ROWS`);
  return row;
};

const entriesOf = (measured: Measured): [string, [SystemName, (number | undefined)[]][]][] =>
  Object.keys(ROWS).flatMap((name) => {
    const systems = measured[name];
    if (systems === undefined) return [];
    const present = SYSTEM_NAMES.flatMap((system): [SystemName, (number | undefined)[]][] => {
      const numbers = systems[system];
      return numbers && known(numbers).length > 0 ? [[system, numbers]] : [];
    });
    return present.length === 0 ? [] : [[name, present]];
  });

const rounded = (number: number): number => Number(number.toPrecision(4));

export const summarize = (measured: Measured): Summary => ({
  workloads: Object.fromEntries(
    entriesOf(measured).map(([name, systems]) => [
      name,
      Object.fromEntries(
        systems.map(([system, numbers]) => [
          system,
          { median: rounded(median(known(numbers))), unit: rowOf(name).unit },
        ]),
      ),
    ]),
  ),
  targets: judgeTargets(measured),
});

/** The summary, and every figure it was made of. */
export const toFile = (record: RunRecord, machine: object): object => ({
  machine,
  ...summarize(record.measured),
  rounds: Object.fromEntries(
    entriesOf(record.measured).map(([name, systems]) => [
      name,
      Object.fromEntries(
        systems.map(([system, numbers]) => [system, numbers.map((n) => (n === undefined ? null : rounded(n)))]),
      ),
    ]),
  ),
  problems: record.problems,
});

const digits = (number: number): string => {
  const decimals = Math.abs(number) >= 100 ? 0 : Math.abs(number) >= 10 ? 1 : 2;
  return number.toLocaleString('en-US', { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
};

/** `1,234 ±5 %`: half of the way from the smallest to the largest round. */
const cell = (numbers: readonly (number | undefined)[] | undefined): string => {
  const all = known(numbers ?? []);
  if (all.length === 0) return '–';
  const around = all.length > 1 ? ` ±${Math.round(spread(all) * 50)} %` : '';
  return digits(median(all)) + around;
};

const ratioCell = (
  numbers: readonly (number | undefined)[] | undefined,
  others: readonly (number | undefined)[] | undefined,
): string => {
  const ratio = ratioOf(numbers ?? [], others ?? []);
  if (ratio === undefined) return '–';
  const { median: middle, min, max } = ratio;
  return min === max ? middle.toFixed(2) : `${middle.toFixed(2)} (${min.toFixed(2)}–${max.toFixed(2)})`;
};

/** Header and rows; the last two columns compare the gateway over QUIC with each peer. */
export const tableRows = (measured: Measured): string[][] => {
  const systems = SYSTEM_NAMES.filter((system) =>
    entriesOf(measured).some(([, all]) => all.some(([name]) => name === system)),
  );
  const peers = (['nginx-nebula', 'nginx-ssh'] as const).filter((peer) => systems.includes(peer));
  return [
    [
      '',
      'unit',
      ...systems.map((system) => SYSTEM_LABELS[system]),
      ...peers.map((peer) => `QUIC / ${peer === 'nginx-ssh' ? 'ssh' : 'Nebula'}`),
    ],
    ...entriesOf(measured).map(([name]) => [
      rowOf(name).label,
      rowOf(name).unit,
      ...systems.map((system) => cell(measured[name]?.[system])),
      ...peers.map((peer) => ratioCell(measured[name]?.['gateway-quic'], measured[name]?.[peer])),
    ]),
  ];
};

export const targetRows = (targets: readonly Target[]): string[][] => [
  ['target', '', 'reached', ''],
  ...targets.map(({ name, target, reached, ok }) => [name, target, String(reached), ok ? 'ok' : 'MISSED']),
];

/** Columns for a terminal; the first is aligned left, and so are those of `left`. */
export const alignColumns = (rows: readonly (readonly string[])[], left: readonly number[] = [0, 1]): string => {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => [...(row[column] ?? '')].length)));
  return rows
    .map((row) =>
      row
        .map((text, column) => {
          const gap = ' '.repeat((widths[column] ?? 0) - [...text].length);
          return left.includes(column) ? text + gap : gap + text;
        })
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
};
