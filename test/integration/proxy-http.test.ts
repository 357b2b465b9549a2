import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import {
  cannedUpstream,
  createProxyWorld,
  exchangeBytes,
  get,
  httpUpstream,
  valuesOf,
  type ProxyWorld,
} from '../support/proxy-world.ts';

describe('requests over HTTP/1.1', () => {
  let world: ProxyWorld;
  before(async () => {
    world = await createProxyWorld();
  });
  after(() => world.close());

  test('an upstream sees the request as it was sent, and the client sees its answer', async () => {
    const upstream = await httpUpstream((request, response) => {
      response.writeHead(201, 'Made up', [
        'X-Mixed-Case',
        'a',
        'x-mixed-case',
        'b',
        'Set-Cookie',
        'a=1',
        'Set-Cookie',
        'b=2; Domain=gateway.test',
      ]);
      response.end(JSON.stringify({ method: request.method, url: request.url, raw: request.rawHeaders }));
    });
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    const answer = await exchangeBytes(
      world,
      host,
      `GET //a/../b/%zz?q=//&%zz HTTP/1.1\r\nHost: ${host}\r\nX-Odd-CASE: one\r\nx-odd-case: two\r\nAccept: */*\r\nConnection: close\r\n\r\n`,
    );
    assert.equal(answer.status, 201);
    assert.equal(answer.statusText, 'Made up');
    assert.deepEqual(valuesOf(answer, 'set-cookie'), ['a=1', 'b=2']);
    assert.deepEqual(
      answer.lines.filter((line) => /^x-mixed-case/i.test(line)),
      ['X-Mixed-Case: a', 'x-mixed-case: b'],
    );
    const seen = JSON.parse(answer.body) as { method: string; url: string; raw: string[] };
    assert.equal(seen.url, '//a/../b/%zz?q=//&%zz');
    const own = seen.raw.slice(0, seen.raw.indexOf('X-Forwarded-For'));
    assert.deepEqual(own, [
      'host',
      host,
      'connection',
      'keep-alive',
      'X-Odd-CASE',
      'one',
      'x-odd-case',
      'two',
      'Accept',
      '*/*',
    ]);
    await upstream.close();
  });

  test('a kept connection serves the next request', async () => {
    const upstream = await httpUpstream((_request, response) => void response.end('ok'));
    world.expose(upstream.port);
    assert.equal((await get(world, upstream.port)).body, 'ok');
    assert.equal((await get(world, upstream.port)).body, 'ok');
    assert.equal(upstream.connections, 1);
    await upstream.close();
  });

  test('nothing listens', async () => {
    const upstream = await cannedUpstream('');
    world.expose(upstream.port);
    await upstream.close();
    const answer = await get(world, upstream.port);
    assert.equal(answer.status, 502);
    assert.deepEqual(valuesOf(answer, 'gateway-error'), ['upstream_refused']);
  });
});
