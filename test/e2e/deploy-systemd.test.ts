// needs: systemd
/** The units: systemd takes them as they are, they are hardened, and end before the gateway's own time is up. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, it } from 'node:test';
import { parseDuration } from '../../shared/src/units.ts';
import { parseGatewayConfig } from '../../gateway/src/config.ts';
import { suspiciousVariables } from '../../tunnel-client/src/config-sources.ts';
import { runProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';

const UNITS = resolve(import.meta.dirname, '../../deploy/systemd');
/** Of 10; systemd calls what is below 2 "OK". Its best possible value for a network service is about 1. */
const MAX_EXPOSURE = 20;

const settings = (text: string, key: string): string[] =>
  [...text.matchAll(new RegExp(`^${key}=(.*)$`, 'gm'))].map(([, value = '']) => value);

for (const name of readdirSync(UNITS)) {
  const text = readFileSync(join(UNITS, name), 'utf8');
  describe(name, () => {
    it('is taken by systemd without a word', async (t) => {
      const directory = await temporaryDirectory(t);
      // The program that is there on every machine that runs the tests.
      const path = join(directory, name);
      writeFileSync(path, text.replaceAll('/usr/bin/node', process.execPath));
      const verified = await runProcess('systemd-analyze', ['verify', '--man=no', path]);
      assert.deepEqual(verified, { code: 0, stdout: '', stderr: '' });
    });

    it('is hardened', async () => {
      const judged = await runProcess('systemd-analyze', [
        'security',
        '--offline=yes',
        '--no-pager',
        `--threshold=${MAX_EXPOSURE}`,
        join(UNITS, name),
      ]);
      assert.equal(judged.code, 0, judged.stdout + judged.stderr);
    });

    it('waits longer for the end than the program does', () => {
      const [stop = ''] = settings(text, 'TimeoutStopSec');
      const own = settings(text, 'Environment')
        .filter((line) => /_DRAIN_/.test(line))
        .reduce((sum, line) => sum + (parseDuration(line.split('=')[1] ?? '') ?? Number.NaN), 0);
      assert.ok((parseDuration(stop) ?? 0) > Math.max(own, 30_000), `${stop} after ${own} ms`);
    });

    it('sets variables that the programs know', () => {
      const env = Object.fromEntries(
        settings(text, 'Environment').map((line) => [line.split('=')[0] ?? '', line.slice(line.indexOf('=') + 1)]),
      );
      // Throws where there is no such variable, or its value is none.
      parseGatewayConfig(undefined, env);
      assert.deepEqual(suspiciousVariables(env), []);
    });
  });
}
