// needs: chromium
/** What `npm start` prints, in a real browser: the sample login from end to end, and the live log. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { launchBrowser } from '../support/browser.ts';
import { freePorts, startDemo, urlOf } from '../support/demo.ts';
import { temporaryDirectory } from '../support/programs.ts';

/** For anything the browser is waited for, ms. */
const BROWSER_TIMEOUT_MS = 30_000;

test('the sample login and the log viewer of npm start', async (t) => {
  const demo = startDemo(t, await temporaryDirectory(t), await freePorts());
  const url = await urlOf(demo);
  const [, loginUrl = ''] = await demo.waitForOutput(/Sign in (https:\S+)/);
  const [, viewerUrl = ''] = await demo.waitForOutput(/Log +(https:\S+)/);
  const browser = await launchBrowser();
  t.after(() => browser.close());
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  context.setDefaultTimeout(BROWSER_TIMEOUT_MS);
  const page = await context.newPage();

  await page.goto(url);
  assert.equal(await page.locator('#user').textContent(), 'nobody');
  const viewer = await context.newPage();
  await viewer.goto(viewerUrl);
  await viewer.getByText('GET /page.css').first().waitFor();

  const asked = page.waitForRequest((request) => request.url().includes('/oauth/sample/callback?'));
  await page.getByText('Sign in with the sample SCM').click();
  await page.getByLabel(/Your name/).fill('Grace');
  await page.getByText('Authorize').click();
  await page.waitForURL(url);
  assert.equal(await page.locator('#user').textContent(), 'Grace');
  // Through the address of the runner, which is told apart from the application's.
  const callback = new URL((await asked).url());
  assert.notEqual(callback.host, new URL(url).host);

  // The log shows it as it happens, without the code.
  await viewer.getByText('/oauth/sample/callback').first().waitFor();
  assert.ok(!(await viewer.content()).includes(callback.searchParams.get('code') ?? '?'));

  await page.getByText('Sign out').click();
  await page.locator('#user', { hasText: 'nobody' }).waitFor();
  await page.goto(loginUrl);
  await page.waitForURL(url);
  assert.equal(await page.locator('#user').textContent(), 'Grace', 'the SCM still knows who this is');
});
