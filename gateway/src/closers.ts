/** What a process has to end, in the order in which it was made. */
import type { Logger } from './observability/log.ts';

/** Ends what was made so far, the latest first. Every one is tried; failures are logged. */
export const createClosers = (log: Logger) => {
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
export type Closers = ReturnType<typeof createClosers>;
