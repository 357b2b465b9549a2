/** Counts attempts per key in fixed windows of ten minutes. */
import { isIPv6 } from 'node:net';
import { LRUCache } from 'lru-cache';
import type { Clock } from '../../../shared/src/clock.ts';
import { unmapIPv4 } from '../../../shared/src/transport/address.ts';

/** Ten minutes: a process in a crash loop is stopped, a person who tries twenty times is not. */
export const ATTEMPT_WINDOW_MS = 10 * 60 * 1_000;
/** Keys that are counted at once, some 200 bytes each. Beyond: the one heard of least recently starts anew. */
const MAX_KEYS = 20_000;

export interface Attempts {
  /** Counts one. Returns undefined, or when one beyond `limit` is too many, the ms after which to come again. */
  take(key: string): number | undefined;
}

export const createAttempts = (
  deps: { readonly clock: Clock },
  options: { readonly limit: () => number },
): Attempts => {
  const windows = new LRUCache<string, { count: number; readonly endsAt: number }>({ max: MAX_KEYS });
  return {
    take(key) {
      const now = deps.clock.monotonic();
      let window = windows.get(key);
      if (!window || window.endsAt <= now) {
        window = { count: 0, endsAt: now + ATTEMPT_WINDOW_MS };
        windows.set(key, window);
      }
      window.count += 1;
      return window.count > options.limit() ? Math.ceil(window.endsAt - now) : undefined;
    },
  };
};

/** Eight groups of a valid IPv6 address, without leading zeros. */
const expand = (address: string): string[] => {
  // The URL parser writes any IPv6 address in one way, embedded IPv4 as groups.
  const text = new URL(`http://[${address}]/`).hostname.slice(1, -1);
  const [left = '', right] = text.split('::');
  const groups = (part: string): string[] => (part === '' ? [] : part.split(':'));
  if (right === undefined) return groups(left);
  const missing = 8 - groups(left).length - groups(right).length;
  return [...groups(left), ...Array.from({ length: missing }, () => '0'), ...groups(right)];
};

/** What counts as one client: an IPv4 address, or the /64 that a single machine gets of IPv6 (RFC 4291 section 2.5.4). */
export const addressKey = (address: string): string => {
  const plain = unmapIPv4(address.replace(/%.*$/, ''));
  return isIPv6(plain) ? `${expand(plain).slice(0, 4).join(':')}::/64` : plain;
};
