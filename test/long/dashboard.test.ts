// needs: chromium
/** The dashboard with 1,000 runners that are really connected, each over a QUIC leg of its own with an environment. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import type { Leg } from '../../shared/src/protocol/leg.ts';
import { enrolParty, openLeg, forEachAtOnce, type Party } from '../bench/idle-legs.ts';
import { launchBrowser } from '../support/browser.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { until } from '../support/runner.ts';

const RUNNERS = 1_000;
/** All legs come from one address here. */
const LIMITS = { unauthenticatedLegsPerAddress: 256 };
const CONNECT_MS = 120_000;
/** On a machine with other things to do; it takes a fraction of that otherwise. */
const DRAW_MS = 10_000;

describe('the dashboard with 1,000 connected runners', { timeout: 4 * CONNECT_MS }, () => {
  let gateway: TestGateway;
  let browser: Browser;
  let origin: string;
  const parties: Party[] = [];
  const legs: Leg[] = [];
  before(async () => {
    gateway = await startTestGateway({ limits: LIMITS });
    const { directory, registry, addresses } = gateway.gateway;
    await forEachAtOnce(RUNNERS, async (index) => {
      const party = await enrolParty(directory, { name: `runner-${index}`, organization: `team-${index % 7}` });
      parties.push(party);
      const leg = await openLeg(party, { host: '127.0.0.1', port: gateway.quicPort }, 'instance');
      legs.push(leg);
      leg.send({
        type: 'environments',
        revision: 1,
        part: 0,
        last: true,
        full: true,
        set: [
          {
            id: `env-${index}`,
            host: '127.0.0.1',
            creator: 'somebody',
            ports: [
              { port: 3000, protocol: 'http', admission: 'everyone', name: 'web' },
              { port: 8080, protocol: 'http', admission: 'organization' },
            ],
          },
        ],
        delete: [],
      });
    });
    await until(() => registry.environments().length === RUNNERS, CONNECT_MS);
    assert.ok(addresses.internal.kind === 'tcp');
    origin = `http://127.0.0.1:${addresses.internal.port}`;
    browser = await launchBrowser();
  });
  after(async () => {
    await browser?.close();
    for (const leg of legs) leg.abort('closed');
    for (const { dialer } of parties) dialer.close();
    await gateway?.close();
  });

  const signIn = async (page: Page): Promise<void> => {
    await page.goto(`${origin}/`);
    await page.getByLabel('Internal token').fill(gateway.internalToken);
    await page.getByRole('button', { name: 'Open' }).click();
    await page.locator('#runners tbody tr').first().waitFor();
  };

  it('draws, filters and goes on at the pace of the page', async (t) => {
    const page = await browser.newPage();
    const problems: string[] = [];
    page.on('pageerror', (error) => problems.push(error.message));
    await signIn(page);
    assert.equal(await page.locator('#found').innerText(), '100 of 1,000 runners');

    const startedAt = performance.now();
    await page.reload();
    await page.locator('#runners tbody tr').nth(99).waitFor();
    const drawn = performance.now() - startedAt;
    t.diagnostic(`drawn in ${drawn.toFixed(0)} ms after a reload`);
    assert.ok(drawn < DRAW_MS, `${drawn} ms`);

    const rows = page.locator('#runners tbody tr');
    const filteredAt = performance.now();
    await page.getByRole('searchbox').fill('env-777');
    await until(async () => (await rows.count()) === 1);
    t.diagnostic(`filtered in ${(performance.now() - filteredAt).toFixed(0)} ms`);
    const text = await rows.first().innerText();
    assert.match(text, /runner-777[\s\S]*team-0[\s\S]*Online[\s\S]*quic[\s\S]*env-777/);

    await page.getByRole('searchbox').fill('');
    for (let shown = 200; shown <= RUNNERS; shown += 100) {
      await page.getByRole('button', { name: 'Show more' }).click();
      await until(async () => (await rows.count()) === shown);
    }
    // A runner that leaves is seen without a reload, with all of them on the page.
    legs[0]?.abort('closed');
    await page.locator('#runners', { hasText: /Offline/ }).waitFor({ timeout: DRAW_MS });
    assert.deepEqual(problems, []);
    await page.close();
  });
});
