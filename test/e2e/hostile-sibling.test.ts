// needs: chromium
/**
 * Two environments behind one domain, in a real browser. A visitor has a session at a private port of one; the page of
 * the other does everything a page can do to ride on it. All environments are same-site to each other, so that neither
 * SameSite nor the browser's own partitions keep them apart.
 */
import assert from 'node:assert/strict';
import type { RequestListener } from 'node:http';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { launchBrowser } from '../support/browser.ts';
import { portHost, startTestGateway, uniqueName } from '../support/gateway.ts';
import {
  createCredentials,
  SILENT_SIGN_IN,
  startWatchfulUpstream,
  type WatchfulUpstream,
} from '../support/port-access.ts';
import { startTestRunner, startUpstream } from '../support/runner.ts';
import { during } from '../support/whole-way.ts';

/** For anything the browser is waited for, ms. */
const BROWSER_TIMEOUT_MS = 60_000;

let browser: Browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

interface Scene {
  readonly context: BrowserContext;
  /** The private application that the visitor has a session at. */
  readonly victim: WatchfulUpstream;
  readonly victimOrigin: string;
  /** Another port of the same environment, open to everyone. */
  readonly siblingOrigin: string;
  readonly hostileOrigin: string;
  readonly sessionValue: string;
}

const page: RequestListener = (request, response) => {
  response.setHeader('Content-Type', 'text/html');
  if (request.url === '/toss') {
    response.setHeader('Set-Cookie', [
      'tossed=1; Domain=gateway.localhost; Path=/',
      'tossed_dot=1; domain=.gateway.localhost; Path=/; Secure',
      '__Host-gitpod_port_auth=stolen; Path=/; Secure',
      '__Host-gitpod_port_auth=stolen; Path=/; Secure; Domain=gateway.localhost',
      '__host-gitpod_port_auth=stolen; Path=/; Secure; Domain=gateway.localhost',
      'own=1; Path=/',
    ]);
  }
  response.end('<!doctype html><title>page</title><body></body>');
};

const startScene = async (t: TestContext): Promise<Scene> => {
  const gateway = await during(t, startTestGateway({ config: { signIn: SILENT_SIGN_IN } }));
  const runner = await during(t, startTestRunner(gateway, { organization: 'acme' }));
  const attacker = await during(t, startTestRunner(gateway, { organization: 'evil' }));
  const victim = await during(t, startWatchfulUpstream());
  const sibling = await during(t, startUpstream(page));
  const hostile = await during(t, startUpstream(page));
  const [mine, evil] = [uniqueName('mine'), uniqueName('evil')];
  await runner.announce({
    id: mine,
    creator: 'ada',
    ports: [{ port: victim.port }, { port: sibling.port, admission: 'everyone' }],
  });
  await attacker.announce({ id: evil, creator: 'ada', ports: [{ port: hostile.port, admission: 'everyone' }] });
  const originOf = (id: string, port: number): string => `https://${portHost(id, port)}:${gateway.httpsPort}`;
  const victimOrigin = originOf(mine, victim.port);
  const cookie = await createCredentials(gateway.gateway.directory).cookie({
    environmentId: mine,
    port: victim.port,
    user: 'ada',
  });
  const [name = '', sessionValue = ''] = cookie.split('=');
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  t.after(() => context.close());
  context.setDefaultTimeout(BROWSER_TIMEOUT_MS);
  await context.addCookies([
    { name, value: sessionValue, url: victimOrigin, secure: true, httpOnly: true, sameSite: 'Lax' },
  ]);
  return {
    context,
    victim,
    victimOrigin,
    siblingOrigin: originOf(mine, sibling.port),
    hostileOrigin: originOf(evil, hostile.port),
    sessionValue,
  };
};

/** Everything a page can make the browser send, each to a path of its own. Gives what it could read of the answers. */
const attack = async (page: Page, target: string): Promise<Record<string, string>> => {
  await page.addScriptTag({ path: join(import.meta.dirname, '../support/hostile-page.js') });
  return page.evaluate(`attack(${JSON.stringify(target)})`);
};

/** What came to it since the last time; the browser asks for the icon of the visitor's own page when it likes. */
const reached = ({ seen }: WatchfulUpstream): string[] =>
  seen
    .splice(0)
    .map(({ method, url }) => `${method} ${url}`)
    .filter((line) => line !== 'GET /favicon.ico');

test('nothing that a hostile sibling sends reaches a private application', { timeout: 180_000 }, async (t) => {
  const { context, victim, victimOrigin, hostileOrigin } = await startScene(t);
  const visitor = await context.newPage();
  await visitor.goto(`${victimOrigin}/control`);
  assert.deepEqual(reached(victim), ['GET /control'], 'the visitor has a session');

  const hostile = await context.newPage();
  await hostile.goto(hostileOrigin);
  const read = await attack(hostile, victimOrigin);
  assert.equal(Object.keys(read).length, 22, JSON.stringify(read));
  for (const [name, told] of Object.entries(read)) assert.ok(!told.includes('application'), `${name} read ${told}`);
  assert.equal(read['websocket'], 'failed');

  // A form that takes the place of the page: a POST is never let in, and what becomes of it is a sign-in.
  await hostile.goto(hostileOrigin);
  await hostile.setContent(`<form method="post" action="${victimOrigin}/form"><button>Win</button></form>`);
  await hostile.click('button');
  await hostile.waitForURL((url) => url.origin !== hostileOrigin);
  assert.deepEqual(reached(victim), []);

  // What a link does is the visitor's own.
  await hostile.goto(hostileOrigin);
  await hostile.setContent(`<a href="${victimOrigin}/link">a link</a>`);
  await hostile.click('a');
  await hostile.waitForURL(`${victimOrigin}/link`);
  assert.ok(victim.seen.some(({ url }) => url === '/link'));
});

test(
  'the other ports of the same environment may do what they could not from outside',
  { timeout: 120_000 },
  async (t) => {
    const { context, victim, victimOrigin, siblingOrigin, sessionValue } = await startScene(t);
    const visitor = await context.newPage();
    await visitor.goto(siblingOrigin);
    const read = await attack(visitor, victimOrigin);
    const paths = new Set(victim.seen.map(({ url }) => url.slice(1)));
    for (const name of [
      'fetch-get',
      'fetch-post',
      'fetch-no-cors-post',
      'fetch-put',
      'xhr',
      'beacon',
      'iframe',
      'websocket',
    ]) {
      assert.ok(paths.has(name), `${name}: ${JSON.stringify([...paths])}`);
    }
    assert.equal(read['websocket'], 'open');
    assert.equal(read['fetch-get'], 'failed', 'whether a script may read is for the application to say');
    assert.ok(!JSON.stringify(victim.seen).includes(sessionValue), 'the session never reaches the application');
  },
);

test(
  'a hostile sibling can toss no cookie of the gateway, and none over its own host',
  { timeout: 120_000 },
  async (t) => {
    const { context, victim, victimOrigin, hostileOrigin } = await startScene(t);
    const hostile = await context.newPage();
    await hostile.goto(`${hostileOrigin}/toss`);
    for (const name of ['__Host-gitpod_port_auth', '__host-gitpod_port_auth', '__HOST-gitpod_port_state']) {
      for (const attributes of ['Path=/; Secure', 'Path=/x; Secure', 'Path=/']) {
        const cookie = `${name}=stolen; Domain=gateway.localhost; ${attributes}`;
        await hostile.evaluate(`document.cookie = ${JSON.stringify(cookie)}`);
      }
    }
    const visitor = await context.newPage();
    await visitor.goto(`${victimOrigin}/after`);
    const arrived = victim.seen.find(({ url }) => url === '/after');
    assert.ok(arrived, 'the session is still the visitor’s');
    assert.equal(arrived.headers.cookie, undefined);
    const kept = (await context.cookies(hostileOrigin)).map(({ name, domain }) => [name, domain]);
    const { hostname } = new URL(hostileOrigin);
    assert.deepEqual(kept, [
      ['tossed', hostname],
      ['tossed_dot', hostname],
      ['own', hostname],
    ]);
    const atVictim = (await context.cookies(victimOrigin)).map(({ name, value }) => [name, value === 'stolen']);
    assert.deepEqual(atVictim, [['__Host-gitpod_port_auth', false]]);
  },
);
