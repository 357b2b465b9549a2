/** Files with secrets that are made at first start: a whole file or none, and of several processes at once all get the same. */
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

/** Makes the file (0600, in a directory of 0700) unless there is one. Read it afterwards: another may have been first. */
export const createSecretFile = async (path: string, content: string): Promise<void> => {
  const temporary = `${path}.${randomBytes(8).toString('hex')}.tmp`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await publish(temporary, path);
  } finally {
    await unlink(temporary).catch(() => {});
  }
};
