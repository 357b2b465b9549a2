/**
 * Files that only their owner may read (0600, in a directory of 0700). They come into their place as a whole: nobody
 * sees a half, and a crash leaves the old content or the new.
 */
import { randomBytes } from 'node:crypto';
import { link, mkdir, open, rename, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';

const errorCode = (error: unknown): string => (error instanceof Error && 'code' in error ? String(error.code) : '');

/** Puts the finished file in its place, unless another process was first. */
const publish = async (temporary: string, path: string): Promise<void> => {
  try {
    await link(temporary, path);
  } catch (error) {
    if (errorCode(error) === 'EEXIST') return;
    // Some network and container file systems have no hard links: last one wins there, and everybody reads it again.
    if (['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'EMLINK', 'ENOSYS'].includes(errorCode(error))) {
      return rename(temporary, path);
    }
    throw error;
  }
};

/** Writes `content` to a file beside `path`, and has `place` move it there. */
const writeBeside = async (
  path: string,
  content: string,
  place: (temporary: string, path: string) => Promise<void>,
): Promise<void> => {
  const temporary = `${path}.${randomBytes(8).toString('hex')}.tmp`;
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  try {
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await place(temporary, path);
  } finally {
    // Gone already where it was renamed.
    await unlink(temporary).catch(() => undefined);
  }
};

/** Makes the file unless there is one. Read it afterwards: of several processes at once all get the same. */
export const createSecretFile = (path: string, content: string): Promise<void> => writeBeside(path, content, publish);

/** Takes the place of what is there. */
export const writeSecretFile = (path: string, content: string): Promise<void> =>
  writeBeside(path, content, rename).catch((error: unknown) => {
    throw new Error(`${path} cannot be written`, { cause: error });
  });
