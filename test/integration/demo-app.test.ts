import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { request } from 'node:http';
import { text } from 'node:stream/consumers';
import { test, type TestContext } from 'node:test';
import { WebSocket } from 'ws';
import { createDemoApp } from '../../deploy/demo/app.ts';

const startApp = async (t: TestContext): Promise<string> => {
  const app = createDemoApp();
  t.after(() => app.close());
  const { port } = await app.listen({ host: '127.0.0.1', port: 0 });
  return `127.0.0.1:${port}`;
};

test('the page shows the request as it arrived, and nothing of it as HTML', async (t) => {
  const host = await startApp(t);
  const response = await fetch(`http://${host}/?q=<b>`, {
    headers: { Accept: 'text/html', 'X-Forwarded-Host': '<script>alert(1)</script>', Connection: 'close' },
  });
  const page = await response.text();
  assert.match(page, /This page came through a tunnel/);
  assert.match(page, /&#60;script&#62;alert/);
  assert.doesNotMatch(page, /<script>alert|<b>|\{\{/);
});

test('without the forwarded host the page says that there was no tunnel', async (t) => {
  const host = await startApp(t);
  const response = await fetch(`http://${host}/`, { headers: { Accept: 'text/html', Connection: 'close' } });
  assert.match(await response.text(), /This page came without the tunnel/);
});

test('a terminal gets the request as text, header lines as sent', async (t) => {
  const host = await startApp(t);
  const call = request(`http://${host}/`, {
    headers: ['Host', host, 'X-MiXed', '1', 'x-mixed', '2'],
    agent: false,
  }).end();
  const [response] = (await once(call, 'response')) as [AsyncIterable<Buffer>];
  assert.match(await text(response), /GET \/ HTTP\/1\.1\n {2}Host: .*\n {2}X-MiXed: 1\n {2}x-mixed: 2\n/);
});

test('an upload is answered with its size and SHA-256', async (t) => {
  const host = await startApp(t);
  const body = randomBytes(3_000_000);
  const response = await fetch(`http://${host}/upload`, { method: 'POST', body, headers: { Connection: 'close' } });
  const { bytes, sha256 } = (await response.json()) as { bytes: number; sha256: string };
  assert.equal(bytes, body.length);
  assert.equal(sha256, createHash('sha256').update(body).digest('hex'));
});

test('events come while the response is open, and go on after the last one seen', async (t) => {
  const host = await startApp(t);
  const stop = new AbortController();
  const response = await fetch(`http://${host}/events`, { headers: { 'Last-Event-ID': '41' }, signal: stop.signal });
  assert.equal(response.headers.get('content-type'), 'text/event-stream');
  const { value } = await response.body!.getReader().read();
  assert.match(new TextDecoder().decode(value as Uint8Array), /^id: 42\ndata: \{"count":42,.*\n\n$/);
  stop.abort();
});

/** Opens the echo as a page of `origin` would; gives the status when it is refused. */
const openEcho = async (t: TestContext, host: string, origin?: string): Promise<WebSocket | number> => {
  const socket = new WebSocket(`ws://${host}/echo`, origin === undefined ? {} : { origin });
  t.after(() => socket.terminate());
  return Promise.race([
    once(socket, 'open').then(() => socket),
    once(socket, 'unexpected-response').then(([, response]) => (response as { statusCode: number }).statusCode),
  ]);
};

test('the echo answers its own page and programs, text as text and bytes as bytes', async (t) => {
  const host = await startApp(t);
  for (const origin of [`http://${host}`, `https://${host}`, undefined]) {
    const socket = await openEcho(t, host, origin);
    assert.ok(socket instanceof WebSocket);
    for (const sent of ['grüß', Buffer.from([0, 255])]) {
      socket.send(sent);
      const [data, isBinary] = (await once(socket, 'message')) as [Buffer, boolean];
      assert.deepEqual(data, Buffer.from(sent));
      assert.equal(isBinary, typeof sent !== 'string');
    }
  }
});

test('no other page may use the echo', async (t) => {
  const host = await startApp(t);
  for (const origin of ['https://evil.test', `https://${host}.evil.test`, 'null']) {
    assert.equal(await openEcho(t, host, origin), 403, origin);
  }
});

test('close ends what is open, and may be called twice', async (t) => {
  const app = createDemoApp();
  t.after(() => app.close());
  const { port } = await app.listen({ host: '127.0.0.1', port: 0 });
  const socket = await openEcho(t, `127.0.0.1:${port}`);
  assert.ok(socket instanceof WebSocket);
  const ended = once(socket, 'close');
  await app.close();
  await ended;
  await app.close();
});
