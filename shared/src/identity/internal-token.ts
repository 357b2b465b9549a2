/** The token of an internal listener: `<stateDir>/internal.token`. Whoever can read the state directory may ask. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createSecretFile } from './secret-file.ts';

/** 256 bits. */
const TOKEN_BYTES = 32;
const TOKEN = /^[A-Za-z0-9_-]{43}$/;

export const internalTokenPath = (stateDir: string): string => join(stateDir, 'internal.token');

/** Rejects when there is none that can be read. */
export const readInternalToken = async (stateDir: string): Promise<string> => {
  const path = internalTokenPath(stateDir);
  let text: string;
  try {
    text = (await readFile(path, 'utf8')).trim();
  } catch (error) {
    throw new Error(`The internal token ${path} cannot be read`, { cause: error });
  }
  if (!TOKEN.test(text)) throw new Error(`The internal token ${path} is broken. Remove the file to get a new one`);
  return text;
};

const isMissing = (error: unknown): boolean =>
  error instanceof Error && error.cause instanceof Error && 'code' in error.cause && error.cause.code === 'ENOENT';

/** Reads the token, or makes one (0600); of two processes at once both get the same. */
export const loadOrCreateInternalToken = async (stateDir: string): Promise<string> => {
  try {
    return await readInternalToken(stateDir);
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
  const path = internalTokenPath(stateDir);
  try {
    await createSecretFile(path, `${randomBytes(TOKEN_BYTES).toString('base64url')}\n`);
  } catch (error) {
    throw new Error(`The internal token ${path} cannot be made. Its directory has to be writable`, { cause: error });
  }
  return readInternalToken(stateDir);
};

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

/** Whether an `Authorization` header shows `token`; takes as long for every wrong one. */
export const isAuthorized = (header: string | undefined, token: string): boolean => {
  const shown = /^Bearer +(\S{1,256})$/i.exec(header ?? '')?.[1] ?? '';
  return timingSafeEqual(digest(shown), digest(token));
};
