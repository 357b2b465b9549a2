/** docs/errors.md against the tables of the code. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { GATEWAY_ERRORS, type GatewayErrorEntry } from '../../gateway/src/errors.ts';
import { REFUSALS, STREAM_STATUS, type LegCloseCode, type Refusal } from '../../shared/src/errors.ts';
import { readTables } from '../support/markdown.ts';

const tables = readTables(readFileSync(join(import.meta.dirname, '../../docs/errors.md'), 'utf8'));
const plain = (cell = ''): string => cell.replace(/^`(.*)`$/, '$1');

/** Rows of the table whose code column has `code`. */
const rowsWith = (code: string): string[][] => {
  const found = tables.find(({ rows }) => rows.some(([first]) => plain(first) === code));
  assert.ok(found, `docs/errors.md has no table with ${code}`);
  return found.rows.map((row) => row.map(plain));
};

test('docs/errors.md has every answer of the gateway as it is given', () => {
  const expected = Object.entries<GatewayErrorEntry>(GATEWAY_ERRORS).map(([code, entry]) => {
    const again = entry.retryAfterSeconds === undefined ? '' : `${entry.retryAfterSeconds} s`;
    return [code, String(entry.status), again, entry.title, entry.message];
  });
  assert.deepEqual(rowsWith('bad_request'), expected);
});

test('docs/errors.md has every refusal with its hint', () => {
  assert.deepEqual(
    rowsWith('token_used'),
    Object.entries(REFUSALS).map(([code, { retry, hint }]) => [code, retry ? 'yes' : 'no', hint]),
  );
});

test('docs/errors.md has every end of a leg and every answer to a tunnel stream, with what it means', () => {
  // The compiler keeps this list complete.
  const ends: Record<Exclude<LegCloseCode, Refusal> | 'limit', true> = {
    closed: true,
    replaced: true,
    lost: true,
    handshake_timeout: true,
    protocol_error: true,
    flow_control: true,
    frame_too_large: true,
    limit: true,
    data_path: true,
    internal: true,
  };
  for (const [rows, codes] of [
    [rowsWith('data_path'), Object.keys(ends)],
    [rowsWith('upstream_not_tls'), Object.keys(STREAM_STATUS)],
  ] as const) {
    assert.deepEqual(
      rows.map(([code]) => code),
      codes,
    );
    for (const [code = '', meaning = ''] of rows) assert.ok(meaning.length > 0, code);
  }
});
