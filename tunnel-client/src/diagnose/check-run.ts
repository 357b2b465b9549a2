/** Runs the checks of a diagnosis: each with a time limit of its own, and in the order they were asked for in the report. */
import type { Clock } from '../../../shared/src/clock.ts';
import { describeError } from '../../../shared/src/errors.ts';
import { type CheckResult, failed, type Finding } from './report.ts';

export interface Check {
  readonly id: string;
  readonly name: string;
  /** Then it has failed, ms. */
  readonly limitMs: number;
  readonly work: (signal: AbortSignal) => Promise<Finding>;
  /** What to do when it gave no answer within its limit, or failed in a way that it does not know itself. */
  readonly advice: string;
  /** What it looks at, where several checks have one name: such an end then says which one it was. */
  readonly where?: string;
}

export interface Progress {
  readonly done: number;
  readonly total: number;
  /** Of one that is under way. */
  readonly name: string | undefined;
}

export interface CheckRun {
  /** Never rejects but with the reason of the signal. */
  run(check: Check): Promise<CheckResult>;
  results(): CheckResult[];
}

export const createCheckRun = (
  deps: { readonly clock: Clock; readonly onProgress?: (progress: Progress) => void },
  { signal }: { readonly signal: AbortSignal },
): CheckRun => {
  const { clock } = deps;
  const slots: { result: CheckResult | undefined }[] = [];
  /** Names by id. */
  const underWay = new Map<string, string>();
  const tell = (): void =>
    deps.onProgress?.({
      done: slots.length - underWay.size,
      total: slots.length,
      name: underWay.values().next().value,
    });

  return {
    async run({ id, name, limitMs, work, advice, where }) {
      const slot: (typeof slots)[number] = { result: undefined };
      slots.push(slot);
      underWay.set(id, name);
      tell();
      const startedAt = clock.monotonic();
      const limit = new AbortController();
      const cancel = clock.timer(limitMs, () => limit.abort(new Error(`no answer within ${limitMs / 1_000} s`)));
      let finding: Finding;
      try {
        // Who does not heed the signal is not waited for.
        const either = AbortSignal.any([signal, limit.signal]);
        finding = await Promise.race([
          work(either),
          new Promise<never>((_, reject) => {
            either.addEventListener('abort', () => reject(either.reason as Error), { once: true });
          }),
        ]);
      } catch (error) {
        signal.throwIfAborted();
        finding = failed(`${where === undefined ? '' : `${where}: `}${describeError(error)}`, advice);
      } finally {
        cancel();
        underWay.delete(id);
      }
      slot.result = { id, name, ...finding, tookMs: Math.round(clock.monotonic() - startedAt) };
      tell();
      return slot.result;
    },
    results: () => slots.flatMap(({ result }) => (result ? [result] : [])),
  };
};
