// needs: chromium
/** The dashboard in a real browser, with a real gateway, runner and traffic behind it; and what it refuses. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { launchBrowser } from '../support/browser.ts';
import { createManualClock } from '../support/manual-clock.ts';
import { createRunnerEvents, MAX_EVENTS } from '../../gateway/src/observability/dashboard/runner-events.ts';
import { createPageSessions, SESSION_LIFETIME_MS } from '../../shared/src/identity/page-session.ts';
import { createTraffic, MAX_SAMPLES, SAMPLE_INTERVAL_MS } from '../../gateway/src/observability/dashboard/traffic.ts';
import { portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream, until, type TestRunner, type TestUpstream } from '../support/runner.ts';

const ENVIRONMENT = 'shop';
/** Beside the one that is connected. */
const OTHER_RUNNERS = 1_000;

describe('the dashboard', () => {
  let browser: Browser;
  let gateway: TestGateway;
  let upstream: TestUpstream;
  let runner: TestRunner;
  let origin: string;
  before(async () => {
    gateway = await startTestGateway();
    upstream = await startUpstream((_request, response) => response.end('x'.repeat(10_000)));
    // What a runner calls itself is shown as it is, and is never markup.
    runner = await startTestRunner(gateway, { name: '<img src=x onerror=alert(1)>', organization: 'acme' });
    await runner.announce({
      id: ENVIRONMENT,
      host: '127.0.0.1',
      creator: 'somebody',
      ports: [{ port: upstream.port, protocol: 'http', admission: 'everyone' }],
    });
    for (let index = 0; index < OTHER_RUNNERS; index++) {
      await gateway.gateway.directory.createRunner({ name: `other-${index}` });
    }
    const { internal } = gateway.gateway.addresses;
    assert.ok(internal.kind === 'tcp');
    origin = `http://127.0.0.1:${internal.port}`;
    browser = await launchBrowser();
  });
  after(async () => {
    await browser?.close();
    await runner?.close();
    await upstream?.close();
    await gateway?.close();
  });

  const open = async (options: BrowserContextOptions = {}) => {
    const page = await browser.newPage(options);
    const problems: string[] = [];
    const requests: string[] = [];
    page.on('console', (message) => problems.push(message.text()));
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('request', (request) => requests.push(request.url()));
    await page.goto(`${origin}/`);
    return { page, problems, requests };
  };
  const signIn = async (page: Page): Promise<void> => {
    await page.getByLabel('Internal token').fill(gateway.internalToken);
    await page.getByRole('button', { name: 'Open' }).click();
    await page.locator('#runners tbody tr').first().waitFor();
  };
  const visit = (): Promise<{ status: number }> => gateway.request(portHost(ENVIRONMENT, upstream.port));

  it('shows runners, legs, environments and live figures, within its policy and from nowhere else', async () => {
    const { page, problems, requests } = await open();
    await signIn(page);
    const row = page.locator(`#runners tr[data-id="${runner.id}"]`);
    assert.match(await row.innerText(), /<img src=x onerror=alert\(1\)>[\s\S]*acme[\s\S]*Online[\s\S]*ms[\s\S]*shop/);
    const transport = runner.client.status().legs[0]?.transport;
    assert.ok(transport);
    assert.equal(await row.locator('.leg.up').first().innerText(), transport);
    assert.match(await page.locator('#found').innerText(), /^100 of 1,001 runners$/);
    // Traffic reaches the chart without a reload.
    const requestsChart = page.getByLabel(/^Requests per second/);
    await until(async () => {
      assert.equal((await visit()).status, 200);
      return /requests (?!0$)/.test((await requestsChart.getAttribute('aria-label')) ?? '');
    });
    assert.equal((await gateway.request(portHost('nobody'))).status, 404);
    await page.locator('#errors', { hasText: 'unknown_environment' }).waitFor();
    assert.deepEqual(problems, []);
    assert.deepEqual(
      requests.filter((url) => !url.startsWith(origin) && url !== 'data:,'),
      [],
    );
    await page.close();
  });

  it('finds one of 1,000 runners by name and by environment, and shows more on demand', async () => {
    const { page } = await open();
    await signIn(page);
    const rows = page.locator('#runners tbody tr');
    await page.getByRole('button', { name: 'Show more' }).click();
    await until(async () => (await rows.count()) === 200);
    for (const [text, found] of [
      ['other-777', 'other-777'],
      [ENVIRONMENT, '<img'],
    ] as const) {
      await page.getByRole('searchbox').fill(text);
      await until(async () => {
        const texts = await rows.allInnerTexts();
        return texts.length === 1 && texts[0]?.startsWith(found) === true;
      });
    }
    await page.getByRole('searchbox').fill('');
    await page.getByRole('button', { name: /^Not joined/ }).click();
    await until(async () => (await page.locator('#found').innerText()) === '100 of 1,000 runners');
    await page.close();
  });

  it('blocks an environment, and revokes a runner, when somebody says yes', async () => {
    const { page } = await open();
    await signIn(page);
    await page.locator(`#runners tr[data-id="${runner.id}"] a`).click();
    await page.locator('.events', { hasText: `Announced environment ${ENVIRONMENT}` }).waitFor();
    await page.getByRole('button', { name: 'Block' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Cancel' }).click();
    assert.equal((await visit()).status, 200);
    await page.getByRole('button', { name: 'Block' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Block' }).click();
    await page.getByRole('button', { name: 'Unblock' }).waitFor();
    await until(async () => (await visit()).status !== 200);
    await page.getByRole('button', { name: 'Unblock' }).click();
    await until(async () => (await visit()).status === 200);

    const spare = await gateway.gateway.directory.createRunner({ name: 'spare' });
    await page.goto(`${origin}/#/runner/${spare.runner.id}`);
    await page.getByRole('heading', { name: 'spare' }).waitFor();
    await page.getByRole('button', { name: 'Revoke runner' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
    await page.locator('.title .state.revoked').waitFor();
    assert.ok((await gateway.gateway.directory.runner(spare.runner.id))?.revokedAt);
    await page.locator('.events', { hasText: 'Revoked' }).waitFor();
    await page.close();
  });

  it('follows light and dark, and fits a phone', async () => {
    const grounds = new Set<string>();
    for (const colorScheme of ['light', 'dark'] as const) {
      const { page } = await open({ colorScheme, viewport: { width: 320, height: 640 } });
      await signIn(page);
      for (const hash of ['#/', `#/runner/${runner.id}`]) {
        await page.goto(`${origin}/${hash}`);
        await page.locator(hash === '#/' ? '#overview' : '#runner h1').waitFor();
        const [width = 0, scrollWidth = 0] = await page.evaluate<number[]>(
          '[document.documentElement.clientWidth, document.documentElement.scrollWidth]',
        );
        assert.ok(scrollWidth <= width, `${scrollWidth} px in ${width} at ${hash}`);
      }
      grounds.add(await page.evaluate<string>('getComputedStyle(document.body).backgroundColor'));
      await page.close();
    }
    assert.equal(grounds.size, 2);
  });

  it('asks for the token again when the session is not good, and does not take a wrong one', async () => {
    const { page } = await open();
    await page.getByLabel('Internal token').fill('wrong');
    await page.getByRole('button', { name: 'Open' }).click();
    await page.getByText('This is not the token of this gateway.').waitFor();
    await signIn(page);
    await page.context().clearCookies();
    await page.getByLabel('Internal token').waitFor();
    await page.close();
  });

  it('needs both halves of the session, of this listener, and no foreign origin', async () => {
    const login = await fetch(`${origin}/dashboard/session`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ token: gateway.internalToken }),
    });
    const { key } = (await login.json()) as { key: string };
    const setCookie = login.headers.get('set-cookie') ?? '';
    assert.match(setCookie, /; HttpOnly; SameSite=Strict$/);
    const cookie = setCookie.split(';', 1)[0] ?? '';
    assert.ok(!cookie.includes(gateway.internalToken) && !key.includes(gateway.internalToken));
    const status = async (headers: Record<string, string>, path = '/dashboard/overview', method = 'GET') =>
      (await fetch(`${origin}${path}`, { method, headers })).status;
    const both = { cookie, 'gateway-dashboard-key': key };
    assert.equal(await status(both), 200);
    assert.equal(await status({ authorization: `Bearer ${gateway.internalToken}` }), 200);
    const other = `gateway_dashboard_1=${cookie.split('=')[1]}`;
    for (const headers of [{}, { cookie }, { 'gateway-dashboard-key': key }, { ...both, cookie: other }]) {
      assert.equal(await status(headers as Record<string, string>), 401);
      for (const path of ['/dashboard/revoke', '/dashboard/block']) {
        assert.equal(await status(headers as Record<string, string>, path, 'POST'), 401);
      }
    }
    assert.equal(await status({ ...both, origin: 'http://127.0.0.1:1' }), 403);
    for (const path of ['/', '/dashboard/session', '/dashboard/overview']) {
      assert.equal(await status({ origin: 'https://evil.example' }, path, path === '/' ? 'GET' : 'POST'), 403, path);
    }
  });
});

describe('what the dashboard keeps', () => {
  it('is a bounded number of samples and events, the latest', async () => {
    const clock = createManualClock();
    let bytesSent = 0;
    const traffic = createTraffic({
      clock,
      tunnels: () => ({ openStreams: 0, bytesSent: (bytesSent += 1), bytesReceived: 0 }),
    });
    for (let index = 0; index < 2 * MAX_SAMPLES; index++) await clock.advance(SAMPLE_INTERVAL_MS);
    traffic.requestEnded(200, undefined);
    traffic.requestEnded(502, 'upstream_refused');
    const samples = traffic.samples();
    assert.equal(samples.length, MAX_SAMPLES + 1);
    assert.deepEqual(samples.at(-1)?.slice(0, 3), [clock.now(), 2, 1]);
    assert.deepEqual(traffic.errors(), [['upstream_refused', 1]]);
    traffic.close();

    const events = createRunnerEvents({ clock });
    for (let index = 0; index < 2 * MAX_EVENTS; index++) events.add('one', 'info', String(index));
    assert.equal(events.of('one').length, MAX_EVENTS);
    assert.equal(events.of('one')[0]?.text, String(2 * MAX_EVENTS - 1));
    assert.deepEqual(events.of('two'), []);
  });

  it('is a session that ends by time and with the token', async () => {
    const clock = createManualClock();
    const sessions = createPageSessions({ clock, token: 'a' }, { name: 'page' });
    const { setCookie, key } = sessions.open(9_090);
    const cookie = `theirs=1; ${setCookie.split(';', 1)[0]}`;
    assert.ok(sessions.isOpen({ cookie, key }, 9_090));
    assert.ok(!sessions.isOpen({ cookie, key }, 9_091));
    assert.ok(!sessions.isOpen({ cookie, key: key.slice(1) }, 9_090));
    assert.ok(!createPageSessions({ clock, token: 'b' }, { name: 'page' }).isOpen({ cookie, key }, 9_090));
    // That of another page is no session here, whatever its cookie is called.
    const other = createPageSessions({ clock, token: 'a' }, { name: 'other' }).open(9_090);
    const renamed = other.setCookie.split(';', 1)[0]?.replace('other', 'page');
    assert.ok(renamed && !sessions.isOpen({ cookie: renamed, key: other.key }, 9_090));
    // Nobody can give a session more time.
    assert.ok(!sessions.isOpen({ cookie: cookie.replace(/_9090=\d/, '_9090=9'), key }, 9_090));
    await clock.advance(SESSION_LIFETIME_MS);
    assert.ok(!sessions.isOpen({ cookie, key }, 9_090));
  });
});
