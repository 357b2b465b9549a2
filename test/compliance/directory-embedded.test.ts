import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { directoryCompliance } from './directory.ts';

directoryCompliance('an SQLite file', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'directory-'));
  const path = join(directory, 'directory.sqlite');
  const log = { warn: () => {}, error: () => {} };
  return {
    open: (clock) => openEmbeddedDirectory({ clock, log }, { path, issuer: 'https://api.gateway.test' }),
    remove: () => rm(directory, { recursive: true }),
  };
});
