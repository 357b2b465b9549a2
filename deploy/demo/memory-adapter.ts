/** Where the sample SCM keeps its sessions and codes: in memory, until they expire. */

interface Payload {
  readonly uid?: string;
  readonly userCode?: string;
  readonly grantId?: string;
  consumed?: number;
}

/** Codes, sessions and tokens that are kept; a demo has a few. The oldest goes first. */
const MAX_ENTRIES = 1_000;

/** Makes the class of adapters that oidc-provider wants, with a store of its own. */
export const createMemoryAdapter = () => {
  const entries = new Map<string, { readonly payload: Payload; readonly expiresAt: number }>();
  const find = (key: string): Payload | undefined => {
    const entry = entries.get(key);
    if (!entry) return undefined;
    if (entry.expiresAt > Date.now()) return entry.payload;
    entries.delete(key);
    return undefined;
  };
  return class MemoryAdapter {
    readonly #model: string;
    constructor(model: string) {
      this.#model = model;
    }
    #key(id: string): string {
      return `${this.#model}:${id}`;
    }
    async upsert(id: string, payload: Payload, expiresInSeconds: number): Promise<void> {
      entries.delete(this.#key(id));
      entries.set(this.#key(id), { payload, expiresAt: Date.now() + expiresInSeconds * 1_000 });
      const [oldest] = entries.keys();
      if (entries.size > MAX_ENTRIES && oldest !== undefined) entries.delete(oldest);
    }
    async find(id: string): Promise<Payload | undefined> {
      return find(this.#key(id));
    }
    async findByUid(uid: string): Promise<Payload | undefined> {
      return [...entries.keys()]
        .filter((key) => key.startsWith(`${this.#model}:`))
        .map(find)
        .find((payload) => payload?.uid === uid);
    }
    async findByUserCode(): Promise<undefined> {
      return undefined;
    }
    async consume(id: string): Promise<void> {
      const payload = find(this.#key(id));
      if (payload) payload.consumed = Math.floor(Date.now() / 1_000);
    }
    async destroy(id: string): Promise<void> {
      entries.delete(this.#key(id));
    }
    async revokeByGrantId(grantId: string): Promise<void> {
      // Of this model alone: a login under way outlives the grant of the account before.
      const own = this.#key('');
      for (const [key, { payload }] of entries) {
        if (key.startsWith(own) && payload.grantId === grantId) entries.delete(key);
      }
    }
  };
};
