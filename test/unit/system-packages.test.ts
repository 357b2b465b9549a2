import assert from 'node:assert/strict';
import { test } from 'node:test';
import { installCommand, packagesFor, parseNeeds } from '../support/system-packages.ts';

test('needs stand in the first lines of a test file', () => {
  assert.deepEqual(parseNeeds('// needs: chromium, netns\nimport …', 'a.test.ts'), ['chromium', 'netns']);
  assert.deepEqual(parseNeeds('/** about */\n// needs: curl\n', 'a.test.ts'), ['curl']);
  assert.deepEqual(parseNeeds('import …', 'a.test.ts'), []);
  assert.deepEqual(parseNeeds(`${'\n'.repeat(10)}// needs: curl\n`, 'a.test.ts'), []);
});

test('a need that nobody knows is an error, so that a slip skips no file', () => {
  assert.throws(() => parseNeeds('// needs: chromum\n', 'a.test.ts'), /a\.test\.ts needs "chromum"/);
  assert.throws(() => parseNeeds('// needs: toString\n', 'a.test.ts'), /toString/);
});

test('the packages of all needs are named once', () => {
  const packages = packagesFor(['iproute2', 'netns', 'root', 'curl']);
  assert.deepEqual(packages, ['iproute2', 'util-linux', 'curl']);
  assert.match(installCommand(packages), /^apt-get update && apt-get install .*iproute2 util-linux curl$/);
});
