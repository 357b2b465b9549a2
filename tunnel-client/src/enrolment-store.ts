/** What a runner keeps of its enrolment between starts: `<stateDir>/membership.json`. The key lies beside it. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { enrolmentResponseSchema } from '../../shared/src/identity/enrolment.ts';
import { writeSecretFile } from '../../shared/src/identity/secret-file.ts';

const MEMBERSHIP_FILE = 'membership.json';
const KEY_FILE = 'runner-key.json';

const storedEnrolmentSchema = enrolmentResponseSchema.extend({
  version: z.literal(1),
  /** Origin of the gateway that gave it; at another gateway it is worth nothing. */
  gateway: z.string(),
  /** SHA-256 of the exchange token that was used, base64url: the same one is not used again. */
  joinedWith: z.string().optional(),
});
export type StoredEnrolment = z.output<typeof storedEnrolmentSchema>;

export const hashToken = (exchangeToken: string): string =>
  createHash('sha256').update(exchangeToken).digest('base64url');

export const keyPath = (stateDir: string): string => join(stateDir, KEY_FILE);

export interface EnrolmentStore {
  /** Undefined when there is none for this runner at this gateway, or none that can be read: it can be had again. */
  load(): Promise<StoredEnrolment | undefined>;
  save(enrolment: StoredEnrolment): Promise<void>;
}

export const createEnrolmentStore = (options: {
  stateDir: string;
  gateway: string;
  runnerId: string;
}): EnrolmentStore => {
  const path = join(options.stateDir, MEMBERSHIP_FILE);
  return {
    async load() {
      let content: unknown;
      try {
        content = JSON.parse(await readFile(path, 'utf8'));
      } catch {
        return undefined;
      }
      const parsed = storedEnrolmentSchema.safeParse(content);
      if (!parsed.success) return undefined;
      const { gateway, runnerId } = parsed.data;
      return gateway === options.gateway && runnerId === options.runnerId ? parsed.data : undefined;
    },
    save: (enrolment) => writeSecretFile(path, `${JSON.stringify(enrolment)}\n`),
  };
};
