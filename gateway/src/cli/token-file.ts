import { open } from 'node:fs/promises';
import { CliError } from './context.ts';

/** Writes a token for its owner only; a file that exists is left alone. */
export const writeTokenFile = async (path: string, token: string): Promise<void> => {
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      await file.writeFile(`${token}\n`);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw new CliError(`The token cannot be written to ${path}. Name a new file in a directory that is writable`, {
      cause: error,
    });
  }
};
