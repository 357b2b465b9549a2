// needs: chromium
/** The error page in a real browser: within its policy, in light and dark, on a phone; it goes away by itself. */
import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { after, before, test } from 'node:test';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { launchBrowser } from '../support/browser.ts';
import { startEdge, type EdgeUnderTest } from '../support/edge.ts';

let browser: Browser;
let edge: EdgeUnderTest;
let isOnline = false;
before(async () => {
  edge = await startEdge({
    forwarder: {
      request(exchange) {
        if (!isOnline) return exchange.fail('runner_offline', { retryAfterSeconds: 1 });
        const response = exchange.response as ServerResponse;
        response.setHeader('content-type', 'text/html');
        response.end('<!doctype html><title>the application</title><p>it is back</p>');
      },
    },
  });
  browser = await launchBrowser();
});
after(async () => {
  await browser.close();
  await edge.close();
});

const open = async (options: BrowserContextOptions = {}): Promise<{ page: Page; messages: string[] }> => {
  isOnline = false;
  const page = await browser.newPage({ ignoreHTTPSErrors: true, ...options });
  const messages: string[] = [];
  page.on('console', (message) => messages.push(message.text()));
  page.on('pageerror', (error) => messages.push(error.message));
  await page.goto(`https://3000--demo.gateway.localhost:${edge.port}/`);
  return { page, messages };
};
/** What the browser says of an answer that is an error, whoever makes it. */
const isOwnFault = (message: string): boolean => !message.startsWith('Failed to load resource');

test('nothing on the page breaks its policy, and the style applies', async () => {
  const { page, messages } = await open();
  assert.equal(await page.title(), 'The environment is offline');
  await page.getByText(/Trying again in/).waitFor();
  assert.equal(await page.evaluate(`getComputedStyle(document.querySelector('main')).borderRadius`), '16px');
  assert.deepEqual(messages.filter(isOwnFault), []);
  await page.close();
});

test('light and dark follow the visitor, and a phone needs no sideways scrolling', async () => {
  const grounds = new Set<string>();
  for (const colorScheme of ['light', 'dark'] as const) {
    const { page } = await open({ colorScheme, viewport: { width: 320, height: 640 } });
    grounds.add(await page.evaluate<string>('getComputedStyle(document.body).backgroundColor'));
    const width = await page.evaluate<number>('document.documentElement.clientWidth');
    const scrollWidth = await page.evaluate<number>('document.documentElement.scrollWidth');
    assert.ok(scrollWidth <= width, `${scrollWidth} px in ${width}`);
    await page.close();
  }
  assert.equal(grounds.size, 2);
});

test('the page asks by itself, and gives way to the application when it is back', async () => {
  const { page, messages } = await open();
  const asked = page.waitForRequest((request) => request.method() === 'HEAD');
  await asked;
  isOnline = true;
  await page.getByText('it is back').waitFor();
  assert.deepEqual(messages.filter(isOwnFault), []);
  await page.close();
});

test('the button asks at once; without script it is a plain link', async () => {
  const { page } = await open();
  isOnline = true;
  await page.getByText('Try again', { exact: true }).click();
  await page.getByText('it is back').waitFor();
  await page.close();
  const plain = await open({ javaScriptEnabled: false });
  isOnline = true;
  await plain.page.getByText('Try again', { exact: true }).click();
  await plain.page.waitForURL(/\/$/);
  assert.equal(await plain.page.title(), 'the application');
  await plain.page.close();
});

test('the details can be copied', async () => {
  const { page } = await open({ permissions: ['clipboard-read', 'clipboard-write'] });
  await page.getByText('Copy details').click();
  await page.getByText('Copied').waitFor();
  const copied = await page.evaluate<string>('navigator.clipboard.readText()');
  assert.match(copied, /Code: 503 runner_offline[^]*Request: [0-9a-f]{32}/);
  await page.close();
});
