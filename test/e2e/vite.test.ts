// needs: chromium
/**
 * A real Vite dev server in an environment, seen by a real browser: an edited module is replaced over the WebSocket,
 * through gateway and tunnel, and the page is not loaded anew.
 *
 * The domain is not under `.localhost`: Vite always trusts those names, so that they would prove nothing about hosts.
 */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { Browser, Page, WebSocket } from 'playwright-core';
import { launchBrowser } from '../support/browser.ts';
import { startProcess } from '../support/processes.ts';
import { startGatewayProgram, startTunnelClientProgram, temporaryDirectory } from '../support/programs.ts';

const VITE = resolve(import.meta.dirname, '../../node_modules/vite/bin/vite.js');
const DOMAIN = 'gateway.test';
/** For anything the browser is waited for, ms. */
const BROWSER_TIMEOUT_MS = 20_000;

const messageModule = (text: string): string => `export const message = ${JSON.stringify(text)};\n`;

const FILES = {
  'index.html':
    '<!doctype html><title>Vite</title><p id="message"></p><script type="module" src="/main.js"></script>\n',
  'main.js': `import { message } from './message.js';
const show = (text) => (document.getElementById('message').textContent = text);
show(message);
import.meta.hot.accept('./message.js', (module) => show(module.message));
`,
  'message.js': messageModule('before'),
};

interface ViteProject {
  readonly port: number;
  edit(text: string): Promise<void>;
}

const startVite = async (t: TestContext, server: Readonly<Record<string, unknown>>): Promise<ViteProject> => {
  const directory = await temporaryDirectory(t);
  const config = `export default ${JSON.stringify({ server: { ...server, host: '127.0.0.1', port: 0 }, cacheDir: '.vite' })};\n`;
  const files = { ...FILES, 'package.json': '{ "private": true, "type": "module" }', 'vite.config.js': config };
  for (const [name, content] of Object.entries(files)) await writeFile(join(directory, name), content);
  const vite = startProcess(t, process.execPath, [VITE], {
    cwd: directory,
    env: { NO_COLOR: '1', FORCE_COLOR: undefined },
  });
  const [, port] = await vite.waitForOutput(/http:\/\/127\.0\.0\.1:(\d+)\//);
  return { port: Number(port), edit: (text) => writeFile(join(directory, 'message.js'), messageModule(text)) };
};

const startBrowser = async (t: TestContext): Promise<Browser> => {
  const browser = await launchBrowser('--ignore-certificate-errors', `--host-resolver-rules=MAP *.${DOMAIN} 127.0.0.1`);
  t.after(() => browser.close());
  return browser;
};

const openPage = async (t: TestContext, browser: Browser): Promise<Page> => {
  const page = await browser.newPage({ ignoreHTTPSErrors: true });
  page.setDefaultTimeout(BROWSER_TIMEOUT_MS);
  t.after(() => page.close());
  return page;
};

/** The update as Vite sends it: the test is about the bytes that came through the tunnel. */
const updateOn = (socket: WebSocket): Promise<string> =>
  socket
    .waitForEvent('framereceived', {
      predicate: ({ payload }) => payload.toString().includes('"type":"update"'),
      timeout: BROWSER_TIMEOUT_MS,
    })
    .then(({ payload }) => payload.toString());

/** Opens the page, edits the module, and sees it replaced. */
const seeReplacement = async (page: Page, url: string, project: ViteProject): Promise<void> => {
  const opening = page.waitForEvent('websocket');
  await page.goto(url);
  const socket = await opening;
  // The client falls back to a connection of its own, past the page's host: that would prove nothing.
  assert.equal(new URL(socket.url()).host, new URL(url).host);
  await page.locator('#message', { hasText: 'before' }).waitFor();
  await page.evaluate(() => Object.assign(globalThis, { mark: 'this very page' }));

  const update = updateOn(socket);
  await project.edit('after');
  assert.match(await update, /message\.js/);
  await page.locator('#message', { hasText: 'after' }).waitFor();
  assert.equal(
    await page.evaluate(() => (globalThis as { mark?: string }).mark),
    'this very page',
    'the page was reloaded',
  );
  assert.equal(socket.isClosed(), false);
};

test('hot module replacement of a Vite dev server', async (t) => {
  const browser = await startBrowser(t);
  const gateway = await startGatewayProgram(t, { domains: ['gateway.localhost', DOMAIN] });
  // Vite names hosts exactly, or all below a name with a leading dot.
  const trusting = await startVite(t, { allowedHosts: [`.${DOMAIN}`] });
  const wary = await startVite(t, {});
  await startTunnelClientProgram(t, gateway, [
    { id: 'trusting', ports: [{ port: trusting.port, admission: 'everyone' }] },
    { id: 'wary', ports: [{ port: wary.port, admission: 'everyone' }] },
    { id: 'local', ports: [{ port: wary.port, admission: 'everyone', hostHeader: 'local' }] },
  ]);
  const urlOf = (port: number, id: string): string => `https://${port}--${id}.${DOMAIN}:${gateway.httpsPort}/`;

  await t.test('with allowedHosts set, Host is preserved and accepted', async (t) => {
    await seeReplacement(await openPage(t, browser), urlOf(trusting.port, 'trusting'), trusting);
  });

  await t.test('without allowedHosts, Vite refuses the preserved Host', async (t) => {
    const page = await openPage(t, browser);
    const response = await page.goto(urlOf(wary.port, 'wary'));
    assert.equal(response?.status(), 403);
    assert.match(await response.text(), /allowedHosts/);
    assert.equal(response.headers()['gateway-error'], undefined, 'the refusal is of Vite, not of the gateway');
  });

  await t.test('without allowedHosts, hostHeader: local makes it work', async (t) => {
    await seeReplacement(await openPage(t, browser), urlOf(wary.port, 'local'), wary);
  });
});
