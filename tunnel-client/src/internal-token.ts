/** The token of the internal listener: `<stateDir>/internal.token`, for whoever may read the state directory. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeSecretFile } from './atomic-file.ts';

/** 256 bits. */
const TOKEN_BYTES = 32;

export const internalTokenPath = (stateDir: string): string => join(stateDir, 'internal.token');

/** Rejects when there is none that can be read. */
export const readInternalToken = async (stateDir: string): Promise<string> => {
  const token = (await readFile(internalTokenPath(stateDir), 'utf8')).trim();
  if (Buffer.from(token, 'base64url').length < TOKEN_BYTES) throw new Error(`${internalTokenPath(stateDir)} is broken`);
  return token;
};

export const loadOrCreateInternalToken = async (stateDir: string): Promise<string> => {
  try {
    return await readInternalToken(stateDir);
  } catch {
    // Missing or broken: nobody depends on an old one for longer than a look into the file.
    const token = randomBytes(TOKEN_BYTES).toString('base64url');
    await writeSecretFile(internalTokenPath(stateDir), `${token}\n`);
    return token;
  }
};

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

/** Whether an `Authorization` header shows `token`; takes as long for every wrong one. */
export const isAuthorized = (header: string | undefined, token: string): boolean => {
  const shown = /^Bearer +([^\s]+)$/i.exec(header ?? '')?.[1];
  return shown !== undefined && timingSafeEqual(digest(shown), digest(token));
};
