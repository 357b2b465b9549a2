/** The command line of `npm run bench`; what it measures needs a machine of its own. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { runProcess } from '../support/processes.ts';

const run = (...args: string[]): ReturnType<typeof runProcess> =>
  runProcess(process.execPath, [join(import.meta.dirname, '../bench/run.ts'), ...args]);

test('--list names every workload, --help every option', async () => {
  const { code, stdout } = await run('--list');
  assert.equal(code, 0);
  const names = stdout
    .trim()
    .split('\n')
    .map((line) => line.split(/ {2,}/)[0]);
  assert.deepEqual(names, [
    ...['requests-h1', 'requests-h2', 'download', 'upload', 'latency', 'websocket', 'connections'],
    ...['lossy', 'idle-legs', 'reconnect'],
  ]);
  const help = await run('--help');
  assert.equal(help.code, 0);
  for (const option of ['--only', '--json', '--list', '--out']) assert.ok(help.stdout.includes(option));
});

test('a workload or a system that there is not is said so, before anything is started', async () => {
  for (const [args, words] of [
    [['--only', 'request'], /no workload "request"/],
    [['--system', 'nginx'], /no system "nginx"/],
    [['--rounds', '0'], /--rounds/],
  ] as const) {
    const { code, stderr } = await run(...args);
    assert.equal(code, 2);
    assert.match(stderr, words);
  }
});
