/** One version everywhere: in the manifests, in the change log, and as both programs say it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { runProcess } from '../support/processes.ts';

const ROOT = join(import.meta.dirname, '../..');
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');
const versionOf = (path: string): string => (JSON.parse(read(path)) as { version: string }).version;

test('manifests, lock file, change log and `--version` of both programs agree', async () => {
  const version = versionOf('package.json');
  for (const path of [
    'package-lock.json',
    'gateway/package.json',
    'tunnel-client/package.json',
    'shared/package.json',
  ]) {
    assert.equal(versionOf(path), version, path);
  }
  for (const program of ['gateway', 'tunnel-client']) {
    const { code, stdout, stderr } = await runProcess(
      process.execPath,
      [join(ROOT, program, 'src/main.ts'), '--version'],
      {},
    );
    assert.deepEqual([code, stdout, stderr], [0, `${version}\n`, ''], program);
  }
  // The latest release; what is not released yet stands above it.
  const [, released, date] = /^## (\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})$/m.exec(read('CHANGELOG.md')) ?? [];
  assert.equal(released, version);
  assert.ok(!Number.isNaN(Date.parse(date ?? '')), date ?? '');
});

test('the change log has every release once, the latest first, with what changed', () => {
  const sections = read('CHANGELOG.md').split(/^## /m).slice(1);
  assert.match(sections[0] ?? '', /^Unreleased\n/);
  const versions = sections.slice(1).map((section) => section.split(' ', 1)[0] ?? '');
  const latestFirst = [...new Set(versions)].sort((a, b) => b.localeCompare(a, 'en', { numeric: true }));
  assert.deepEqual(versions, latestFirst);
  for (const section of sections.slice(1)) {
    assert.match(section, /^### (?:Added|Changed|Deprecated|Removed|Fixed|Security)\n\n- /m);
  }
});
