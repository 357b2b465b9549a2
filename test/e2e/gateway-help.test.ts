/** Every command of the gateway helps whoever types it: found by asking for help, as a person would find it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runProcess, type Finished } from '../support/processes.ts';
import { GATEWAY_MAIN } from '../support/served-processes.ts';

const TIMEOUT = { timeout: 120_000 };
const COLUMNS = 80;
/** Programs at once: each needs a core while it starts. */
const AT_ONCE = 2;

const gateway = (...args: string[]): Promise<Finished> =>
  runProcess(process.execPath, [GATEWAY_MAIN, ...args], { env: { COLUMNS: String(COLUMNS), FORCE_COLOR: undefined } });

/** Names below `Commands:`, but that of commander's own `help`. */
const commandsIn = (help: string): string[] => {
  const [, list = ''] = help.split(/^Commands:\n/m);
  return [...list.matchAll(/^ {2}([a-z-]+)/gm)]
    .map(([, name]) => name!)
    .filter((name) => name !== 'help' && name !== 'gateway');
};

const checkText = (text: string): void => {
  for (const line of text.split('\n')) assert.ok(line.length <= COLUMNS, `${line.length} columns: ${line}`);
  assert.doesNotMatch(text, /[\u0000-\u0009\u000b-\u001f\u007f]/, 'no colour where there is no terminal');
};

test('every command has help with an example that fits into 80 columns', TIMEOUT, async () => {
  const waiting: string[][] = [[]];
  const seen: string[] = [];
  while (waiting.length > 0) {
    const group = waiting.splice(0, AT_ONCE);
    const answers = await Promise.all(group.map((path) => gateway(...path, '--help')));
    for (const [index, { code, stdout, stderr }] of answers.entries()) {
      const path = group[index]!;
      const name = ['gateway', ...path].join(' ');
      assert.deepEqual([code, stderr], [0, ''], name);
      checkText(stdout);
      const [, example = ''] = /\nExample:\n {2}(.+)\n$/.exec(stdout) ?? [];
      assert.ok(example === name || example.startsWith(`${name} `), `${name}: ${example}`);
      seen.push(name);
      waiting.push(...commandsIn(stdout).map((each) => [...path, each]));
    }
  }
  assert.ok(seen.length > 25 && seen.includes('gateway runner create') && seen.includes('gateway health'), seen.join());
});

test('what is mistyped is named with what was meant, and fails with 2', TIMEOUT, async () => {
  for (const [args, meant] of [
    [['runer', 'list'], 'runner'],
    [['runner', 'lst'], 'list'],
    [['runner', 'list', '--jsno'], '--json'],
    [['environment', 'realease', 'demo'], 'release'],
  ] as const) {
    const { code, stdout, stderr } = await gateway(...args);
    assert.deepEqual([code, stdout], [2, ''], args.join(' '));
    assert.match(stderr, new RegExp(`Did you mean ${meant}\\?`));
    checkText(stderr);
  }
  const missing = await gateway('runner', 'create');
  assert.equal(missing.code, 2);
  assert.match(missing.stderr, /--name/);
});
