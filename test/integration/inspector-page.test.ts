// needs: chromium
/** The inspector's page in a real browser, with applications that would like to be more than text; and who may ask. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type IncomingMessage, request as httpRequest, type RequestOptions } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { after, before, describe, it } from 'node:test';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { connectRunner } from '../../tunnel-client/src/client.ts';
import { type InternalListener, listenInternal } from '../../tunnel-client/src/internal-listener.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { launchBrowser } from '../support/browser.ts';
import { readAll } from '../support/legs.ts';
import { until } from '../support/runner.ts';
import { type Application, httpApplication } from '../support/applications.ts';
import { portHost, startWholeWay, type WholeWay } from '../support/whole-way.ts';

const TOKEN = 'A'.repeat(43);
const ENVIRONMENT = 'shop';
/** Runs wherever it is taken for markup. */
const MARKUP = '<img src=x onerror="globalThis.owned=1"><script>globalThis.owned=1</script>';
const SECRET = 's3cr3t';

describe("the inspector's page", () => {
  let way: WholeWay;
  let application: Application;
  let listener: InternalListener;
  let browser: Browser;
  let origin: string;
  let host: string;
  before(async () => {
    application = await httpApplication((request, response) => {
      request.resume();
      const [path = ''] = (request.url ?? '').split('?');
      if (path.startsWith('/html')) {
        response.writeHead(200, MARKUP.replaceAll(/[<>"]/g, ''), { 'content-type': 'text/html', 'x-hostile': MARKUP });
        return void response.end(`<!doctype html>${MARKUP}`);
      }
      if (path.startsWith('/bytes')) return void response.end(Buffer.from([0, 0xff, ...Buffer.from(MARKUP)]));
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ [MARKUP]: MARKUP, '</pre>': '</script>', token: SECRET }));
    });
    way = await startWholeWay({ runner: { inspector: true } });
    await way.expose(ENVIRONMENT, [application.port]);
    host = portHost(ENVIRONMENT, application.port);
    listener = await listenInternal(
      { client: way.runner.client, token: TOKEN, log: silentLogger },
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
    );
    origin = `http://${listener.address}`;
    browser = await launchBrowser();
  });
  after(async () => {
    await browser?.close();
    await listener?.close();
    await way?.close();
    await application?.close();
  });

  const visit = async (path: string): Promise<void> => {
    const outgoing = httpsRequest(way.to(host, path, { headers: { 'x-hostile': MARKUP } }));
    outgoing.end();
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    await readAll(response);
  };
  const open = async (options: BrowserContextOptions = {}) => {
    const page = await browser.newPage(options);
    const problems: string[] = [];
    const requests: string[] = [];
    page.on('console', (message) => problems.push(message.text()));
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('dialog', (dialog) => problems.push(dialog.message()));
    page.on('request', (request) => requests.push(request.url()));
    await page.goto(`${origin}/inspector`);
    return { page, problems, requests };
  };
  const signIn = async (page: Page): Promise<void> => {
    await page.getByLabel('Internal token').fill(TOKEN);
    await page.getByRole('button', { name: 'Open' }).click();
    await page.locator('#app').waitFor();
  };
  const row = (page: Page, path: string) => page.locator('#rows a', { hasText: path }).first();

  it('shows what hostile applications and visitors send as text, and nothing of it runs', async () => {
    const { page, problems, requests } = await open();
    await signIn(page);
    const paths = ['/html', '/json', '/bytes', `/odd?q=${encodeURIComponent(MARKUP)}`];
    // They come to the open page, without a reload.
    for (const path of paths) await visit(path);
    for (const path of ['/html', '/json', '/bytes', '/odd']) {
      await row(page, path).click();
      await page.locator('#details h1', { hasText: path }).waitFor();
      const details = page.locator('#details');
      assert.ok((await details.innerText()).includes(MARKUP), path);
      for (const mode of await details.getByRole('group').getByRole('button').all()) await mode.click();
    }
    await row(page, '/json').click();
    await page.locator('#details h1', { hasText: '/json' }).waitFor();
    const body = page.getByRole('region', { name: 'Response body' });
    await body.getByRole('button', { name: 'JSON' }).click();
    const text = await body.locator('pre').innerText();
    assert.ok(text.includes(`"token": "redacted"`), text);
    assert.ok(text.includes('"</pre>": "</script>"'), text);
    const html = await page.evaluate<string>('document.documentElement.outerHTML');
    assert.equal(await page.evaluate('globalThis.owned'), undefined);
    assert.ok(!html.includes('<img') && !html.includes(SECRET));
    assert.deepEqual(problems, []);
    assert.deepEqual(
      requests.filter((url) => !url.startsWith(origin) && url !== 'data:,'),
      [],
    );
    await page.close();
  });

  it('finds requests, sends one again, and forgets them', async () => {
    const { page, problems } = await open();
    await signIn(page);
    for (let index = 0; index < 3; index++) await visit(`/many/${index}`);
    await row(page, '/many/2').waitFor();
    await page.getByRole('searchbox').fill('get /many/1 200');
    await until(async () => (await page.locator('#rows a').count()) === 1);
    assert.match(await page.locator('#found').innerText(), /^1 of \d+ requests$/);
    await row(page, '/many/1').click();
    const before = application.connections();
    await page.getByRole('button', { name: 'Send again' }).click();
    await page.locator('#details a', { hasText: /^again \d+$/ }).waitFor();
    assert.ok(application.connections() > before);
    await until(async () => (await page.locator('#rows a').count()) === 2);
    // What is kept is gone at a word.
    await page.getByRole('button', { name: 'Forget all' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Forget' }).click();
    await until(async () => (await page.locator('#rows a').count()) === 0);
    assert.deepEqual(way.runner.client.inspector?.list(ENVIRONMENT), []);
    assert.deepEqual(problems, []);
    await page.close();
  });

  it('is a list, and then a request, on a phone', async () => {
    const { page } = await open({ viewport: { width: 390, height: 800 } });
    await signIn(page);
    await visit(`/long/${'x'.repeat(2_000)}`);
    await row(page, '/long').click();
    await page.locator('#details h1').waitFor();
    assert.equal(await page.locator('#list').isVisible(), false);
    const scrollWidth = await page.evaluate('document.documentElement.scrollWidth');
    assert.equal(scrollWidth, 390, 'nothing stands out to the side');
    await page.getByText('All requests').click();
    await row(page, '/long').waitFor();
    assert.equal(await page.locator('#details').isVisible(), false);
    await page.close();
  });

  it('asks for the token, keeps a session over a reload, and ends it', async () => {
    const { page } = await open();
    await page.getByLabel('Internal token').fill('B'.repeat(43));
    await page.getByRole('button', { name: 'Open' }).click();
    await page.locator('#problem', { hasText: 'not the token' }).waitFor();
    assert.equal(await page.locator('#app').isVisible(), false);
    await signIn(page);
    await page.reload();
    await page.locator('#app').waitFor();
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.locator('#gate').waitFor();
    await page.reload();
    await page.locator('#gate').waitFor();
    await page.close();
  });
});

describe('the inspector over HTTP', () => {
  let way: WholeWay;
  let application: Application;
  let listener: InternalListener;
  let id: string;
  before(async () => {
    application = await httpApplication((_request, response) => response.end('hello'));
    way = await startWholeWay({ runner: { inspector: true } });
    await way.expose(ENVIRONMENT, [application.port]);
    listener = await listenInternal(
      { client: way.runner.client, token: TOKEN, log: silentLogger },
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
    );
    const outgoing = httpsRequest(way.to(portHost(ENVIRONMENT, application.port)));
    outgoing.end();
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    await readAll(response);
    id = way.runner.client.inspector?.list(ENVIRONMENT)[0]?.id ?? '';
  });
  after(async () => {
    await listener?.close();
    await way?.close();
    await application?.close();
  });

  const ask = async (path: string, options: RequestOptions & { body?: string } = {}, at = listener) => {
    const { body, ...rest } = options;
    const outgoing = httpRequest(`http://${at.address}${path}`, { agent: false, ...rest });
    outgoing.on('error', () => undefined);
    outgoing.end(body);
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    return response;
  };
  const statusOf = async (...args: Parameters<typeof ask>): Promise<number | undefined> => {
    const response = await ask(...args);
    response.destroy();
    return response.statusCode;
  };
  const authorization = `Bearer ${TOKEN}`;
  const data = (): string[] => [
    '/v1/inspector/environments',
    `/v1/inspector/environments/${ENVIRONMENT}/requests`,
    `/v1/inspector/environments/${ENVIRONMENT}/requests/${id}`,
    `/v1/inspector/environments/${ENVIRONMENT}/events`,
  ];

  it('tells nothing without the token, and no more with a session than its own', async () => {
    for (const path of [...data(), '/v1/inspector/other', '/v1/inspector']) {
      assert.equal(await statusOf(path), 401, path);
      assert.equal(await statusOf(path, { headers: { authorization: `Bearer ${'B'.repeat(43)}` } }), 401, path);
    }
    for (const path of data()) assert.equal(await statusOf(path, { headers: { authorization } }), 200, path);
    const replay = `${data()[2]}/replay`;
    assert.equal(await statusOf(replay, { method: 'POST' }), 401);

    const login = await ask('/inspector/session', { method: 'POST', body: JSON.stringify({ token: TOKEN }) });
    const { key } = JSON.parse((await readAll(login)).toString()) as { key: string };
    const cookie = login.headers['set-cookie']?.[0]?.split(';')[0] ?? '';
    assert.match(login.headers['set-cookie']?.[0] ?? '', /HttpOnly; SameSite=Strict$/);
    const session = { cookie, 'inspector-key': key };
    for (const path of data()) {
      assert.equal(await statusOf(path, { headers: session }), 200, path);
      for (const half of [{ cookie }, { 'inspector-key': key }, { ...session, 'inspector-key': `${key}A` }]) {
        assert.equal(await statusOf(path, { headers: half as Record<string, string> }), 401, path);
      }
      assert.equal(await statusOf(path, { headers: { ...session, origin: 'https://evil.test' } }), 403, path);
      assert.equal(await statusOf(path, { headers: { ...session, host: 'evil.test' } }), 403, path);
    }
    for (const path of ['/status', '/environments', '/events'])
      assert.equal(await statusOf(path, { headers: session }), 401);
    assert.equal(await statusOf(replay, { method: 'POST', headers: session }), 201);
    for (const body of ['', '{}', '{"token":1}', JSON.stringify({ token: `${TOKEN}A` }), 'x'.repeat(2_000)]) {
      const status = await statusOf('/inspector/session', { method: 'POST', body });
      assert.ok(status === 400 || status === 401 || status === 413, `${status} ${body.slice(0, 20)}`);
    }
  });

  it('serves its page under a policy, and says what it does not know', async () => {
    const page = await ask('/inspector');
    assert.equal(page.statusCode, 200);
    const policy = String(page.headers['content-security-policy']);
    assert.ok(policy.startsWith("default-src 'none'") && !policy.includes('unsafe'), policy);
    page.destroy();
    const headers = { authorization };
    for (const [path, method, status] of [
      ['/inspector/other.js', 'GET', 404],
      ['/inspector', 'POST', 405],
      ['/inspector/session', 'GET', 405],
      ['/v1/inspector/environments', 'POST', 405],
      [`${data()[1]}`, 'PUT', 405],
      [`${data()[2]}/replay`, 'GET', 405],
      ['/v1/inspector/environments/Wrong/requests', 'GET', 404],
      ['/v1/inspector/environments/nobody/requests', 'GET', 200],
      [`/v1/inspector/environments/other/requests/${id}`, 'GET', 404],
      [`${data()[1]}/99999`, 'GET', 404],
      [`${data()[1]}/99999/replay`, 'POST', 404],
    ] as const) {
      assert.equal(await statusOf(path, { method, headers }), status, `${method} ${path}`);
    }
    assert.equal(await statusOf(`${data()[1]}`, { method: 'DELETE', headers }), 204);
    const list = await ask(`${data()[1]}`, { headers });
    assert.deepEqual(JSON.parse((await readAll(list)).toString()), { requests: [] });
  });

  it('is not there when it is off', async () => {
    const client = connectRunner({
      gateway: 'https://api.nowhere.localhost:1',
      runnerId: 'idle',
      stateDir: way.runner.stateDir,
    });
    const off = await listenInternal(
      { client, token: TOKEN, log: silentLogger },
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
    );
    assert.equal(client.inspector, undefined);
    for (const path of ['/inspector', '/inspector/main.js', ...data()]) {
      const answer = await ask(path, { headers: { authorization } }, off);
      assert.equal(answer.statusCode, 404, path);
      assert.match((await readAll(answer)).toString(), /inspector_off/);
    }
    await off.close();
    await client.close();
  });
});
