/** The token of the internal listener: whoever can read the state directory may ask. */
import { randomBytes, timingSafeEqual, createHash } from 'node:crypto';
import { link, mkdir, readFile, unlink, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';

/** 256 bits. */
const TOKEN_BYTES = 32;
const TOKEN = /^[A-Za-z0-9_-]{43}$/;

const codeOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined);

const read = async (path: string): Promise<string | undefined> => {
  let text: string;
  try {
    text = (await readFile(path, 'utf8')).trim();
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw new Error(`The internal token ${path} cannot be read`, { cause: error });
  }
  if (!TOKEN.test(text)) throw new Error(`The internal token ${path} is broken. Remove the file to get a new one`);
  return text;
};

/** Reads the token at `path`, or makes one there (0600); of two processes at once both get the same. */
export const loadOrCreateToken = async (path: string): Promise<string> => {
  const existing = await read(path);
  if (existing !== undefined) return existing;
  const temporary = `${path}.${randomBytes(8).toString('hex')}.tmp`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await writeFile(temporary, `${randomBytes(TOKEN_BYTES).toString('base64url')}\n`, { mode: 0o600, flag: 'wx' });
    await link(temporary, path).catch((error: unknown) => {
      if (codeOf(error) !== 'EEXIST') throw error;
    });
  } catch (error) {
    throw new Error(`The internal token ${path} cannot be made. Its directory has to be writable`, { cause: error });
  } finally {
    await unlink(temporary).catch(() => {});
  }
  const token = await read(path);
  if (token === undefined) throw new Error(`The internal token ${path} was removed while it was being made`);
  return token;
};

/** Whether an `Authorization` header carries `token`; takes the same time for every wrong one. */
export const isAuthorized = (header: string | undefined, token: string): boolean => {
  const given = /^Bearer ([A-Za-z0-9_-]{1,256})$/i.exec(header ?? '')?.[1] ?? '';
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(given), digest(token));
};
