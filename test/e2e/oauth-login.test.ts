// needs: chromium
/**
 * Whole logins: a real browser, a real OAuth server that plays the SCM, and a runner that exchanges the code. The
 * browser starts at the runner's application, behind a port host, and the callback comes to the runner's host.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { after, before, test, type TestContext } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import { createSampleScm } from '../../deploy/demo/sample-scm.ts';
import { GATEWAY_LIMITS, type GatewayLimits } from '../../gateway/src/limits.ts';
import { launchBrowser } from '../support/browser.ts';
import { DOMAIN, startTestGateway, type TestGateway } from '../support/gateway.ts';
import type { LoginRunnerSettings } from '../support/login-runner.ts';
import { startTestRunner, startUpstream } from '../support/runner.ts';
import { startProcess, type StartedProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';

const LOGIN_RUNNER = resolve(import.meta.dirname, '../support/login-runner.ts');
/** For anything the browser is waited for, ms. */
const BROWSER_TIMEOUT_MS = 30_000;
/** How long the runner is away between redirect and callback, ms: what the callback has to wait at least. */
const RUNNER_AWAY_MS = 5_000;
/** Where nothing comes back, there is no use in waiting longer, ms. */
const SHORT_WAIT_MS = 1_000;

let browser: Browser;
before(async () => {
  browser = await launchBrowser();
});
after(() => browser.close());

interface Scm {
  readonly url: string;
  /** Requests that came from browsers and from the runner. */
  readonly seen: IncomingMessage[];
}

/** The SCM knows one application: the runner with this callback URL. */
const startScm = async (
  t: TestContext,
  server: Server,
  client: { id: string; secret: string; redirectUri: string },
): Promise<Scm> => {
  const { port } = server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  const serve: RequestListener = createSampleScm({ issuer: url, client });
  const seen: IncomingMessage[] = [];
  server.on('request', (request: IncomingMessage, response) => {
    seen.push(request);
    serve(request, response);
  });
  t.after(() => server.closeAllConnections());
  return { url, seen };
};

interface Scene {
  readonly gateway: TestGateway;
  readonly scm: Scm;
  readonly runnerId: string;
  readonly callbackUrl: string;
  readonly appUrl: string;
  readonly page: Page;
  readonly runner: StartedProcess;
  /** Starts the runner again, as a new process with the same key and the same port. */
  restart(): Promise<StartedProcess>;
}

const startScene = async (
  t: TestContext,
  {
    responseMode = 'query',
    limits = {},
  }: { responseMode?: 'query' | 'form_post'; limits?: Partial<GatewayLimits> } = {},
): Promise<Scene> => {
  const gateway = await startTestGateway({ limits });
  t.after(() => gateway.close());
  const { runner, exchangeToken } = await gateway.gateway.directory.createRunner({ name: 'login' });
  const scmServer = createServer();
  scmServer.listen(0, '127.0.0.1');
  await once(scmServer, 'listening');
  t.after(() => scmServer.close());
  const scmUrl = `http://127.0.0.1:${(scmServer.address() as AddressInfo).port}`;
  const client = { id: 'the-runner', secret: randomBytes(16).toString('hex') };
  const settings: LoginRunnerSettings = {
    gateway: gateway.url,
    runnerId: runner.id,
    exchangeToken,
    stateDir: join(await temporaryDirectory(t), 'state'),
    ca: gateway.ca,
    appPort: 0,
    environmentId: 'demo',
    key: randomBytes(32).toString('hex'),
    scm: scmUrl,
    scmName: 'github',
    client,
    responseMode,
    home: `https://{port}--demo.${DOMAIN}:${gateway.httpsPort}`,
  };
  const start = async (appPort: number) => {
    const started = startProcess(t, process.execPath, [LOGIN_RUNNER, JSON.stringify({ ...settings, appPort })]);
    const [, port, callbackUrl = ''] = await started.waitForOutput(/ready port=(\d+) callback=(\S+)/);
    return { started, port: Number(port), callbackUrl };
  };
  const first = await start(0);
  const scm = await startScm(t, scmServer, { ...client, redirectUri: first.callbackUrl });
  const page = await browser.newPage({ ignoreHTTPSErrors: true });
  page.setDefaultTimeout(BROWSER_TIMEOUT_MS);
  t.after(() => page.close());
  return {
    gateway,
    scm,
    runnerId: runner.id,
    callbackUrl: first.callbackUrl,
    appUrl: `https://${first.port}--demo.${DOMAIN}:${gateway.httpsPort}/`,
    page,
    runner: first.started,
    restart: async () => (await start(first.port)).started,
  };
};

/** From the application to the login form of the SCM. */
const goToScm = async ({ page, appUrl, scm }: Scene): Promise<void> => {
  await page.goto(appUrl);
  assert.equal(await page.locator('#user').textContent(), 'nobody');
  await page.getByText('Sign in').click();
  await page.waitForURL(`${scm.url}/interaction/**`);
  await page.getByLabel(/Your name/).fill('Grace');
};

const userOn = async ({ page, appUrl }: Scene): Promise<string | null> => {
  await page.waitForURL(appUrl);
  return page.locator('#user').textContent();
};

const callbackLine = ({ gateway, runnerId }: Scene) =>
  gateway.waitFor((line) => line.msg === 'request' && line['host'] === `${runnerId}.${DOMAIN}`);

test('a whole login', async (t) => {
  const scene = await startScene(t);
  assert.equal(
    scene.callbackUrl,
    `https://${scene.runnerId}.${DOMAIN}:${scene.gateway.httpsPort}/oauth/github/callback`,
  );
  await goToScm(scene);
  const callback = scene.page.waitForResponse((response) => response.url().startsWith(scene.callbackUrl));
  await scene.page.getByText('Authorize').click();
  assert.equal(await userOn(scene), 'Grace');

  const response = await callback;
  assert.match(response.url(), /[?&]code=[^&]+.*&state=|[?&]state=[^&]+.*&code=/);
  assert.equal(response.status(), 303);
  const headers = await response.allHeaders();
  assert.equal(headers['cache-control'], 'no-store');
  assert.equal(headers['referrer-policy'], 'no-referrer');
  // The runner exchanged the code itself, and the SCM knows of one exchange only.
  const exchanges = scene.scm.seen.filter(({ method, url }) => method === 'POST' && url === '/token');
  assert.equal(exchanges.length, 1);
  const line = await callbackLine(scene);
  assert.equal(line['path'], '/oauth/github/callback');
  assert.equal(line['runnerId'], scene.runnerId);
});

test('a whole login with response_mode=form_post', async (t) => {
  const scene = await startScene(t, { responseMode: 'form_post' });
  await goToScm(scene);
  const callback = scene.page.waitForRequest((request) => request.url() === scene.callbackUrl);
  await scene.page.getByText('Authorize').click();
  assert.equal(await userOn(scene), 'Grace');
  const request = await callback;
  assert.equal(request.method(), 'POST');
  assert.match(request.postData() ?? '', /code=/);
});

test('a login whose runner is killed between redirect and callback, and comes back 5 s later', async (t) => {
  const scene = await startScene(t);
  await goToScm(scene);
  scene.runner.child.kill('SIGKILL');
  await scene.runner.exited;
  const sent = scene.page.waitForRequest((request) => request.url().startsWith(scene.callbackUrl));
  await scene.page.getByText('Authorize').click({ noWaitAfter: true });
  await sent;
  const startedAt = performance.now();
  await delay(RUNNER_AWAY_MS);
  await scene.restart();
  assert.equal(await userOn(scene), 'Grace');
  const tookMs = performance.now() - startedAt;
  assert.ok(tookMs >= RUNNER_AWAY_MS && tookMs < GATEWAY_LIMITS.callbackWaitMs, `it took ${tookMs} ms`);
  const line = await callbackLine(scene);
  assert.equal(line['status'], 303);
  assert.ok(Number(line['tunnelMs']) >= RUNNER_AWAY_MS, 'the callback did not wait');
});

test('a login whose runner does not come back ends with a page that says what to do', async (t) => {
  const scene = await startScene(t, { limits: { callbackWaitMs: SHORT_WAIT_MS } });
  await goToScm(scene);
  await scene.runner.stop();
  const sent = scene.page.waitForResponse((response) => response.url().startsWith(scene.callbackUrl));
  await scene.page.getByText('Authorize').click({ noWaitAfter: true });
  const response = await sent;
  assert.equal(response.status(), 503);
  await scene.page.getByText('Start the login again').waitFor();
  // Code and state are in the address, and nowhere on the page.
  const { searchParams } = new URL(scene.page.url());
  const content = await scene.page.content();
  for (const name of ['code', 'state']) {
    const value = searchParams.get(name);
    assert.ok(value && value.length > 10);
    assert.ok(!content.includes(value), `${name} is on the page`);
  }
  // Started again, it works.
  await scene.restart();
  await scene.page.goto(`${scene.appUrl}login`);
  assert.equal(await userOn(scene), 'Grace');
});

test('the address of a callback goes on to nobody as Referer, whatever the service says', async (t) => {
  const gateway = await startTestGateway();
  t.after(() => gateway.close());
  const referers: (string | undefined)[] = [];
  const elsewhere = await startUpstream((request, response) => {
    // The browser asks for an icon of the page that it has arrived at, whose address is no secret.
    if (request.url !== '/favicon.ico') referers.push(request.headers.referer);
    response.end();
  });
  t.after(() => elsewhere.close());
  const other = `http://127.0.0.1:${elsewhere.port}`;
  const service = await startUpstream((_request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/html', 'Referrer-Policy': 'unsafe-url' });
    response.end(`<!doctype html><title>in</title><img src="${other}/image"><a href="${other}/link">go on</a>`);
  });
  t.after(() => service.close());
  const runner = await startTestRunner(gateway, { oauth: { target: `http://127.0.0.1:${service.port}` } });
  t.after(() => runner.close());
  const page = await browser.newPage({ ignoreHTTPSErrors: true });
  t.after(() => page.close());
  await page.goto(`${runner.client.callbackUrl('gitlab')}?code=secret&state=secret`);
  await page.getByText('go on').click();
  await page.waitForURL(`${other}/link`);
  assert.ok(referers.length >= 2);
  assert.deepEqual(new Set(referers), new Set([undefined]));
});
