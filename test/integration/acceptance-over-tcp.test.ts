/** The acceptance tests of the whole way, which run over QUIC, again over each transport of TCP. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { describe, it } from 'node:test';

const FILES = ['acceptance-http', 'acceptance-websocket', 'acceptance-ends', 'acceptance-errors', 'acceptance-safety'];
/** For one file, ms; on a busy machine they take half a minute. */
const TIMEOUT_MS = 240_000;

const run = (file: string, transport: string): Promise<{ code: number; output: string }> =>
  new Promise((resolve) => {
    const path = join(import.meta.dirname, `${file}.test.ts`);
    const env = { ...process.env, TEST_TRANSPORT: transport, NODE_TEST_CONTEXT: undefined };
    const args = ['--test', '--test-reporter=tap', path];
    execFile(process.execPath, args, { env, timeout: TIMEOUT_MS, maxBuffer: 64 << 20 }, (error, output, errors) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : error ? 1 : 0, output: output + errors });
    });
  });

for (const transport of ['webtransport', 'websocket']) {
  describe(`the whole way over ${transport}`, () => {
    for (const file of FILES) {
      it(`passes ${file}`, { timeout: TIMEOUT_MS }, async () => {
        const { code, output } = await run(file, transport);
        const failed = output.split('\n').filter((line) => /^\s*not ok/.test(line));
        assert.equal(code, 0, `${failed.join('\n')}\n${output.slice(-4_000)}`);
        assert.match(output, /^# pass [1-9]/m);
      });
    }
  });
}
