// needs: chromium
/** Visitors in a real browser: sign-in at a real provider, sessions at ports, pages that use other ports, sign-out. */
import assert from 'node:assert/strict';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { after, before, test, type TestContext } from 'node:test';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { WebSocketServer } from 'ws';
import { MAX_REDIRECTS } from '../../gateway/src/access/sign-in/chain.ts';
import { launchBrowser } from '../support/browser.ts';
import { startUpstream, type TestUpstream } from '../support/runner.ts';
import { startSignInWorld, type SignInWorld, type SignInWorldOptions } from '../support/sign-in-world.ts';

/** For anything the browser is waited for, ms. */
const BROWSER_TIMEOUT_MS = 30_000;

let browser: Browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

/** A page, events, and an echo; to scripts of other origins it says that they may read, as an application does. */
const startApp = async (t: TestContext): Promise<TestUpstream> => {
  const serve = (request: IncomingMessage, response: ServerResponse): void => {
    const { origin } = request.headers;
    if (origin !== undefined) {
      response.setHeader('Access-Control-Allow-Origin', origin);
      response.setHeader('Access-Control-Allow-Credentials', 'true');
    }
    if (request.url === '/events') {
      response.writeHead(200, { 'Content-Type': 'text/event-stream' });
      response.write('data: hello\n\n');
      return;
    }
    response.setHeader('Content-Type', 'text/html');
    response.end(`<!doctype html><title>app</title><p id="target">${request.url ?? ''}</p>`);
  };
  const app = await startUpstream(serve);
  const sockets = new WebSocketServer({ server: app.server });
  sockets.on('connection', (socket) => {
    socket.on('message', (data: Buffer) => socket.send(`echo ${data.toString()}`));
  });
  t.after(async () => {
    for (const socket of sockets.clients) socket.terminate();
    await app.close();
  });
  return app;
};

interface Scene extends SignInWorld {
  readonly context: BrowserContext;
  readonly page: Page;
}

const startScene = async (t: TestContext, options?: SignInWorldOptions): Promise<Scene> => {
  const world = await startSignInWorld(t, options);
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  context.setDefaultTimeout(BROWSER_TIMEOUT_MS);
  t.after(() => context.close());
  return { ...world, context, page: await context.newPage() };
};

const signInAs = async ({ page, provider }: Scene, name: string): Promise<void> => {
  await page.waitForURL(`${provider.issuer}/interaction/**`);
  await page.getByLabel('Name').fill(name);
  await page.getByText('Continue').click();
  // What it has to say when something is wrong is worth more than a time that is over.
  const { origin } = new URL(provider.issuer);
  await page
    .waitForURL((url) => url.origin !== origin)
    .catch(async (cause: unknown) => {
      throw new Error(`still at the provider: ${await page.locator('body').innerText()}`, { cause });
    });
};

/** Redirects that led to the page that is shown. */
const redirectsTo = async (page: Page, url: string): Promise<number> => {
  let count = 0;
  const response = await page.waitForResponse((candidate) => candidate.url() === url && candidate.status() === 200);
  for (let request = response.request().redirectedFrom(); request; request = request.redirectedFrom()) count += 1;
  return count;
};

test('a visitor comes back to the very address: path, query and fragment', async (t) => {
  const scene = await startScene(t);
  const app = await startApp(t);
  await scene.announce({ id: 'demo', creator: 'grace', ports: [{ port: app.port }] });
  const wanted = `${scene.origin('demo', app.port)}/some/p%C3%A4ge?a=1&b=%2F#part-2/with?all`;
  await scene.page.goto(wanted);
  await signInAs(scene, 'grace');
  await scene.page.waitForURL(wanted);
  assert.equal(await scene.page.locator('#target').textContent(), '/some/p%C3%A4ge?a=1&b=%2F');
  // The fragment stayed in the browser.
  assert.ok(scene.gateway.lines.every((line) => !JSON.stringify(line).includes('part-2')));

  // Signed in, it survives redirects alone; and needs no provider.
  const asked = scene.provider.seen.length;
  const other = await startApp(t);
  await scene.announce({ id: 'second', creator: 'grace', ports: [{ port: other.port }] });
  const second = `${scene.origin('second', other.port)}/x#y`;
  await scene.page.goto(second);
  await scene.page.waitForURL(second);
  assert.equal(await scene.page.locator('#target').textContent(), '/x');
  assert.equal(scene.provider.seen.length, asked);
});

/** What a page of the open application sees of another origin. */
const tryAll = (page: Page, origin: string) =>
  page.evaluate(async (target) => {
    const outcome = (work: Promise<string>) => work.catch((error: unknown) => `failed: ${String(error)}`);
    const fetched = outcome(
      fetch(`${target}/data`, { credentials: 'include' }).then(async (answer) => `${answer.status}`),
    );
    const preflighted = outcome(
      fetch(`${target}/data`, { method: 'PUT', credentials: 'include', headers: { 'X-Custom': '1' } }).then(
        async (answer) => `${answer.status}`,
      ),
    );
    const event = new Promise<string>((resolve) => {
      const source = new EventSource(`${target}/events`, { withCredentials: true });
      source.onmessage = ({ data }) => {
        source.close();
        resolve(String(data));
      };
      source.onerror = () => {
        source.close();
        resolve('failed');
      };
    });
    const echoed = new Promise<string>((resolve) => {
      const socket = new WebSocket(`${target.replace('https:', 'wss:')}/socket`);
      socket.onopen = () => socket.send('hi');
      socket.onmessage = ({ data }) => {
        socket.close();
        resolve(String(data));
      };
      socket.onerror = () => resolve('failed');
    });
    return { fetched: await fetched, preflighted: await preflighted, event: await event, echoed: await echoed };
  }, origin);

test('after one sign-in a page uses the other private ports of its environment, and no other environment', async (t) => {
  const scene = await startScene(t);
  const apps = await Promise.all(Array.from({ length: 7 }, () => startApp(t)));
  await scene.announce({ id: 'demo', creator: 'grace', ports: apps.map(({ port }) => ({ port })) });
  const hostile = await startApp(t);
  await scene.announce({ id: 'hostile', creator: 'mallory', ports: [{ port: hostile.port, admission: 'everyone' }] });
  const [first, ...others] = apps;
  const wanted = `${scene.origin('demo', first!.port)}/`;
  await scene.page.goto(wanted);
  const redirects = redirectsTo(scene.page, wanted);
  await signInAs(scene, 'grace');
  await scene.page.waitForURL(wanted);
  const count = await redirects;
  assert.ok(count <= MAX_REDIRECTS, `${count} redirects`);
  const asked = scene.provider.seen.length;

  const all = { fetched: '200', preflighted: '200', event: 'hello', echoed: 'echo hi' };
  assert.deepEqual(await tryAll(scene.page, scene.origin('demo', others[0]!.port)), all);
  // All six have their session.
  const statuses = await scene.page.evaluate(
    (urls) => Promise.all(urls.map(async (url) => (await fetch(url, { credentials: 'include' })).status)),
    others.map(({ port }) => `${scene.origin('demo', port)}/`),
  );
  assert.deepEqual(statuses, Array(6).fill(200));
  assert.equal(scene.provider.seen.length, asked);

  // Signed in at the domain alone, with so many ports that a page stands between: the fragment survives that too.
  await scene.context.clearCookies({ name: '__Host-gitpod_port_auth' });
  await scene.page.goto(`${wanted}deep?q#part`);
  await scene.page.waitForURL(`${wanted}deep?q#part`);
  assert.equal(await scene.page.locator('#target').textContent(), '/deep?q');
  assert.deepEqual(await tryAll(scene.page, scene.origin('demo', others[5]!.port)), all);
  assert.equal(scene.provider.seen.length, asked);

  // The same visitor, on a page of somebody else.
  const before = others[0]!.requests();
  const stranger = await scene.context.newPage();
  await stranger.goto(`${scene.origin('hostile', hostile.port)}/`);
  const outcome = await tryAll(stranger, scene.origin('demo', others[0]!.port));
  assert.match(outcome.fetched, /failed/);
  assert.match(outcome.preflighted, /failed/);
  assert.equal(outcome.event, 'failed');
  assert.equal(outcome.echoed, 'failed');
  assert.equal(others[0]!.requests(), before);
});

test('sign-out ends the sessions at ports; another account is asked for and sees nothing of the first', async (t) => {
  const scene = await startScene(t);
  const app = await startApp(t);
  await scene.announce({ id: 'demo', creator: 'grace', ports: [{ port: app.port, name: 'web' }] });
  const { page } = scene;
  const wanted = `${scene.origin('demo', app.port)}/`;
  await page.goto(wanted);
  await signInAs(scene, 'grace');
  await page.waitForURL(wanted);

  await page.goto(`${scene.apex}/`);
  assert.equal(await page.locator('h1').textContent(), 'Grace Hopper');
  assert.equal(await page.getByRole('link', { name: /web/ }).getAttribute('href'), wanted);
  await page.getByText('Sign out').click();
  await page.waitForURL(`${scene.apex}/auth/signed-out`);

  // The provider still knows the visitor, so that one click signs in again; at another account's wish it asks.
  const requests = app.requests();
  const asked = scene.provider.seen.length;
  await page.goto(wanted);
  await page.waitForURL(wanted);
  assert.ok(app.requests() > requests);
  assert.ok(scene.provider.seen.length > asked, 'the session had not ended');
  const [portCookie] = (await scene.context.cookies(wanted)).filter(({ name }) => name === '__Host-gitpod_port_auth');
  assert.ok(portCookie?.httpOnly && portCookie.secure && portCookie.sameSite === 'Lax');

  const nowhere = `${scene.origin('nowhere', 3000)}/`;
  await page.goto(nowhere);
  await page.getByText('There is nothing here for you').waitFor();
  await page.getByText('Switch account').click();
  await signInAs(scene, 'mallory');
  await page.getByText('There is nothing here for you').waitFor();
  assert.match((await page.locator('main').textContent()) ?? '', /Mallory/);
  const reached = app.requests();
  await page.goto(wanted);
  await page.getByText('There is nothing here for you').waitFor();
  assert.equal(app.requests(), reached);
});
