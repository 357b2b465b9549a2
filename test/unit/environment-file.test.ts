/** A file is followed however it is replaced: written in place, renamed over, or swapped behind a symbolic link. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { type WatchedFile, watchFile } from '../../tunnel-client/src/environment-file.ts';
import { until } from '../support/runner.ts';
import { createManualClock } from '../support/manual-clock.ts';

let directory: string;
let watched: WatchedFile | undefined;
let texts: string[];
let errors: Error[];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'environment-file-'));
  texts = [];
  errors = [];
});
afterEach(async () => {
  watched?.close();
  await rm(directory, { recursive: true });
});
const follow = (path: string, text: string, clock = systemClock): void => {
  watched = watchFile(
    { clock, onChange: (changed) => texts.push(changed), onError: (error) => errors.push(error) },
    { path, text },
  );
};

describe('watchFile', () => {
  it('tells each new content once, written in place or renamed over', async () => {
    const path = join(directory, 'config.yaml');
    await writeFile(path, 'one');
    follow(path, 'one');
    await writeFile(path, 'two');
    await until(() => texts.length === 1);
    await writeFile(join(directory, 'config.yaml.tmp'), 'three');
    await rename(join(directory, 'config.yaml.tmp'), path);
    await until(() => texts.length === 2);
    await writeFile(path, 'three');
    await writeFile(join(directory, 'something-else'), 'x');
    await writeFile(path, 'four');
    await until(() => texts.at(-1) === 'four');
    assert.deepEqual(texts, ['two', 'three', 'four']);
    assert.deepEqual(errors, []);
  });

  it('says once that the file is gone, and goes on when it is back', async () => {
    const path = join(directory, 'config.yaml');
    await writeFile(path, 'one');
    follow(path, 'one');
    await unlink(path);
    await until(() => errors.length === 1);
    await writeFile(path, 'two');
    await until(() => texts.length === 1);
    assert.equal(errors.length, 1);
  });

  it('finds by itself what no event tells: a directory swapped behind a link', async () => {
    for (const name of ['first', 'second']) await mkdir(join(directory, name));
    await writeFile(join(directory, 'first', 'config.yaml'), 'one');
    await writeFile(join(directory, 'second', 'config.yaml'), 'two');
    await symlink('first', join(directory, 'current'));
    const clock = createManualClock();
    follow(join(directory, 'current', 'config.yaml'), 'one', clock);
    await symlink('second', join(directory, 'next'));
    await rename(join(directory, 'next'), join(directory, 'current'));
    await clock.advance(5_000);
    await until(() => texts.length === 1);
    assert.deepEqual(texts, ['two']);
  });

  it('tells nothing more once it is closed', async () => {
    const path = join(directory, 'config.yaml');
    await writeFile(path, 'one');
    const clock = createManualClock();
    follow(path, 'one', clock);
    watched?.close();
    await writeFile(path, 'two');
    await clock.advance(60_000);
    assert.deepEqual(texts, []);
  });
});
