import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, stat, writeFile, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { DatabaseSync } from 'node:sqlite';
import { keyFingerprint } from '../../shared/src/identity/keys.ts';
import { systemClock } from '../../shared/src/clock.ts';
import { RefusedError } from '../../shared/src/errors.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';

const ISSUER = 'https://api.gateway.test';
const PROCESSES = 3;

describe('the file of the embedded directory', { timeout: 60_000 }, () => {
  let base = '';
  const open = (path: string, issuer = ISSUER) => openEmbeddedDirectory({ clock: systemClock }, { path, issuer });
  before(async () => {
    base = await mkdtemp(join(tmpdir(), 'embedded-'));
  });
  after(() => rm(base, { recursive: true }));

  it('and those beside it are closed to others, in a directory that is', async () => {
    const path = join(base, 'state', 'directory.sqlite');
    const directory = await open(path);
    await directory.createRunner({ name: 'one' });
    assert.equal((await stat(join(base, 'state'))).mode & 0o777, 0o700);
    for (const suffix of ['', '-wal', '-shm']) assert.equal((await stat(path + suffix)).mode & 0o777, 0o600, suffix);
    await directory.close();
  });

  it('has tokens as hashes only', async () => {
    const path = join(base, 'hashes.sqlite');
    const directory = await open(path);
    const { runner, exchangeToken } = await directory.createRunner({ name: 'find-me' });
    await directory.createExchangeToken(runner.id);
    await directory.close();
    const bytes = await readFile(path);
    assert.ok(bytes.includes('find-me'), 'the file was not read right');
    assert.ok(!bytes.includes(exchangeToken) && !bytes.includes(exchangeToken.slice(4)));
    assert.ok(!bytes.includes(Buffer.from(exchangeToken.slice(4), 'base64url')));
  });

  it('lets exactly one of several processes join with one token', async () => {
    const path = join(base, 'race.sqlite');
    const directory = await open(path);
    const { runner, exchangeToken } = await directory.createRunner({ name: 'one' });
    const children = Array.from({ length: PROCESSES }, () =>
      fork(join(import.meta.dirname, '../support/enrol-process.ts'), [path, runner.id]),
    );
    await Promise.all(children.map((child) => once(child, 'message')));
    // Each tries often, so that they meet.
    const tokens = Array.from({ length: 50 }, () => exchangeToken);
    const answers = await Promise.all(
      children.map(async (child) => {
        const exited = once(child, 'exit');
        child.send(tokens);
        const [results] = (await once(child, 'message')) as [string[]];
        await exited;
        return results;
      }),
    );
    const results = answers.flat();
    const winners = results.filter((result) => result.startsWith('SHA256:'));
    assert.equal(winners.length, 1);
    assert.equal(results.filter((result) => result === 'token_used').length, PROCESSES * tokens.length - 1);
    assert.equal(keyFingerprint((await directory.runner(runner.id))!.publicKey!), winners[0]);
    await directory.close();
  });

  it('is made by several that open it at once', async () => {
    const path = join(base, 'fresh', 'directory.sqlite');
    const directories = await Promise.all(Array.from({ length: 8 }, () => open(path)));
    await directories[0]!.createRunner({ name: 'one' });
    for (const directory of directories) {
      assert.equal((await directory.runners()).length, 1);
      await directory.close();
    }
  });

  it('keeps the issuer, so that memberships outlive a change of domains', async () => {
    const path = join(base, 'issuer.sqlite');
    const first = await open(path);
    const authority = await first.authority();
    await first.close();
    const second = await open(path, 'https://api.other.test');
    assert.deepEqual(await second.authority(), authority);
    assert.equal(authority.issuer, ISSUER);
    await second.close();
  });

  it('that is none, or is of a newer version, is left alone with a clear error', async () => {
    const text = join(base, 'text.sqlite');
    await writeFile(text, 'this is no database, whatever its name says');
    await assert.rejects(open(text), /directory file .*text\.sqlite cannot be opened/);
    assert.equal(await readFile(text, 'utf8'), 'this is no database, whatever its name says');

    const newer = join(base, 'newer.sqlite');
    const database = new DatabaseSync(newer);
    database.exec('PRAGMA user_version = 999');
    database.close();
    await assert.rejects(open(newer), (error: Error) => /newer version/.test(String((error.cause as Error).message)));
    await assert.rejects(open(join(text, 'directory.sqlite')), /cannot be opened/);
  });

  it('that another process holds for too long is "unavailable", and nothing is half done', async () => {
    const path = join(base, 'busy.sqlite');
    const directory = await open(path);
    const { runner } = await directory.createRunner({ name: 'one' });
    const other = new DatabaseSync(path);
    other.exec('BEGIN IMMEDIATE');
    await assert.rejects(
      directory.revokeRunner(runner.id),
      (error: unknown) => error instanceof RefusedError && error.code === 'unavailable' && error.cause instanceof Error,
    );
    assert.equal((await directory.runner(runner.id))!.revokedAt, undefined, 'reading goes on');
    other.exec('ROLLBACK');
    other.close();
    await directory.revokeRunner(runner.id);
    assert.notEqual((await directory.runner(runner.id))!.revokedAt, undefined);
    await directory.close();
  });
});
