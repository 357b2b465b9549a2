/** Runs workloads round by round, the systems one after the other within each round. */
import type { LoadContext } from './load.ts';
import {
  NotAvailableError,
  startSystem,
  SYSTEM_LABELS,
  type System,
  type SystemName,
  type SystemOptions,
} from './systems.ts';
import { type Figures, ROWS, type Workload } from './workloads.ts';

/** Row, system, figure of each round; undefined where a round failed. */
export type Measured = Record<string, Partial<Record<SystemName, (number | undefined)[]>>>;

export interface Problem {
  /** `not-available`: cannot be had here; everything else makes the run a failure. */
  readonly kind: 'not-available' | 'failed';
  readonly message: string;
}

export interface RunRecord {
  readonly measured: Measured;
  /** What could not be measured, and why. */
  readonly problems: Problem[];
}

export type Say = (line: string) => void;

export const createRecord = (): RunRecord => ({ measured: {}, problems: [] });

export const put = (record: RunRecord, system: SystemName, round: number, figures: Figures): void => {
  for (const [row, figure] of Object.entries(figures)) {
    // It would have no unit, and no place in the table.
    if (!Object.hasOwn(ROWS, row)) throw new Error(`"${row}" is not in ROWS`);
    const numbers = ((record.measured[row] ??= {})[system] ??= []);
    while (numbers.length < round) numbers.push(undefined);
    numbers[round] = figure;
  }
};

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** The same problem is told once. */
export const note = (record: RunRecord, say: Say, problem: Problem): void => {
  if (record.problems.some(({ message }) => message === problem.message)) return;
  record.problems.push(problem);
  say(problem.message);
};

/** Starts the systems one after the other; those that cannot be had are reported and left out. */
export const startSystems = async (
  names: readonly SystemName[],
  options: SystemOptions,
  record: RunRecord,
  say: Say,
): Promise<System[]> => {
  const systems: System[] = [];
  for (const name of names) {
    try {
      systems.push(await startSystem(name, options));
    } catch (error) {
      const isMissing = error instanceof NotAvailableError;
      const what = isMissing ? 'is not available' : 'did not start';
      note(record, say, {
        kind: isMissing ? 'not-available' : 'failed',
        message: `${SYSTEM_LABELS[name]} ${what}: ${messageOf(error)}`,
      });
    }
  }
  return systems;
};

/** No system always comes after the same one. */
const rotated = <T>(list: readonly T[], by: number): T[] =>
  list.map((_, index) => list[(index + by) % list.length] as T);

export const runWorkload = async (
  context: LoadContext,
  systems: readonly System[],
  workload: Workload,
  options: { rounds: number; secondsFactor: number },
  record: RunRecord,
  say: Say,
): Promise<void> => {
  const failed = new Set<SystemName>();
  const measure = async (system: System, seconds: number, round?: number): Promise<void> => {
    if (failed.has(system.name)) return;
    try {
      const figures = await workload.measure(context, system, seconds);
      if (round === undefined) return;
      put(record, system.name, round, figures);
      const told = Object.entries(figures).map(([row, figure]) => `${row} ${figure.toPrecision(4)}`);
      say(`  ${round + 1}/${options.rounds} ${SYSTEM_LABELS[system.name].padEnd(22)} ${told.join(', ')}`);
    } catch (error) {
      failed.add(system.name);
      const message = `${workload.name} over ${SYSTEM_LABELS[system.name]} failed: ${messageOf(error)}`;
      note(record, say, { kind: 'failed', message });
    }
  };
  say(`${workload.name}: ${workload.how}`);
  const seconds = (wanted: number): number => Math.max(1, Math.round(wanted * options.secondsFactor));
  for (const system of systems) await measure(system, seconds(workload.warmUpSeconds));
  for (let round = 0; round < options.rounds; round++) {
    for (const system of rotated(systems, round)) await measure(system, seconds(workload.seconds), round);
  }
};
