/**
 * Requests that must not do harm, over the whole way. A refusal counts only if the application saw no byte of it; and a
 * quiet environment beside the attack is served as before.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { ClientHttp2Stream } from 'node:http2';
import { after, afterEach, before, describe, it } from 'node:test';
import { connectRunner } from '../../tunnel-client/src/client.ts';
import { DOMAIN, startTestGateway } from '../support/gateway.ts';
import { startTestRunner } from '../support/runner.ts';
import { httpApplication, rawApplication, type Application } from '../support/applications.ts';
import { readUntilClosed } from '../support/sockets.ts';
import { portHost, requestText, startWholeWay, type WholeWay } from '../support/whole-way.ts';

interface RawAnswer {
  readonly status: number;
  readonly lines: readonly string[];
  readonly body: string;
}
const valuesOf = ({ lines }: RawAnswer, name: string): string[] =>
  lines.filter((line) => line.toLowerCase().startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim());

describe('a request', { timeout: 60_000 }, () => {
  let way: WholeWay;
  let attacked: Application;
  let quiet: Application;
  let host: string;
  let authority: string;
  const seen: IncomingMessage[] = [];
  before(async () => {
    attacked = await httpApplication((request, response) => {
      seen.push(request);
      response.end(`attacked ${request.url}`);
    });
    attacked.server.on('upgrade', (request, socket) => {
      seen.push(request);
      socket.end('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    });
    quiet = await httpApplication((_request, response) => response.end('quiet'));
    way = await startWholeWay();
    await way.expose('attacked', [attacked.port]);
    await way.expose('quiet', [quiet.port]);
    await way.expose('private', [{ port: attacked.port, admission: 'creator_only' }]);
    host = portHost('attacked', attacked.port);
    authority = `${host}:${way.gateway.httpsPort}`;
  });
  afterEach(async () => {
    const answer = await way.gateway.request(portHost('quiet', quiet.port));
    assert.deepEqual([answer.status, answer.body], [200, 'quiet']);
  });
  after(async () => {
    await way.close();
    await Promise.all([attacked.close(), quiet.close()]);
  });

  const send = async (text: string, serverName = host): Promise<RawAnswer> => {
    const socket = await way.connect(serverName);
    socket.write(text, 'latin1');
    const { text: answer } = await readUntilClosed(socket);
    const end = answer.indexOf('\r\n\r\n');
    const [statusLine = '', ...lines] = answer.slice(0, end).split('\r\n');
    return { status: Number(statusLine.split(' ')[1]), lines, body: answer.slice(end + 4) };
  };
  /** The gateway answers by itself, with `code`, and nothing comes to the application. */
  const refused = async (
    what: string,
    text: string,
    status: number,
    code: string,
    serverName = host,
  ): Promise<void> => {
    const before = attacked.bytes();
    const answer = await send(text, serverName);
    assert.deepEqual([what, answer.status, valuesOf(answer, 'gateway-error')], [what, status, [code]]);
    assert.deepEqual(valuesOf(answer, 'cache-control'), ['no-store'], what);
    assert.equal(attacked.bytes(), before, what);
  };
  const get = (lines: readonly string[], path = '/'): string =>
    requestText('GET', path, [...lines, 'Connection: close']);

  it('needs one valid Host (row 6)', async () => {
    const { httpsPort } = way.gateway;
    const hosts: readonly (readonly string[])[] = [
      [],
      ['Host:'],
      [`Host: ${authority}`, `Host: ${authority}`],
      [`Host: ${authority}`, 'host: other.example'],
      ...[
        `${host}:`,
        `${host}:0`,
        `${host}:99999`,
        `${host}:-1`,
        `user@${authority}`,
        `${authority}, ${authority}`,
        `${host} :${httpsPort}`,
        `http://${authority}`,
        `${authority}/`,
        `_${authority}`,
        '[::1',
        `.${authority}`,
        `${host}..:${httpsPort}`,
      ].map((value) => [`Host: ${value}`]),
    ];
    for (const lines of hosts) await refused(lines.join(), get(lines), 400, 'bad_host');
  });

  it('in absolute form goes where its Host says, or nowhere (row 7)', async () => {
    const answer = await send(get([`Host: ${authority}`], `https://${authority}/absolute?x=1`));
    assert.deepEqual([answer.status, answer.body], [200, 'attacked /absolute?x=1']);
    assert.equal(seen.at(-1)?.headers.host, authority);
    const targets = [
      `https://${portHost('private', attacked.port)}:${way.gateway.httpsPort}/`,
      'https://other.example/',
      `http://${authority}/`,
      `ftp://${authority}/`,
      `https://${host}/`,
      'authority:443',
    ];
    for (const target of targets) await refused(target, get([`Host: ${authority}`], target), 400, 'bad_request');
  });

  it('cannot take fields away through Connection, also with an upgrade (row 14)', async () => {
    const lines = [
      `Host: ${authority}`,
      'Connection: x-forwarded-for, authorization, cookie, forwarded, host',
      'Authorization: Bearer secret',
      'Cookie: a=1',
      'X-Kept: yes',
      'Keep-Alive: timeout=9',
      'Proxy-Connection: keep-alive',
      'TE: gzip',
    ];
    await send(get(lines));
    const { headers } = seen.at(-1)!;
    assert.deepEqual([headers.authorization, headers.cookie, headers['x-kept']], [undefined, undefined, 'yes']);
    assert.equal(headers['x-forwarded-for'], '127.0.0.1');
    assert.match(headers.forwarded ?? '', /^for=127\.0\.0\.1;host="?[^"]*"?;proto=https$/);
    assert.equal(headers.host, authority);
    for (const name of ['keep-alive', 'proxy-connection', 'te']) assert.equal(headers[name], undefined, name);

    const upgrade = requestText('GET', '/socket', [
      `Host: ${authority}`,
      'Connection: close, Upgrade',
      'connection: X-Forwarded-For, authorization',
      'Upgrade: websocket',
      'Authorization: Bearer secret',
      `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}`,
      'Sec-WebSocket-Version: 13',
    ]);
    const answer = await send(upgrade);
    assert.equal(answer.status, 101);
    const upgraded = seen.at(-1)!;
    assert.deepEqual([upgraded.url, upgraded.headers.authorization], ['/socket', undefined]);
    assert.equal(upgraded.headers['x-forwarded-for'], '127.0.0.1');
    assert.equal(upgraded.headers.connection?.toLowerCase(), 'upgrade');
  });

  it('cannot say for the gateway who it comes from (row 15)', async () => {
    const lines = [
      `Host: ${authority}`,
      'X-Forwarded-For: 192.0.2.66',
      'X-Forwarded-Host: evil.example',
      'X-Forwarded-Proto: gopher',
      'X-Forwarded-Port: 66',
      'X-Forwarded-User: admin',
      'X_Forwarded_For: 192.0.2.66',
      'x-forwarded_for: 192.0.2.66',
      'Forwarded: for=192.0.2.66',
      'X-Real-IP: 192.0.2.66',
      'X_Real_IP: 192.0.2.66',
      'X-Request-Id: 66',
      'Gitpod-Gateway-User: admin',
      'Gitpod_Gateway_User: admin',
      'Proxy: http://evil.example',
    ];
    await send(get(lines));
    const { rawHeaders } = seen.at(-1)!;
    assert.doesNotMatch(rawHeaders.join('\n'), /192\.0\.2\.66|evil|gopher|admin/);
    const names = rawHeaders.filter((_, index) => index % 2 === 0).map((name) => name.toLowerCase());
    assert.equal(new Set(names).size, names.length, names.join());
    const { headers } = seen.at(-1)!;
    assert.deepEqual(
      ['x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-forwarded-port'].map((name) => headers[name]),
      ['127.0.0.1', authority, 'https', String(way.gateway.httpsPort)],
    );
    // Nor can an application speak for the gateway.
    const liar = await rawApplication((socket) => {
      socket.once('data', () =>
        socket.end(
          'HTTP/1.1 200 OK\r\nGateway-Error: internal\r\nGitpod-Gateway-Hops: x\r\nConnection: close\r\n\r\nlies',
        ),
      );
    });
    await way.expose('liar', [liar.port]);
    const answer = await way.gateway.request(portHost('liar', liar.port));
    assert.deepEqual(
      [answer.body, answer.headers['gateway-error'], answer.headers['gitpod-gateway-hops']],
      ['lies', undefined, undefined],
    );
    await liar.close();
  });

  it('brings nothing of its own into a header, by whatever name it asks for (row 16)', async () => {
    const labels: [label: string, status: number, code: string][] = [
      ['3000--a%0d%0aset-cookie:x=1', 400, 'bad_host'],
      ['3000--<script>', 400, 'bad_host'],
      ['3000--a"b', 400, 'bad_host'],
      ['03000--attacked', 404, 'not_found'],
      ['99999--attacked', 404, 'not_found'],
      ['80--attacked', 404, 'not_found'],
      ['3000--a--b', 404, 'not_found'],
      ['3000---a', 404, 'not_found'],
      ['3000--api', 404, 'not_found'],
      [`3000--${'a'.repeat(51)}`, 404, 'not_found'],
      ['22999s--attacked', 404, 'not_found'],
    ];
    for (const [label, status, code] of labels) {
      const name = `${label}.${DOMAIN}`;
      await refused(label, get([`Host: ${name}`, 'Accept: text/html']), status, code);
      const answer = await send(get([`Host: ${name}`, 'Accept: text/html', 'Sec-Fetch-Mode: navigate']));
      assert.ok(!answer.lines.some((line) => line.includes(label) || /^set-cookie/i.test(line)), label);
      assert.ok(!answer.body.includes('<script>alert') && !answer.body.includes(`${label}<`), label);
    }
  });

  it('is judged by its own host, whatever the server name of its connection is (row 36)', async () => {
    const other = portHost('quiet', quiet.port);
    const served = await send(get([`Host: ${authority}`], '/by-host'), other);
    assert.deepEqual([served.status, served.body], [200, 'attacked /by-host']);
    const hidden = `${portHost('private', attacked.port)}:${way.gateway.httpsPort}`;
    await refused('private', get([`Host: ${hidden}`]), 401, 'port_token_required');
    await refused('foreign', get(['Host: 3000--attacked.example.com']), 421, 'misdirected');
    await refused('suffix', get([`Host: ${host}.evil.example`]), 421, 'misdirected');
    await refused('foreign name', get([`Host: ${authority}`]), 421, 'misdirected', 'other.example');
    await refused('tunnel', get([`Host: ${authority}`]), 421, 'misdirected', `tunnel.${DOMAIN}`);
  });

  it('shares an HTTP/2 connection with others, and nothing else (row 37)', async () => {
    const session = await way.connectH2(host);
    const answers = async (stream: ClientHttp2Stream): Promise<[number, string | undefined, string]> => {
      const [headers] = (await once(stream, 'response')) as [Record<string, string>];
      const chunks: Buffer[] = [];
      for await (const chunk of stream) chunks.push(chunk as Buffer);
      return [Number(headers[':status']), headers['gateway-error'], Buffer.concat(chunks).toString()];
    };
    const name = (environmentId: string, port: number): string =>
      `${portHost(environmentId, port)}:${way.gateway.httpsPort}`;
    const ask = (of: string, path: string, headers: Record<string, string> = {}) =>
      answers(session.request({ ':authority': of, ':path': path, ...headers }, { endStream: true }));
    const requestsOfQuiet: IncomingMessage[] = [];
    quiet.server.on('request', (request: IncomingMessage) => requestsOfQuiet.push(request));
    const hidden = attacked.connections();
    const [a, b, c] = await Promise.all([
      ask(authority, '/coalesced-a', { authorization: 'Bearer of-a', cookie: 'session=of-a' }),
      ask(name('quiet', quiet.port), '/coalesced-b'),
      ask(name('private', attacked.port), '/coalesced-c', { authorization: 'Bearer of-a', cookie: 'session=of-a' }),
    ]);
    assert.deepEqual([a[0], a[2]], [200, 'attacked /coalesced-a']);
    assert.deepEqual([b[0], b[2]], [200, 'quiet']);
    assert.deepEqual([c[0], c[1]], [401, 'port_token_required']);
    assert.ok(attacked.connections() - hidden <= 1);
    assert.ok(!seen.some(({ url }) => url === '/coalesced-c'));
    assert.doesNotMatch(requestsOfQuiet.map(({ rawHeaders }) => rawHeaders.join()).join(), /of-a/);
    for (const [path, environmentId] of [
      ['/coalesced-a', 'attacked'],
      ['/coalesced-b', 'quiet'],
      ['/coalesced-c', 'private'],
    ]) {
      const line = await way.gateway.waitFor((each) => each.msg === 'request' && each['path'] === path);
      assert.equal(line['environmentId'], environmentId);
    }
    session.close();
  });

  it('by a twisted name is the same host, or none (row 38)', async () => {
    const { httpsPort } = way.gateway;
    for (const name of [host.toUpperCase(), `${host}.`, `${host.toUpperCase()}.`]) {
      const answer = await send(get([`Host: ${name}:${httpsPort}`]));
      assert.deepEqual([name, answer.status], [name, 200]);
    }
    const names: [name: string, status: number, code: string][] = [
      [`${host}:${httpsPort === 444 ? 445 : 444}`, 400, 'bad_host'],
      [`${host}..`, 400, 'bad_host'],
      [`${attacked.port}--attäcked.${DOMAIN}`, 400, 'bad_host'],
      [`${attacked.port}--att%61cked.${DOMAIN}`, 400, 'bad_host'],
      [`${attacked.port}--xn--attcked-5wa.${DOMAIN}`, 404, 'not_found'],
      [`${attacked.port}--${'a'.repeat(64)}.${DOMAIN}`, 400, 'bad_host'],
      [`deeper.${host}`, 404, 'not_found'],
      [`a.b.${DOMAIN}`, 404, 'not_found'],
    ];
    for (const [name, status, code] of names) await refused(name, get([`Host: ${name}`]), status, code);
  });

  it('is answered by the application each time, and never from memory (row 55)', async () => {
    let count = 0;
    const counting = await httpApplication((_request, response) => {
      response.setHeader('cache-control', 'public, max-age=3600');
      response.setHeader('etag', '"same"');
      response.end(`answer ${++count}`);
    });
    await way.expose('counting', [counting.port]);
    for (const expected of [1, 2, 3]) {
      const answer = await way.gateway.request(portHost('counting', counting.port), '/same');
      assert.deepEqual([answer.body, answer.headers['cache-control']], [`answer ${expected}`, 'public, max-age=3600']);
    }
    await counting.close();
  });

  it('that an application sends back to itself ends as a loop (row 56)', async () => {
    let arrived = 0;
    let target = '';
    const looping = await httpApplication((request, response) => {
      arrived += 1;
      const again = httpsRequest(
        way.to(target, request.url, { method: request.method ?? 'GET', headers: { ...request.headers } }),
        (answer) => {
          response.writeHead(answer.statusCode ?? 0, { 'x-inner-error': answer.headers['gateway-error'] ?? 'none' });
          answer.pipe(response);
        },
      );
      again.end();
    });
    target = portHost('looping', looping.port);
    await way.expose('looping', [looping.port]);
    const answer = await way.gateway.request(target);
    assert.deepEqual([answer.status, answer.headers['x-inner-error'], arrived], [508, 'loop', 1]);
    await looping.close();
  });

  it('for what is the gateway’s own elsewhere goes to the application on a port host (row 57)', async () => {
    for (const path of ['/metrics', '/status', '/livez', '/readyz', '/_health', '/v1/runners/join', '/v1/gateways']) {
      const answer = await way.gateway.request(host, path);
      assert.deepEqual([answer.status, answer.body], [200, `attacked ${path}`]);
    }
    for (const path of ['/metrics', '/status', '/livez', '/readyz']) {
      for (const name of [DOMAIN, `api.${DOMAIN}`, `tunnel.${DOMAIN}`]) {
        assert.equal((await way.gateway.request(name, path)).status, 404, `${name}${path}`);
      }
    }
  });

  it('with odd bytes ends neither the gateway nor the runner, whatever the application answers (row 58)', async () => {
    const answers: [what: string, answer: string, status: number][] = [
      ['status 999', 'HTTP/1.1 999 odd\r\nContent-Length: 0\r\n\r\n', 999],
      ['status 0', 'HTTP/1.1 000 odd\r\nContent-Length: 0\r\n\r\n', 502],
      ['no HTTP', '\0\x01\x02\xff\r\n\r\n', 502],
      ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab', 502],
      ['NUL in a field', 'HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n', 502],
      ['101 unasked', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n', 502],
      ['large head', `HTTP/1.1 200 OK\r\nX: ${'a'.repeat(64 << 10)}\r\n\r\n`, 502],
    ];
    for (const [what, bytes, status] of answers) {
      const odd = await rawApplication((socket) => {
        socket.once('data', () => socket.end(bytes, 'latin1'));
      });
      await way.expose('odd', [odd.port]);
      const answer = await way.gateway.request(portHost('odd', odd.port));
      assert.deepEqual([what, answer.status], [what, status]);
      await odd.close();
    }
    for (const target of ['/%', '/%zz', '/%00', '/a%2e%2e/..%2f', '/\\', '/?%', '/..', '//', '/;']) {
      const answer = await send(get([`Host: ${authority}`], target));
      assert.deepEqual([target, answer.status, answer.body], [target, 200, `attacked ${target}`]);
    }
    for (const serverName of ['a'.repeat(63), '-', 'xn--', '*.gateway.localhost', 'a_b']) {
      await send(get([`Host: ${authority}`]), serverName).catch(() => undefined);
    }
    assert.equal(way.gateway.gateway.registry.legs().length, 1);
  });
});

describe('a name', () => {
  it('of a runner that is gone is nobody’s (rows 46 to 48)', async () => {
    const gateway = await startTestGateway();
    const owner = await startTestRunner(gateway);
    const own = await httpApplication((_request, response) => response.end('own'));
    const foreign = await httpApplication((_request, response) => response.end('foreign'));
    const host = portHost('taken', 3_000);
    // Another program of another runner listens at the same port number.
    const announce = (runner: typeof owner, port: number) =>
      runner.announce({ id: 'taken', ports: [{ port, admission: 'everyone' }] });
    assert.equal((await announce(owner, own.port)).accepted, true);
    const rival = await startTestRunner(gateway);
    assert.equal((await announce(rival, foreign.port)).code, 'claimed');
    assert.equal((await gateway.request(portHost('taken', own.port))).body, 'own');

    // Same runner id, another key: refused, the live leg stays.
    const line = gateway.waitFor((each) => each['code'] === 'key_mismatch' && each['runnerId'] === owner.id);
    const impostor = connectRunner({
      gateway: gateway.url,
      runnerId: owner.id,
      ca: gateway.ca,
      stateDir: `${gateway.stateDir}/impostor`,
    });
    const [, problem] = await new Promise<[Error, { code: string | undefined }]>((resolve) => {
      impostor.on('error', (error, details) => resolve([error, details]));
    });
    assert.equal(problem.code, 'key_mismatch');
    assert.equal((await line).level, 'warn');
    await impostor.close();
    assert.equal((await gateway.request(portHost('taken', own.port))).body, 'own');

    owner.client.environments.delete('taken');
    await gateway.waitFor((each) => each.msg === 'environments announced' && each['withdrawn'] === 1);
    rival.client.environments.delete('taken');
    assert.equal((await announce(rival, foreign.port)).code, 'claimed');
    for (const port of [own.port, foreign.port]) {
      const answer = await gateway.request(portHost('taken', port));
      assert.deepEqual([answer.status, answer.headers['gateway-error']], [503, 'runner_offline']);
    }
    assert.equal((await gateway.request(host)).status, 503);
    assert.equal(foreign.bytes(), 0);
    await owner.close();
    await rival.close();
    await gateway.close();
    await Promise.all([own.close(), foreign.close()]);
  });
});
