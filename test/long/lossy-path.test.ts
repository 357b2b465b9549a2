// needs: root, netns, python3, tun, nginx, curl, openssl
/** Bad paths for long: bodies of full size, very many legs, black holes, and speed beside plain TCP. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { connectRunner } from '../../tunnel-client/src/client.ts';
import { LOSSES, ROUGH, startLossyWorld } from '../support/lossy-world.ts';
import { cleanEnvironment } from '../support/processes.ts';
import { until } from '../support/runner.ts';

const MIB = 1 << 20;
const TRIES = 50;
const NEEDED = 0.95 * TRIES;
/** Legs that come up at once. */
const AT_ONCE = 5;
/** A runner whose leg is not up by then has failed, ms. */
const UP_WITHIN_MS = 20_000;
const BLACK_HOLE_MS = 20_000;
/** Longest pause between two attempts is 5 s. */
const BACK_WITHIN_MS = 20_000;
/** Of plain TCP on the same link. */
const SHARE = 0.7;

describe('bodies over a bad path', { timeout: 600_000 }, () => {
  for (const loss of LOSSES) {
    it(`are the same at ${loss * 100} % loss`, async (t) => {
      const { udp, startRunner } = await startLossyWorld(t);
      udp.setWeather({ ...ROUGH, loss });
      const runner = await startRunner('demo');
      await runner.carry(loss > 0.01 ? MIB / 4 : MIB);
    });
  }
});

describe('legs', { timeout: 900_000 }, () => {
  it('come up at 20 % loss', async (t) => {
    const { gateway, udp, startRunner } = await startLossyWorld(t);
    // A gateway lets so many runners of one address join only slowly: these are all the one that has joined.
    const { id, stateDir } = await startRunner('demo');
    udp.setWeather({ delayMs: 50, loss: 0.2 });
    let up = 0;
    const attempt = async (): Promise<void> => {
      const client = connectRunner({ gateway: gateway.url, runnerId: id, ca: gateway.ca, stateDir, transport: 'quic' });
      await client.ready({ signal: AbortSignal.timeout(UP_WITHIN_MS) }).then(
        () => (up += 1),
        () => undefined,
      );
      await client.close();
    };
    for (let tried = 0; tried < TRIES; tried += AT_ONCE) await Promise.all(Array.from({ length: AT_ONCE }, attempt));
    t.diagnostic(`${up} of ${TRIES} came up`);
    assert.ok(up >= NEEDED, `${up} of ${TRIES}`);
  });

  it('are back after a black hole of 20 s', async (t) => {
    const { udp, startRunner } = await startLossyWorld(t);
    udp.setWeather({ delayMs: 50 });
    const runner = await startRunner('demo');
    await runner.carry(1_024);
    udp.setOpen(false);
    await delay(BLACK_HOLE_MS);
    assert.equal(runner.client.status().state, 'connecting');
    udp.setOpen(true);
    // The gateway knows the environments a round trip after the leg is up.
    const isBack = () =>
      runner.carry(1_024).then(
        () => true,
        () => false,
      );
    await until(isBack, BACK_WITHIN_MS);
    await runner.carry(1_024);
  });
});

describe('a download at 100 ms and 1 % loss', { timeout: 600_000 }, () => {
  for (const more of [[], ['--mtu', '1280']]) {
    it(`reaches ${SHARE} of plain TCP with BBR ${more.join(' ')}`, async (t) => {
      const bench = join(import.meta.dirname, '../bench/lossy.ts');
      const args = [bench, '--json', '--loss', '1', '--control', 'bbr', '--rounds', '3', ...more];
      const child = spawn(process.execPath, args, { env: cleanEnvironment(), stdio: ['ignore', 'pipe', 'inherit'] });
      let text = '';
      child.stdout.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      const [code] = (await once(child, 'close')) as [number | null];
      assert.equal(code, 0);
      const [result] = JSON.parse(text) as { tcp: number; quic: number; auto: number; choice: string }[];
      assert.ok(result);
      t.diagnostic(text.trim());
      assert.equal(result.choice, 'webtransport');
      assert.ok(result.auto >= SHARE * result.tcp, text);
    });
  }
});
