/**
 * What has to be known of a log's file after a restart of the client, so that the offsets of the log go on:
 * `<stateDir>/logs/<environment>.json`.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { writeSecretFile } from '../../../shared/src/identity/secret-file.ts';

const count = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const historySchema = z.object({
  version: z.literal(1),
  path: z.string(),
  dev: z.number(),
  ino: z.number(),
  base: count,
  /** Bytes it had when this was written; it may have more. */
  size: count,
  head: z.object({ length: count, hash: z.string() }),
});
/** The file that stood under the path last. */
export type FileHistory = z.output<typeof historySchema>;

export interface HistoryStore {
  /** Undefined when there is none for this path, or none that can be read. */
  load(path: string): Promise<FileHistory | undefined>;
  save(history: FileHistory): Promise<void>;
}

export const createHistoryStore = (options: { stateDir: string; environmentId: string }): HistoryStore => {
  const file = join(options.stateDir, 'logs', `${options.environmentId}.json`);
  return {
    async load(path) {
      try {
        const history = historySchema.parse(JSON.parse(await readFile(file, 'utf8')));
        return history.path === path ? history : undefined;
      } catch {
        return undefined;
      }
    },
    save: (history) => writeSecretFile(file, `${JSON.stringify(history)}\n`),
  };
};
