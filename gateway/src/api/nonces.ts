/** Remembers the random ids of signed requests, so that a recorded one is worth nothing. */
import type { Clock } from '../../../shared/src/clock.ts';

/** Two minutes: longer than a signed time is accepted (± 30 s), so that no replay outlives its memory. */
export const NONCE_LIFETIME_MS = 120_000;
/**
 * Nonces remembered at once, about 150 bytes each. Only requests whose signature holds get here. Beyond: the oldest is
 * forgotten; its replay would give the membership once more to the key that has it already.
 */
const MAX_NONCES = 100_000;

export interface Nonces {
  /** False if it was taken within the last two minutes. */
  take(nonce: string): boolean;
  /** The request came to nothing: the nonce was not used. */
  forget(nonce: string): void;
}

export const createNonces = (deps: { readonly clock: Clock }): Nonces => {
  /** In order of insertion, which is the order of expiry. */
  const expiries = new Map<string, number>();
  const sweep = (now: number): void => {
    for (const [nonce, expiresAt] of expiries) {
      if (expiresAt > now && expiries.size < MAX_NONCES) return;
      expiries.delete(nonce);
    }
  };
  return {
    take(nonce) {
      const now = deps.clock.monotonic();
      sweep(now);
      if (expiries.has(nonce)) return false;
      expiries.set(nonce, now + NONCE_LIFETIME_MS);
      return true;
    },
    forget(nonce) {
      expiries.delete(nonce);
    },
  };
};
