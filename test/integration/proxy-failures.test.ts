import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { after, afterEach, before, describe, test } from 'node:test';
import type { GatewayErrorCode } from '../../gateway/src/errors.ts';
import type { GatewayLimits } from '../../gateway/src/limits.ts';
import { cannedApplication, rawApplication } from '../support/applications.ts';
import {
  createProxyWorld,
  exchangeBytes,
  get,
  httpUpstream,
  parseResponse,
  valuesOf,
  type PlainResponse,
  type ProxyWorld,
} from '../support/proxy-world.ts';
import { readUntilClosed, readUntil } from '../support/sockets.ts';

/** Rows 17 and 18: what one side loses, the other side learns within this, ms. */
const PASSED_ON_MS = 1_000;
/** An upstream that has not been able to write for this long is held back, ms. */
const QUIET_MS = 400;

const isError = (answer: PlainResponse, status: number, code: GatewayErrorCode): void => {
  assert.deepEqual([answer.status, valuesOf(answer, 'gateway-error')], [status, [code]], answer.body);
};
/** Fails when `promise` takes longer than `ms`. */
const within = async <T>(ms: number, promise: Promise<T>): Promise<T> => {
  const started = performance.now();
  const value = await promise;
  const took = performance.now() - started;
  assert.ok(took <= ms, `it took ${Math.round(took)} ms`);
  return value;
};
const closed = (socket: Socket): Promise<void> =>
  new Promise((resolve) => {
    // Before the test looks, or later; with or without an error.
    if (socket.destroyed) resolve();
    else socket.once('close', () => resolve());
  });

describe('what goes wrong between client and upstream', () => {
  let world: ProxyWorld;
  const open: { close(): Promise<void> }[] = [];
  const use = async <T extends { close(): Promise<void> }>(made: Promise<T>): Promise<T> => {
    const thing = await made;
    open.push(thing);
    return thing;
  };
  const worldWith = (limits: Partial<GatewayLimits>, legs = 1) => use(createProxyWorld({ limits, legs }));
  before(async () => {
    world = await createProxyWorld();
  });
  afterEach(async () => {
    for (const thing of open.splice(0).reverse()) await thing.close();
  });
  after(() => world.close());

  test('a client that leaves is gone for the upstream within a second, whatever it was doing', async () => {
    const sockets: Socket[] = [];
    const upstream = await use(
      httpUpstream((request, response) => {
        sockets.push(request.socket);
        if (request.url === '/stream') response.write('first');
        if (request.url === '/upload') request.resume();
        response.on('error', () => undefined);
      }),
    );
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    for (const [path, send, wait] of [
      ['/silent', '', ''],
      ['/stream', '', 'first'],
      ['/upload', 'Content-Length: 1000\r\n', ''],
    ] as const) {
      const seen = once(upstream.server, 'request');
      const client = await world.connect(host);
      client.write(`${send ? 'POST' : 'GET'} ${path} HTTP/1.1\r\nHost: ${host}\r\n${send}\r\n`);
      if (send) client.write('part');
      await seen;
      if (wait) await readUntil(client, wait);
      client.destroy();
      await within(PASSED_ON_MS, closed(sockets.pop()!));
    }
    assert.equal(world.forwarder.stats().requestsInFlight, 0);
  });

  test('an answer that is cut never ends cleanly', async () => {
    const heads = {
      length: 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart',
      chunked: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n',
      untilClose: 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\npart',
    };
    for (const [name, head] of Object.entries(heads)) {
      for (const way of ['end', 'reset'] as const) {
        let socket: Socket | undefined;
        const upstream = await use(
          cannedApplication((made) => {
            socket = made;
            made.write(head);
          }),
        );
        world.expose(upstream.port);
        const host = world.host(upstream.port);
        const client = await world.connect(host);
        client.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
        let text = await readUntil(client, 'part');
        if (way === 'end') socket!.end();
        else socket!.resetAndDestroy();
        const rest =
          name === 'untilClose' && way === 'end'
            ? readUntil(client, '0\r\n\r\n')
            : readUntilClosed(client).then((end) => end.text);
        text += await within(PASSED_ON_MS, rest);
        const { body } = parseResponse(text);
        assert.ok(body.startsWith('part'), name);
        // A body without a length ends where the connection does; cut by a reset it must not look complete.
        const looksComplete = text.endsWith('0\r\n\r\n') || body.length === 100;
        assert.equal(looksComplete, name === 'untilClose' && way === 'end', `${name} ${way}`);
      }
    }
  });

  test('an upstream that hangs up or resets before it answers', async () => {
    const hangsUp = await use(cannedApplication((socket) => socket.end()));
    const resets = await use(cannedApplication((socket) => void socket.resetAndDestroy()));
    for (const upstream of [hangsUp, resets]) {
      world.expose(upstream.port);
      isError(await within(PASSED_ON_MS, get(world, upstream.port)), 502, 'upstream_reset');
    }
  });

  test('bytes behind an answer are never the next answer', async () => {
    const answer = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst';
    const upstream = await use(cannedApplication(`${answer}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison`));
    world.expose(upstream.port);
    for (let count = 0; count < 5; count++) assert.equal((await get(world, upstream.port)).body, 'first');
  });

  test('an upstream that stays silent, and one that only sends 1xx', async () => {
    const limited = await worldWith({ responseHeaderTimeoutMs: 300 });
    const silent = await use(cannedApplication(''));
    const drips = await use(
      cannedApplication((socket) => {
        const timer = setInterval(() => socket.write('HTTP/1.1 102 Processing\r\n\r\n'), 100);
        socket.once('close', () => clearInterval(timer));
      }),
    );
    limited.expose(silent.port);
    limited.expose(drips.port);
    isError(await within(2_000, get(limited, silent.port)), 504, 'upstream_timeout');
    const client = await limited.connect(limited.host(drips.port));
    client.write(`GET / HTTP/1.1\r\nHost: ${limited.host(drips.port)}\r\nConnection: close\r\n\r\n`);
    const { text } = await within(2_000, readUntilClosed(client));
    isError(parseResponse(text.slice(text.search(/HTTP\/1\.1 [2-9]/))), 504, 'upstream_timeout');
  });

  test('a slow upload is no silent upstream; one that stops is cut', async () => {
    const limited = await worldWith({ responseHeaderTimeoutMs: 300, stalledUploadTimeoutMs: 1_500 });
    const upstream = await use(
      httpUpstream((request, response) => {
        request.resume();
        request.on('end', () => response.end('thanks'));
      }),
    );
    limited.expose(upstream.port);
    const host = limited.host(upstream.port);
    const head = `POST / HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 4\r\nConnection: close\r\n\r\n`;
    const slow = await limited.connect(host);
    slow.write(head);
    const seen = once(upstream.server, 'request');
    slow.write('ab');
    await seen;
    // Longer than the upstream has for its answer.
    await new Promise((resolve) => setTimeout(resolve, 600));
    slow.write('cd');
    assert.equal(parseResponse((await readUntilClosed(slow)).text).body, 'thanks');
    const stops = await limited.connect(host);
    stops.write(`${head}ab`);
    isError(parseResponse((await within(4_000, readUntilClosed(stops))).text), 408, 'request_timeout');
  });

  test('a target that is not connected in time', async () => {
    const limited = await use(
      createProxyWorld({
        limits: { connectTimeoutMs: 200 },
        legOptions: { runnerHandlers: { onStream: () => undefined } },
      }),
    );
    limited.expose(3000);
    isError(await within(2_000, get(limited, 3000)), 504, 'upstream_connect_timeout');
    const host = limited.host(3000);
    const post = `POST / HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx`;
    isError(await within(2_000, exchangeBytes(limited, host, post)), 504, 'upstream_connect_timeout');
  });

  test('who may not, and what is not there, reaches no upstream', async () => {
    const upstream = await use(httpUpstream((_request, response) => void response.end()));
    world.expose(upstream.port, { admission: 'organization' });
    isError(await get(world, upstream.port), 401, 'port_token_required');
    isError(await get(world, 1_024), 404, 'port_not_exposed');
    const elsewhere = world.host(upstream.port, { environmentId: 'other' });
    const request = `GET / HTTP/1.1\r\nHost: ${elsewhere}\r\nConnection: close\r\n\r\n`;
    isError(await exchangeBytes(world, elsewhere, request), 404, 'unknown_environment');
    world.route = () => Promise.reject(new Error('the directory is away'));
    isError(await get(world, upstream.port), 503, 'directory_unavailable');
    world.route = undefined;
    assert.equal(upstream.connections(), 0);
  });

  test('a request that comes back is a loop; a chain of applications is none', async () => {
    const upstream = await use(
      httpUpstream((request, response) => void response.end(String(request.headers['gitpod-gateway-hops']))),
    );
    world.expose(upstream.port);
    const label = `${upstream.port}--demo`;
    isError(await get(world, upstream.port, '/', `Gitpod-Gateway-Hops: ${label}\r\n`), 508, 'loop');
    const many = Array.from({ length: 8 }, (_, index) => `${3000 + index}--other`).join(', ');
    isError(await get(world, upstream.port, '/', `gitpod-gateway-hops: ${many}\r\n`), 508, 'loop');
    assert.equal(upstream.connections(), 0);
    const chained = await get(world, upstream.port, '/', 'gitpod-gateway-hops: 3000--other\r\n');
    assert.equal(chained.body, `3000--other, ${label}`);
  });

  test('a kept connection that the upstream closes: a GET goes out again, a POST never twice', async () => {
    let posts = 0;
    const upstream = await use(
      rawApplication((socket) => {
        let served = 0;
        socket.on('data', (chunk) => {
          if (chunk.toString().startsWith('POST')) posts += 1;
          if (served++ > 0) return socket.destroy();
          socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
        });
      }),
    );
    world.expose(upstream.port);
    const host = world.host(upstream.port);
    assert.equal((await get(world, upstream.port)).body, 'ok');
    assert.equal((await get(world, upstream.port)).body, 'ok');
    const post = `POST / HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`;
    isError(await exchangeBytes(world, host, post), 502, 'upstream_reset');
    assert.equal(posts, 1);
  });

  test('a leg that drains, closes or is lost: the next one serves', async () => {
    const two = await worldWith({}, 2);
    const upstream = await use(httpUpstream((_request, response) => void response.end('ok')));
    two.expose(upstream.port);
    two.legs[0]!.dialer.drain();
    assert.equal((await get(two, upstream.port)).body, 'ok');
    const { exchange } = await two.ended();
    assert.equal(exchange.record.legId, two.legs[1]!.gateway.id);
    const host = two.host(upstream.port);
    const post = `POST / HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx`;
    assert.equal((await exchangeBytes(two, host, post)).body, 'ok');
    // The kept connection of the second leg goes with it.
    two.legs[1]!.gateway.abort('lost');
    await two.addLeg();
    assert.equal((await get(two, upstream.port)).body, 'ok');
    await two.legs[1]!.gateway.closed;
    assert.ok(two.forwarder.stats().upstreamConnections <= 1);
  });

  test('a leg that is lost under a request: 502 before the head, cut after it, 503 next', async () => {
    const lonely = await worldWith({});
    const upstream = await use(
      httpUpstream((request, response) => {
        if (request.url === '/begun') response.write('begun');
      }),
    );
    lonely.expose(upstream.port);
    const host = lonely.host(upstream.port);
    const seen = once(upstream.server, 'request');
    const before = get(lonely, upstream.port, '/silent');
    const client = await lonely.connect(host);
    client.write(`GET /begun HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    await Promise.all([seen, readUntil(client, 'begun')]);
    const rest = readUntilClosed(client);
    lonely.legs[0]!.gateway.abort('lost');
    isError(await within(PASSED_ON_MS, before), 502, 'tunnel_lost');
    assert.equal((await within(PASSED_ON_MS, rest)).text.includes('0\r\n\r\n'), false);
    const offline = await get(lonely, upstream.port);
    isError(offline, 503, 'runner_offline');
    assert.deepEqual(valuesOf(offline, 'retry-after'), ['5']);
  });

  test('a client that does not read holds back its own upstream and nobody else', async () => {
    let written = 0;
    let wroteAt = performance.now();
    const upstream = await use(
      httpUpstream((_request, response) => {
        const chunk = Buffer.alloc(64 << 10);
        const more = (): void => {
          do {
            written += chunk.length;
            wroteAt = performance.now();
          } while (response.write(chunk) && written < 512 << 20);
          response.once('drain', more);
        };
        more();
        response.on('error', () => undefined);
      }),
    );
    const quiet = await use(httpUpstream((_request, response) => void response.end('quiet')));
    world.expose(upstream.port);
    world.expose(quiet.port);
    const host = world.host(upstream.port);
    const client = await world.connect(host);
    client.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    client.pause();
    await once(upstream.server, 'request');
    while (performance.now() - wroteAt < QUIET_MS) {
      assert.equal((await get(world, quiet.port)).body, 'quiet');
    }
    assert.ok(written < 24 << 20, `${written} bytes went out`);
    client.destroy();
  });

  test('a client that takes nothing for too long is cut', async () => {
    const limited = await worldWith({ stalledStreamTimeoutMs: 500 });
    const upstream = await use(
      httpUpstream((_request, response) => {
        response.on('error', () => undefined);
        response.end(Buffer.alloc(64 << 20));
      }),
    );
    limited.expose(upstream.port);
    const host = limited.host(upstream.port);
    const client = await limited.connect(host);
    const seen = once(upstream.server, 'request') as Promise<[{ socket: Socket }]>;
    client.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    client.pause();
    const [{ socket }] = await seen;
    await within(4_000, closed(socket));
    client.destroy();
  });

  test('a stream on which nothing moves is cut in the end', async () => {
    const limited = await worldWith({ idleStreamTimeoutMs: 400 });
    const upstream = await use(httpUpstream((_request, response) => void response.write('begun')));
    limited.expose(upstream.port);
    const host = limited.host(upstream.port);
    const client = await limited.connect(host);
    client.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    await readUntil(client, 'begun');
    assert.equal((await within(2_000, readUntilClosed(client))).text.includes('0\r\n\r\n'), false);
  });

  test('limits: requests of an environment, connections to a target, streams of an environment', async () => {
    let release: (() => void)[] = [];
    const upstream = await use(
      httpUpstream((request, response) => {
        if (request.url === '/held') release.push(() => response.end('held'));
        else response.end('ok');
      }),
    );
    const hold = async (limited: ProxyWorld): Promise<{ readonly answer: Promise<PlainResponse> }> => {
      limited.expose(upstream.port);
      const seen = once(upstream.server, 'request');
      const answer = get(limited, upstream.port, '/held');
      await seen;
      return { answer };
    };
    const letGo = (): void => {
      for (const go of release) go();
      release = [];
    };

    const requests = await worldWith({ requestsInFlightPerEnvironment: 1 });
    const first = await hold(requests);
    isError(await get(requests, upstream.port), 429, 'too_many_requests');
    letGo();
    assert.equal((await first.answer).body, 'held');

    const connections = await worldWith({ connectionsPerTarget: 1, connectTimeoutMs: 5_000 });
    const second = await hold(connections);
    const waiting = get(connections, upstream.port);
    letGo();
    assert.equal((await second.answer).body, 'held');
    assert.equal((await waiting).body, 'ok');

    const impatient = await worldWith({ connectionsPerTarget: 1, connectTimeoutMs: 200 });
    const third = await hold(impatient);
    isError(await get(impatient, upstream.port), 503, 'overloaded');
    letGo();
    assert.equal((await third.answer).body, 'held');

    const streams = await worldWith({ streamsPerEnvironment: 1 });
    const fourth = await hold(streams);
    isError(await get(streams, upstream.port), 429, 'too_many_requests');
    letGo();
    assert.equal((await fourth.answer).body, 'held');
  });

  test('close cuts what is in flight and takes nothing more', async () => {
    const ending = await worldWith({});
    const upstream = await use(httpUpstream(() => undefined));
    ending.expose(upstream.port);
    const seen = once(upstream.server, 'request');
    const answer = get(ending, upstream.port);
    await seen;
    await ending.forwarder.close();
    isError(await answer, 503, 'draining');
    isError(await get(ending, upstream.port), 503, 'draining');
    await ending.forwarder.close();
    assert.equal(ending.forwarder.stats().upstreamConnections, 0);
  });
});
