/** docs/troubleshooting.md against every error code that people meet, and every row that `diagnose` has. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { GATEWAY_ERRORS } from '../../gateway/src/errors.ts';
import { REFUSALS } from '../../shared/src/errors.ts';
import type { Diagnosis } from '../../tunnel-client/src/diagnose/report.ts';
import { startTestGateway } from '../support/gateway.ts';
import { readTables } from '../support/markdown.ts';
import { runProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { startTestRunner } from '../support/runner.ts';

const ROOT = join(import.meta.dirname, '../..');
const page = readFileSync(join(ROOT, 'docs/troubleshooting.md'), 'utf8');

/** Everything in backticks of a cell. */
const names = (cell = ''): string[] => [...cell.matchAll(/`([^`]+)`/g)].map(([, name = '']) => name);

const section = (heading: string): string => {
  const text = page.split(/^## /m).find((part) => part.startsWith(`${heading}\n`));
  assert.ok(text, heading);
  return text;
};
const tablesIn = (heading: string) => readTables(section(heading)).filter(({ head }) => head[1] === 'code');
const codesIn = (heading: string): string[] =>
  tablesIn(heading).flatMap(({ rows }) => rows.flatMap(([, code]) => names(code)));

test('every error code of a page has its symptom and what to do, once', () => {
  assert.deepEqual(codesIn('From an error page to what to do').sort(), Object.keys(GATEWAY_ERRORS).sort());
});

test('every refusal of a runner has its symptom and what to do, once', () => {
  assert.deepEqual(codesIn('From a refusal to what to do'), Object.keys(REFUSALS));
});

test('no row says nothing', () => {
  for (const heading of ['From an error page to what to do', 'From a refusal to what to do']) {
    for (const { rows } of tablesIn(heading)) {
      for (const [seen = '', code = '', , cure = ''] of rows) assert.ok(seen.length > 5 && cure.length > 3, code);
    }
  }
});

/** What differs from one machine or transport to the next. */
const general = (row: string): string =>
  row
    .replace(/^Leg, .*/, 'Leg, …')
    .replace(/^(UDP|TCP) \d+.*/, '$1')
    .trim();

test('every row of `diagnose` is explained, has its cure, and no others are named', async (t) => {
  const gateway = await startTestGateway();
  t.after(() => gateway.close());
  const stateDir = await temporaryDirectory(t);
  const runner = await startTestRunner(gateway, { stateDir });
  await runner.close({ drain: false });
  const ca = join(stateDir, 'ca.pem');
  await writeFile(ca, gateway.ca);
  const { stdout, stderr } = await runProcess(
    process.execPath,
    [
      ...[join(ROOT, 'tunnel-client/src/main.ts'), 'diagnose', '--json', '--runner', runner.id],
      // The second one does not answer: with several, each has a row.
      ...['--gateway', `${gateway.url},https://api.gateway.localhost:1`],
      ...['--state-dir', stateDir, '--ca', ca],
    ],
    { timeoutMs: 60_000, env: { HTTPS_PROXY: undefined, https_proxy: undefined } },
  );
  assert.equal(stderr, '');
  const seen = new Set((JSON.parse(stdout) as Diagnosis).checks.map(({ name }) => general(name)));
  const first = (found: (typeof tables)[number] | undefined): Set<string> =>
    new Set(found?.rows.flatMap(([row]) => names(row).map(general)));
  const tables = readTables(page).filter(({ head }) => head[0] === 'row');
  for (const table of tables) assert.deepEqual([...first(table)].sort(), [...seen].sort());
  assert.equal(tables.length, 2);
  for (const heading of ['From an error page to what to do', 'From a refusal to what to do']) {
    for (const { rows } of tablesIn(heading)) {
      for (const [, , row] of rows) for (const name of names(row)) assert.ok(seen.has(general(name)), name);
    }
  }
});
