/** The test runner itself: what it must not let pass. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test, type TestContext } from 'node:test';
import { runProcess, type Finished } from '../support/processes.ts';

const RUN = resolve(import.meta.dirname, '../run.ts');

const runTests = async (t: TestContext, source: string, env: Record<string, string> = {}): Promise<Finished> => {
  const directory = await mkdtemp(join(tmpdir(), 'run-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const file = join(directory, 'sample.test.ts');
  await writeFile(file, `import { test } from 'node:test';\n${source}`);
  return runProcess(process.execPath, [RUN, file], { env: { CI: undefined, ...env } });
};

test('a test that passes is a success', async (t) => {
  const { code, stdout } = await runTests(t, "test('fine', () => {});");
  assert.equal(code, 0, stdout);
  assert.match(stdout, /1 of 1 test files ran/);
});

test('a test that fails is a failure', async (t) => {
  const { code, stdout } = await runTests(t, "test('wrong', () => { throw new Error('as expected'); });");
  assert.equal(code, 1);
  assert.match(stdout, /as expected/);
});

test('a test that leaves a server open is a failure, and the kind of handle is named', async (t) => {
  const source = "import { createServer } from 'node:net';\ntest('leaks', () => void createServer().listen(0));";
  const { code, stdout } = await runTests(t, source);
  assert.equal(code, 1);
  assert.match(stdout, /TCPServerWrap/);
});

test('a rejection that nobody handles is a failure', async (t) => {
  const { code } = await runTests(t, "test('careless', () => void Promise.reject(new Error('lost')));");
  assert.equal(code, 1);
});

test('a file that cannot be loaded is a failure', async (t) => {
  const { code } = await runTests(t, "import './missing.ts';");
  assert.equal(code, 1);
});

test('a test that skips itself is listed, and is a failure where everything has to run', async (t) => {
  const source = "test('not today', (t) => t.skip('it rains'));";
  const here = await runTests(t, source);
  assert.equal(here.code, 0);
  assert.match(here.stdout, /skipped: .*not today \(it rains\)/);
  assert.equal((await runTests(t, source, { CI: 'true' })).code, 1);
});

test('a file whose needs are not met is listed, and is a failure where everything has to run', async (t) => {
  // Nothing is on this PATH, and apt-get is not either: so nothing can be installed.
  const source = "// needs: openssl\ntest('fine', () => {});";
  const here = await runTests(t, source, { PATH: '/nonexistent' });
  assert.equal(here.code, 0, here.stdout);
  assert.match(here.stdout, /apt-get install .*openssl/);
  assert.match(here.stdout, /left out: .*sample\.test\.ts, needs openssl/);
  assert.equal((await runTests(t, source, { PATH: '/nonexistent', CI: 'true' })).code, 1);
});

test('a name that fits no file is an error', async () => {
  const { code, stderr } = await runProcess(process.execPath, [RUN, 'test/unit/no-such-file.test.ts']);
  assert.equal(code, 2);
  assert.match(stderr, /No test file fits/);
});
