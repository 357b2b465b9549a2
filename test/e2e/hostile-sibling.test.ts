// needs: chromium
/**
 * Two environments behind one domain, in a real browser. A visitor has a session at a private port of one; the page of
 * the other does everything a page can do to ride on it. All environments are same-site to each other, so that neither
 * SameSite nor the browser's own partitions keep them apart.
 */
import assert from 'node:assert/strict';
import type { RequestListener } from 'node:http';
import { after, before, test, type TestContext } from 'node:test';
import { chromium, type Browser, type BrowserContext } from 'playwright-core';
import { portHost, startTestGateway, uniqueName } from '../support/gateway.ts';
import {
  createCredentials,
  SILENT_SIGN_IN,
  startWatchfulUpstream,
  type WatchfulUpstream,
} from '../support/port-access.ts';
import { startTestRunner, startUpstream } from '../support/runner.ts';
import { findChromium } from '../support/system-packages.ts';
import { during } from '../support/whole-way.ts';

/** For anything the browser is waited for, ms. */
const BROWSER_TIMEOUT_MS = 60_000;

let browser: Browser;
before(async () => {
  const executablePath = findChromium();
  assert.ok(executablePath, 'no Chromium');
  browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
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

/** Runs in the browser: everything a page can make the browser send, each to a path of its own. Gives what could be read. */
const attack = async (target: string): Promise<Record<string, string>> => {
  const read: Record<string, string> = {};
  const attempt = async (name: string, act: (url: string) => Promise<unknown>): Promise<void> => {
    const limit = new Promise((resolve) => {
      setTimeout(() => resolve('no answer'), 5_000);
    });
    read[name] = String(await Promise.race([act(`${target}/${name}`).catch(() => 'failed'), limit]));
  };
  const text = async (answer: Promise<Response>): Promise<string> => (await answer).text();
  const element =
    (tag: string, set: (made: HTMLElement & Record<string, unknown>, url: string) => void) => (url: string) =>
      new Promise((resolve) => {
        const made = document.createElement(tag) as HTMLElement & Record<string, unknown>;
        made.onload = () => resolve('loaded');
        made.onerror = () => resolve('failed');
        set(made, url);
        document.body.append(made);
      });
  const withSource = (made: Record<string, unknown>, url: string): void => {
    made['src'] = url;
  };
  const post = { method: 'POST', credentials: 'include', body: 'amount=1000' } as const;
  await attempt('fetch-get', (url) => text(fetch(url, { credentials: 'include' })));
  await attempt('fetch-post', (url) => text(fetch(url, post)));
  await attempt('fetch-no-cors-get', (url) => text(fetch(url, { credentials: 'include', mode: 'no-cors' })));
  await attempt('fetch-no-cors-post', (url) => text(fetch(url, { ...post, mode: 'no-cors' })));
  await attempt('fetch-put', (url) => text(fetch(url, { ...post, method: 'PUT' })));
  await attempt('fetch-with-header', (url) => text(fetch(url, { credentials: 'include', headers: { 'x-any': '1' } })));
  await attempt('xhr', (url) => {
    const request = new XMLHttpRequest();
    request.withCredentials = true;
    request.open('POST', url);
    request.send('amount=1000');
    return new Promise((resolve) => {
      request.onloadend = () => resolve(request.responseText || 'failed');
    });
  });
  await attempt('beacon', async (url) => String(navigator.sendBeacon(url, 'amount=1000')));
  await attempt('script', element('script', withSource));
  await attempt('image', element('img', withSource));
  await attempt('video', element('video', withSource));
  await attempt('iframe', element('iframe', withSource));
  await attempt(
    'iframe-without-referrer',
    element('iframe', (made, url) => {
      made['referrerPolicy'] = 'no-referrer';
      made['src'] = url;
    }),
  );
  await attempt(
    'sandboxed-iframe',
    element('iframe', (made, url) => {
      made['sandbox'] = 'allow-scripts';
      made['src'] = url;
    }),
  );
  await attempt(
    'object',
    element('object', (made, url) => {
      made['data'] = url;
    }),
  );
  await attempt('embed', element('embed', withSource));
  await attempt(
    'stylesheet',
    element('link', (made, url) => {
      made['rel'] = 'stylesheet';
      made['href'] = url;
    }),
  );
  await attempt(
    'prefetch',
    element('link', (made, url) => {
      made['rel'] = 'prefetch';
      made['href'] = url;
    }),
  );
  await attempt('form-in-a-frame', (url) => {
    const frame = document.createElement('iframe');
    frame.name = 'hidden';
    const form = Object.assign(document.createElement('form'), { method: 'post', action: url, target: 'hidden' });
    document.body.append(frame, form);
    return new Promise((resolve) => {
      frame.onload = () => resolve('loaded');
      form.submit();
    });
  });
  await attempt(
    'events',
    (url) =>
      new Promise((resolve) => {
        const events = new EventSource(url, { withCredentials: true });
        events.onopen = () => resolve('open');
        events.onerror = () => {
          events.close();
          resolve('failed');
        };
      }),
  );
  await attempt(
    'websocket',
    (url) =>
      new Promise((resolve) => {
        const socket = new WebSocket(url.replace('https:', 'wss:'));
        socket.onopen = () => resolve('open');
        socket.onerror = () => resolve('failed');
      }),
  );
  await attempt('worker', async (url) => {
    const source = URL.createObjectURL(
      new Blob([`try{importScripts('${url}');postMessage('loaded')}catch{postMessage('failed')}`]),
    );
    return new Promise((resolve) => {
      new Worker(source).onmessage = ({ data }) => resolve(data);
    });
  });
  return read;
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
  const read = await hostile.evaluate(attack, victimOrigin);
  assert.equal(Object.keys(read).length, 22, JSON.stringify(read));
  for (const [name, told] of Object.entries(read)) assert.ok(!told.includes('application'), `${name} read ${told}`);
  assert.equal(read['websocket'], 'failed');

  // A form that takes the place of the page: a POST is never let in, and what becomes of it is a sign-in.
  await hostile.goto(hostileOrigin);
  await hostile.evaluate((url) => {
    const form = Object.assign(document.createElement('form'), { method: 'post', action: url });
    document.body.append(form);
    form.submit();
  }, `${victimOrigin}/form`);
  await hostile.waitForURL((url) => url.origin !== hostileOrigin);
  assert.deepEqual(reached(victim), []);

  // What a link does is the visitor's own.
  await hostile.goto(hostileOrigin);
  await hostile.evaluate((url) => {
    const link = Object.assign(document.createElement('a'), { href: url, textContent: 'a link' });
    document.body.append(link);
  }, `${victimOrigin}/link`);
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
    const read = await visitor.evaluate(attack, victimOrigin);
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
    await hostile.evaluate(() => {
      for (const name of ['__Host-gitpod_port_auth', '__host-gitpod_port_auth', '__HOST-gitpod_port_state']) {
        document.cookie = `${name}=stolen; Path=/; Secure; Domain=gateway.localhost`;
        document.cookie = `${name}=stolen; Path=/x; Secure; Domain=gateway.localhost`;
        document.cookie = `${name}=stolen; Domain=gateway.localhost`;
      }
    });
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
