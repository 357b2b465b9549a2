/**
 * The session of a browser that has shown the internal token. It has two halves: a strict cookie, and a key that the
 * page keeps in the storage of its origin and sends as a header. Both are needed. Cookies know no ports: a server at
 * another port of the machine sees the cookie, and a page of it sends it along; neither gets at the key. The token itself
 * is kept nowhere, and a new token ends every session.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Clock } from '../clock.ts';

/** A working day: then the token is asked for again. */
export const SESSION_LIFETIME_MS = 12 * 60 * 60 * 1_000;
/** Characters of a Cookie header that are looked at; the browser sends those of every port of the machine. */
const MAX_COOKIE_CHARACTERS = 8_192;
/** 128 bits. */
const ID_BYTES = 16;

export interface PageSession {
  readonly setCookie: string;
  readonly key: string;
}

export interface PageSessions {
  open(port: number): PageSession;
  isOpen(headers: { readonly cookie?: string | undefined; readonly key: unknown }, port: number): boolean;
}

/** `name`: of the cookie, and of what the session is good for. */
export const createPageSessions = (
  deps: { readonly clock: Clock; readonly token: string },
  { name }: { readonly name: string },
): PageSessions => {
  const { clock, token } = deps;
  const keyOf = (value: string): Buffer => createHmac('sha256', token).update(`${name} session ${value}`).digest();
  // Listeners at several ports of a machine keep apart.
  const cookieName = (port: number): string => `${name}_${port}`;
  return {
    open(port) {
      const value = `${clock.now() + SESSION_LIFETIME_MS}.${randomBytes(ID_BYTES).toString('base64url')}`;
      const attributes = `Path=/; Max-Age=${SESSION_LIFETIME_MS / 1_000}; HttpOnly; SameSite=Strict`;
      return {
        setCookie: `${cookieName(port)}=${value}; ${attributes}`,
        key: keyOf(value).toString('base64url'),
      };
    },
    isOpen({ cookie = '', key }, port) {
      if (typeof key !== 'string' || cookie.length > MAX_COOKIE_CHARACTERS) return false;
      const prefix = `${cookieName(port)}=`;
      const shown = Buffer.from(key, 'base64url');
      return cookie.split(/; */).some((pair) => {
        if (!pair.startsWith(prefix)) return false;
        const value = pair.slice(prefix.length);
        const expected = keyOf(value);
        if (shown.length !== expected.length || !timingSafeEqual(shown, expected)) return false;
        return Number(value.split('.', 1)[0]) > clock.now();
      });
    },
  };
};
