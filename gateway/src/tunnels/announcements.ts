/**
 * Announcements of environments: parts of one revision are put together, each environment is checked by itself, and
 * results are cut into messages again. Nothing here knows of legs or of the directory.
 */
import type {
  Environment,
  EnvironmentRefusal,
  EnvironmentResult,
  MessageOf,
} from '../../../shared/src/protocol/messages.ts';
import {
  ENVIRONMENT_REFUSALS,
  environmentSchema,
  MAX_ENVIRONMENTS,
  MAX_ENVIRONMENTS_PART_BYTES,
} from '../../../shared/src/protocol/messages.ts';

/** All parts of one revision. */
export interface Announcement {
  readonly revision: number;
  readonly full: boolean;
  /** Valid environments by id; of two with the same id the later one. */
  readonly set: ReadonlyMap<string, Environment>;
  readonly delete: ReadonlySet<string>;
  /** What is refused without asking anybody: `invalid` and `environment_limit`. */
  readonly refused: readonly EnvironmentResult[];
}

/** The parts do not fit together: the peer breaks the protocol, its leg is closed with `protocol_error`. */
export class AnnouncementError extends Error {
  override readonly name = 'AnnouncementError';
}

/** Environments that are refused one by one and named in the answer. What is beyond is refused without being named. */
const MAX_NAMED_REFUSALS = 10_000;
/** Deleted names in one announcement: as many as one runner can hold, live or released. More breaks the protocol. */
const MAX_DELETES = 10_000;
/** Fits `shortText` of the messages. */
const MAX_ID_LENGTH = 256;

const idOf = (item: unknown): string => {
  const id = typeof item === 'object' && item !== null && 'id' in item ? item.id : undefined;
  return typeof id === 'string' ? id.slice(0, MAX_ID_LENGTH) : '';
};

export const refusal = (id: string, code: EnvironmentRefusal, detail?: string): EnvironmentResult => ({
  id,
  accepted: false,
  code,
  message: (detail ?? ENVIRONMENT_REFUSALS[code]).slice(0, 1_024),
  urls: [],
});

interface Pending {
  readonly revision: number;
  readonly full: boolean;
  readonly set: Map<string, Environment>;
  readonly delete: Set<string>;
  readonly refused: EnvironmentResult[];
  nextPart: number;
}

const addItem = (pending: Pending, item: unknown): void => {
  const parsed = environmentSchema.safeParse(item);
  const id = idOf(item);
  if (!parsed.success) {
    // An earlier entry of that id must not stand in for the broken one: its admission may be wider.
    pending.set.delete(id);
    if (pending.refused.length >= MAX_NAMED_REFUSALS) return;
    const issue = parsed.error.issues[0];
    const where = issue?.path.join('.');
    pending.refused.push(refusal(id, 'invalid', `${where ? `${where}: ` : ''}${issue?.message ?? 'invalid'}`));
  } else if (pending.set.size >= MAX_ENVIRONMENTS && !pending.set.has(id)) {
    if (pending.refused.length < MAX_NAMED_REFUSALS) pending.refused.push(refusal(id, 'environment_limit'));
  } else {
    pending.set.set(id, parsed.data);
  }
};

export interface Assembler {
  /**
   * Takes one part; returns the announcement with its last one. `lastRevision` is the instance's latest: parts that
   * are not above it are passed over. Throws {@link AnnouncementError}.
   */
  add(message: MessageOf<'environments'>, lastRevision: number): Announcement | undefined;
}

/** One for each leg: parts of one announcement come in order on one leg. */
export const createAssembler = (): Assembler => {
  let pending: Pending | undefined;
  return {
    add(message, lastRevision) {
      const { revision, part, last, full } = message;
      if (revision <= lastRevision || (pending && revision < pending.revision)) return undefined;
      if (pending?.revision !== revision) {
        pending = { revision, full, set: new Map(), delete: new Set(), refused: [], nextPart: 0 };
      }
      if (part !== pending.nextPart) throw new AnnouncementError(`part ${part} came instead of ${pending.nextPart}`);
      if (full !== pending.full) throw new AnnouncementError('the parts disagree on whether they are all there is');
      pending.nextPart += 1;
      for (const item of message.set) addItem(pending, item);
      for (const id of message.delete) {
        if (pending.delete.size >= MAX_DELETES) throw new AnnouncementError(`more than ${MAX_DELETES} deletions`);
        pending.delete.add(id);
      }
      if (!last) return undefined;
      const announcement = pending;
      pending = undefined;
      return announcement;
    },
  };
};

/** Cuts results into messages of at most {@link MAX_ENVIRONMENTS_PART_BYTES} (a single result is far smaller). */
export const resultMessages = (
  revision: number,
  results: readonly EnvironmentResult[],
): { type: 'environmentsResult'; revision: number; part: number; last: boolean; results: EnvironmentResult[] }[] => {
  const parts: EnvironmentResult[][] = [[]];
  let bytes = 0;
  for (const result of results) {
    const size = Buffer.byteLength(JSON.stringify(result)) + 1;
    if (bytes + size > MAX_ENVIRONMENTS_PART_BYTES && parts.at(-1)!.length > 0) {
      parts.push([]);
      bytes = 0;
    }
    parts.at(-1)!.push(result);
    bytes += size;
  }
  return parts.map((results, part) => ({
    type: 'environmentsResult',
    revision,
    part,
    last: part === parts.length - 1,
    results,
  }));
};
