/** Log hosts at the gateway: who may read, what passes, and what a client sees when the way is gone. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { appendFile } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { request as httpsRequest } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { after, before, beforeEach, describe, it } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { LOGS_COOKIE } from '../../gateway/src/access/log-access.ts';
import { TOKEN_LIFETIME_MS } from '../../gateway/src/access/tokens.ts';
import { LOGS_DOMAIN, LOGS_HOST, createLogsWorld, type LogsWorld } from '../support/logs-world.ts';
import type { Answer } from '../support/gateway.ts';
import { createManualClock, type ManualClock } from '../support/manual-clock.ts';

const LOG = 'one\ntwo\nthree\n';
let world: LogsWorld;
before(async () => {
  world = await createLogsWorld({ log: LOG });
});
after(() => world.close());
beforeEach(() => {
  world.upstream = undefined;
});

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const errorOf = ({ body }: Answer): string => (JSON.parse(body) as { error: { code: string } }).error.code;
const statusAndCode = (answer: Answer): [number, string] => [answer.status, errorOf(answer)];
/** The answer without what differs between any two requests. */
const comparable = ({ status, headers, body }: Answer): string =>
  JSON.stringify([status, { ...headers, 'x-request-id': '', date: '' }, body]).replaceAll(/[0-9a-f]{32}/g, 'ID');

/** A response that stays open: what has come of it, and its end. */
const follow = async (path: string, token: string, headers: Record<string, string> = {}) => {
  const request = httpsRequest({
    host: '127.0.0.1',
    port: world.port,
    servername: LOGS_HOST,
    path,
    agent: false,
    rejectUnauthorized: false,
    headers: { host: `${LOGS_HOST}:${world.port}`, ...bearer(token), ...headers },
  });
  request.end();
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  let text = '';
  const waiting = new Set<() => void>();
  response.setEncoding('latin1').on('data', (chunk: string) => {
    text += chunk;
    for (const look of waiting) look();
  });
  const ended = new Promise<'end' | 'cut'>((resolve) => {
    response.on('error', () => undefined);
    response.once('close', () => resolve(response.complete ? 'end' : 'cut'));
  });
  return {
    response,
    text: () => text,
    ended,
    until: (part: string) =>
      new Promise<void>((resolve) => {
        const look = (): void => {
          if (!text.includes(part)) return;
          waiting.delete(look);
          resolve();
        };
        waiting.add(look);
        look();
      }),
    close: () => request.destroy(),
  };
};

describe('the log host', () => {
  it('gives the log to who shows a token of scope logs', async () => {
    const token = await world.token();
    const answer = await world.request('/logs?follow=false', { headers: bearer(token) });
    assert.deepEqual([answer.status, answer.body], [200, LOG]);
    assert.equal(answer.headers['log-offset'], '0');
    assert.match(answer.headers['content-type']!, /^text\/plain/);
    assert.equal(answer.headers['cache-control'], 'no-store');
    const events = await world.request('/logs?follow=false&tail=1', {
      headers: { ...bearer(token), accept: 'text/event-stream' },
    });
    assert.match(events.body, /data: three\nid: 14\n\n/);
    const head = await world.request('/logs', { method: 'HEAD', headers: bearer(token) });
    assert.deepEqual([head.status, head.body, head.headers['log-offset']], [200, '', '0']);
  });

  it('answers 401 without a token or with a wrong one, the same for environments that do not exist', async () => {
    const unknown = `22999--nobody.${LOGS_DOMAIN}`;
    for (const [headers, code, challenge] of [
      [{}, 'token_required', 'Bearer realm="gateway"'],
      [bearer('nonsense'), 'token_invalid', 'Bearer realm="gateway", error="invalid_token"'],
      [{ authorization: 'Basic YTpi' }, 'token_invalid', 'Bearer realm="gateway", error="invalid_token"'],
    ] as const) {
      for (const path of ['/logs', '/', '/metrics', '/logs/', '/%6cogs']) {
        const answer = await world.request(path, { headers });
        assert.deepEqual(statusAndCode(answer), [401, code]);
        assert.equal(answer.headers['www-authenticate'], challenge);
        assert.match(answer.body, /"message":"[A-Z].{20,}\."/);
        assert.equal(comparable(answer), comparable(await world.request(path, { headers, host: unknown })));
      }
    }
    world.upstream = (_request, response) => void response.end('reached');
    for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'HEAD']) {
      assert.equal((await world.request('/logs', { method })).status, 401, method);
    }
  });

  it('answers 403 to a token for another environment or another scope', async () => {
    const wrong = [
      await world.token({ environmentId: 'other' }),
      await world.token({ scope: 'ops' }),
      await world.token({ scope: 'port', port: 3000 }),
    ];
    for (const token of wrong) {
      const answer = await world.request('/logs', { headers: bearer(token) });
      assert.deepEqual(statusAndCode(answer), [403, 'token_forbidden']);
      assert.match(answer.headers['www-authenticate']!, /insufficient_scope/);
    }
    world.upstream = (_request, response) => void response.end('reached');
    for (const token of [await world.token(), wrong[0]!, wrong[2]!]) {
      assert.equal((await world.request('/status', { headers: bearer(token) })).status, 403);
    }
    const elsewhere = await world.request('/logs', {
      host: `22999--nobody.${LOGS_DOMAIN}`,
      headers: bearer(await world.token()),
    });
    assert.equal(elsewhere.status, 403);
  });

  it('answers 404 for an environment that does not exist, but only to who has a token for it', async () => {
    const answer = await world.request('/logs', {
      host: `22999--nobody.${LOGS_DOMAIN}`,
      headers: bearer(await world.token({ environmentId: 'nobody' })),
    });
    assert.deepEqual(statusAndCode(answer), [404, 'unknown_environment']);
  });

  it('has nothing but the log where the tunnel client serves it', async () => {
    const ops = bearer(await world.token({ scope: 'ops' }));
    for (const path of ['/', '/logs/', '/Logs', '/logs;x', '/%6cogs', '//logs', '/logs/../status']) {
      assert.deepEqual(statusAndCode(await world.request(path, { headers: ops })), [404, 'not_found'], path);
    }
    const post = await world.request('/logs', { method: 'POST', headers: bearer(await world.token()), payload: 'x' });
    assert.deepEqual([...statusAndCode(post), post.headers['allow']], [405, 'method_not_allowed', 'GET, HEAD']);
  });

  it('is at no other host', async () => {
    const token = bearer(await world.token());
    assert.equal((await world.request('/logs', { host: `22999s--demo.${LOGS_DOMAIN}`, headers: token })).status, 404);
    for (const host of [
      `022999--demo.${LOGS_DOMAIN}`,
      `a.22999--demo.${LOGS_DOMAIN}`,
      `22999--demo--x.${LOGS_DOMAIN}`,
    ]) {
      assert.equal((await world.request('/logs', { host, headers: token })).status, 404, host);
    }
  });
});

describe('a log server of the environment', () => {
  it('is passed through untouched: redirects, errors, and what it says meanwhile', async () => {
    const seen: IncomingMessage[] = [];
    world.upstream = (request, response) => {
      seen.push(request);
      const status = Number(new URL(request.url!, 'http://x').searchParams.get('status') ?? 200);
      if (status === 307 || status === 308) response.setHeader('Location', 'https://elsewhere.test/logs?part=1');
      response.setHeader('X-Own', 'a, b');
      response.setHeader('Set-Cookie', ['own=1; Path=/', `${LOGS_COOKIE}=planted; Secure; Path=/`]);
      response.writeHead(status, { 'Content-Type': 'text/x-own' });
      response.end(`body of ${status}`);
    };
    const token = await world.token();
    for (const status of [200, 307, 308, 404, 500, 503]) {
      const answer = await world.request(`/logs?status=${status}&x=%2F`, {
        headers: { ...bearer(token), cookie: `a=b; ${LOGS_COOKIE}=secret; c="d e"`, 'x-kept': 'yes' },
      });
      assert.deepEqual([answer.status, answer.body], [status, `body of ${status}`]);
      assert.equal(answer.headers['content-type'], 'text/x-own');
      assert.equal(answer.headers['x-own'], 'a, b');
      assert.deepEqual(answer.headers['set-cookie'], ['own=1; Path=/']);
      assert.equal(
        answer.headers.location,
        status < 310 && status > 300 ? 'https://elsewhere.test/logs?part=1' : undefined,
      );
      assert.equal(answer.headers['gateway-error'], undefined);
      const request = seen.pop()!;
      assert.equal(request.url, `/logs?status=${status}&x=%2F`);
      assert.equal(request.headers.host, `${LOGS_HOST}:${world.port}`);
      assert.equal(request.headers['x-kept'], 'yes');
      assert.equal(request.headers.cookie, 'a=b; c="d e"');
      assert.equal(request.headers.authorization, undefined);
      assert.ok(!request.rawHeaders.join('\n').includes(token));
    }
  });

  it('streams, piece by piece', async () => {
    const pieces: ((text: string) => void)[] = [];
    world.upstream = (_request, response) => {
      response.writeHead(200, { 'Content-Type': 'text/plain' });
      response.flushHeaders();
      pieces.push((text) => void (text === '' ? response.end() : response.write(text)));
    };
    const log = await follow('/logs', await world.token());
    pieces[0]!('half a li');
    await log.until('half a li');
    pieces[0]!('ne\n');
    await log.until('line\n');
    pieces[0]!('');
    assert.equal(await log.ended, 'end');
    assert.equal(log.text(), 'half a line\n');
  });

  it('is reached on its other paths with a token of scope ops, WebSockets too', async () => {
    world.upstream = (request, response) => {
      const hash = createHash('sha256');
      request.on('data', (chunk: Buffer) => hash.update(chunk));
      request.on('end', () => response.end(`${request.method} ${request.url} ${hash.digest('hex')}`));
    };
    const ops = await world.token({ scope: 'ops' });
    const payload = Buffer.alloc(300_000, 'x');
    const answer = await world.request('/tasks/1?a=b', { method: 'POST', headers: bearer(ops), payload });
    assert.equal(answer.body, `POST /tasks/1?a=b ${createHash('sha256').update(payload).digest('hex')}`);
    // Not with the viewer's cookie, whatever its token.
    for (const token of [ops, await world.token()]) {
      const headers = { cookie: `${LOGS_COOKIE}=${token}`, 'sec-fetch-site': 'same-origin' };
      assert.equal((await world.request('/tasks/1', { headers })).status, 401);
    }
    const upgrade = async (headers: string): Promise<string> => {
      const socket = connectTls({
        host: '127.0.0.1',
        port: world.port,
        servername: LOGS_HOST,
        rejectUnauthorized: false,
      });
      socket.write(
        `GET /shell HTTP/1.1\r\nHost: ${LOGS_HOST}:${world.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
          `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${headers}\r\n`,
      );
      const [chunk] = (await once(socket, 'data')) as [Buffer];
      socket.destroy();
      return chunk.toString('latin1').split('\r\n', 1)[0]!;
    };
    assert.match(await upgrade(''), / 401 /);
    assert.match(await upgrade(`Authorization: Bearer ${await world.token()}\r\n`), / 403 /);
    // This server knows no WebSockets, and its answer comes through.
    assert.match(await upgrade(`Authorization: Bearer ${ops}\r\n`), /^HTTP\/1\.1 200 /);
  });
});

describe('the session of the viewer', () => {
  const own = { 'sec-fetch-site': 'same-origin', 'content-type': 'application/json' };
  const post = (token: unknown, headers: Record<string, string> = own): Promise<Answer> =>
    world.request('/_gitpod/logs-session', { method: 'POST', headers, payload: JSON.stringify({ token }) });

  it('is a cookie of this host alone, for as long as the token lives', async () => {
    const token = await world.token();
    const answer = await post(token);
    assert.equal(answer.status, 200);
    const [cookie] = answer.headers['set-cookie']!;
    const [first, ...attributes] = cookie!.split('; ');
    const pair = `${LOGS_COOKIE}=${token}`;
    assert.equal(first, pair);
    assert.deepEqual(attributes.slice(1).sort(), ['HttpOnly', 'Path=/', 'SameSite=Strict', 'Secure']);
    const maxAge = Number(/^Max-Age=(\d+)$/.exec(attributes[0]!)?.[1]);
    assert.ok(maxAge > 3_590 && maxAge <= TOKEN_LIFETIME_MS / 1_000, String(maxAge));
    assert.equal(answer.headers['cache-control'], 'no-store');
    assert.ok(!answer.body.includes(token));
    const { expiresAt, ...session } = JSON.parse(answer.body) as { expiresAt: number };
    assert.deepEqual(session, { environment: 'demo', source: 'builtin' });
    assert.ok(expiresAt > Date.now());

    const headers = { cookie: pair, 'sec-fetch-site': 'same-origin' };
    assert.equal((await world.request('/logs?follow=false', { headers })).body, LOG);
    assert.equal((await world.request('/_gitpod/logs-session', { headers })).status, 200);
    for (const site of ['same-site', 'cross-site']) {
      const other = { cookie: pair, 'sec-fetch-site': site };
      assert.equal((await world.request('/logs', { headers: other })).status, 401, site);
      assert.equal((await world.request('/_gitpod/logs-session', { headers: other })).status, 401, site);
    }
    assert.equal((await world.request('/logs', { headers: { cookie: pair } })).status, 401);
  });

  it('is refused to wrong tokens, other sites and what is no token', async () => {
    const token = await world.token();
    assert.deepEqual(statusAndCode(await post(token, { ...own, 'sec-fetch-site': 'same-site' })), [
      403,
      'cross_origin',
    ]);
    assert.deepEqual(statusAndCode(await post(token, { ...own, 'sec-fetch-site': 'cross-site' })), [
      403,
      'cross_origin',
    ]);
    assert.deepEqual(statusAndCode(await post(token, {})), [403, 'cross_origin']);
    assert.deepEqual(statusAndCode(await post('nonsense')), [401, 'token_invalid']);
    assert.deepEqual(statusAndCode(await post(await world.token({ scope: 'ops' }))), [403, 'token_forbidden']);
    assert.deepEqual(statusAndCode(await post(await world.token({ environmentId: 'other' }))), [
      403,
      'token_forbidden',
    ]);
    assert.deepEqual(statusAndCode(await post(['a'])), [400, 'bad_request']);
    assert.deepEqual(statusAndCode(await post('')), [400, 'bad_request']);
    assert.deepEqual(statusAndCode(await post('x'.repeat(5_000))), [413, 'body_too_large']);
    const broken = await world.request('/_gitpod/logs-session', { method: 'POST', headers: own, payload: `{${token}` });
    assert.deepEqual(statusAndCode(broken), [400, 'bad_request']);
    for (const answer of [broken, await post('nonsense')]) assert.equal(answer.headers['set-cookie'], undefined);
    const put = await world.request('/_gitpod/logs-session', { method: 'PUT', headers: own });
    assert.equal(put.status, 405);
    assert.equal((await world.request('/_gitpod/other', { headers: bearer(token) })).status, 404);
  });

  it('downloads the log as a file', async () => {
    const headers = { cookie: `${LOGS_COOKIE}=${await world.token()}`, 'sec-fetch-site': 'same-origin' };
    const answer = await world.request('/_gitpod/logs-download', { headers });
    assert.deepEqual([answer.status, answer.body], [200, LOG]);
    assert.equal(answer.headers['content-disposition'], 'attachment; filename="demo.log"');
    assert.equal((await world.request('/_gitpod/logs-download')).status, 401);
    assert.equal((await world.request('/_gitpod/logs-download', { method: 'POST', headers })).status, 405);
  });
});

describe('the page', () => {
  const navigation = { 'sec-fetch-mode': 'navigate', 'sec-fetch-site': 'cross-site', accept: 'text/html' };

  it('asks for a token, within a policy that lets nothing else in, and says nothing of the environment', async () => {
    const answer = await world.request('/logs', { headers: navigation });
    assert.equal(answer.status, 401);
    assert.match(answer.headers['content-type']!, /^text\/html/);
    assert.equal(answer.headers['www-authenticate'], 'Bearer realm="gateway"');
    assert.equal(answer.headers['cache-control'], 'no-store');
    assert.equal(answer.headers['referrer-policy'], 'no-referrer');
    const policy = String(answer.headers['content-security-policy']);
    assert.match(policy, /^default-src 'none'; /);
    assert.doesNotMatch(policy, /unsafe|https?:|\*/);
    assert.match(policy, /frame-ancestors 'none'/);
    const script = /<script>([^]*)<\/script>/.exec(answer.body)![1]!;
    assert.ok(policy.includes(createHash('sha256').update(script).digest('base64')));
    const host = `22999--nobody.${LOGS_DOMAIN}`;
    const nobody: Answer = await world.request('/logs', { host, headers: navigation });
    assert.equal(
      comparable(answer).replaceAll('demo', 'X'),
      comparable(nobody)
        .replaceAll('nobody', 'X')
        .replace(/"content-length":"\d+"/, `"content-length":"${answer.headers['content-length']}"`),
    );
  });

  it('is the viewer for who has a session, and the log itself for a program that sends a token', async () => {
    const token = await world.token();
    const headers = { ...navigation, 'sec-fetch-site': 'none', cookie: `${LOGS_COOKIE}=${token}` };
    const answer = await world.request('/logs', { headers });
    assert.equal(answer.status, 200);
    assert.match(answer.body, /&#34;source&#34;:&#34;builtin&#34;/);
    assert.ok(!answer.body.includes(token));
    const head = await world.request('/logs', { method: 'HEAD', headers });
    assert.deepEqual([head.status, head.body], [200, '']);
    const program = await world.request('/logs?follow=false', { headers: { accept: 'text/html', ...bearer(token) } });
    assert.equal(program.body, LOG);
  });
});

describe('when the way to the log is gone', () => {
  it('answers 502, which log clients try again', async () => {
    const token = bearer(await world.token());
    const [leg] = world.legs;
    leg!.gateway.abort('closed');
    await leg!.gateway.closed;
    const offline = await world.request('/logs', { headers: token });
    assert.deepEqual(statusAndCode(offline), [502, 'logs_unreachable']);
    assert.equal(offline.headers['retry-after'], '1');
    await world.addLeg();
    for (const refusal of ['refused', 'timeout', 'unknown_environment', 'not_exposed', 'draining'] as const) {
      world.refuse = refusal;
      assert.deepEqual(
        statusAndCode(await world.request('/logs', { headers: token })),
        [502, 'logs_unreachable'],
        refusal,
      );
    }
    world.refuse = undefined;
    assert.equal((await world.request('/logs?follow=false', { headers: token })).status, 200);
  });

  it('ends plain text behind a line, and since= goes on exactly there, through one lost leg after another', async () => {
    const token = await world.token();
    let offset: number | undefined;
    let read = '';
    let written = LOG;
    for (let round = 0; round < 4; round++) {
      const log = await follow(offset === undefined ? '/logs' : `/logs?since=${offset}`, token);
      offset ??= Number(log.response.headers['log-offset']);
      assert.equal(Number(log.response.headers['log-offset']), offset);
      // The last piece is no whole line when the leg is cut.
      const lines = Array.from({ length: 2_000 }, (_, index) => `round ${round}, line ${index} äöü\n`).join('');
      await appendFile(world.logFile, lines);
      written += lines;
      await log.until(`round ${round}, line 1`);
      await world.addLeg();
      world.legs.at(-2)!.gateway.abort('closed');
      assert.equal(await log.ended, 'end', 'a clean end');
      assert.ok(log.text().endsWith('\n'));
      read += log.text();
      offset += log.text().length;
    }
    const rest = await world.request(`/logs?follow=false&since=${offset}`, { headers: bearer(token) });
    assert.equal(Buffer.from(read, 'latin1').toString('utf8') + rest.body, written);
  });

  it('lets an event stream go on behind its last id', async () => {
    const token = await world.token();
    const events = { accept: 'text/event-stream' };
    const first = await follow('/logs?tail=1', token, events);
    await appendFile(world.logFile, 'before\n');
    await first.until('data: before');
    await world.addLeg();
    world.legs.at(-2)!.gateway.abort('closed');
    await first.ended;
    await appendFile(world.logFile, 'meanwhile\n');
    const lastId = [...first.text().matchAll(/^id: (\d+)\n\n/gm)].at(-1)![1]!;
    const second = await follow('/logs', token, { ...events, 'last-event-id': lastId });
    await second.until('data: meanwhile');
    assert.deepEqual(
      [...second.text().matchAll(/^data: (.*)$/gm)].map(([, line]) => line),
      ['meanwhile'],
    );
    second.close();
    await second.ended;
  });

  it('cuts a response that was to end by itself, so that nobody takes the part for the whole', async () => {
    const big = await createLogsWorld({ log: 'a line of a log\n'.repeat(500_000) });
    try {
      const token = await big.token();
      const outer = world;
      world = big;
      const log = await follow('/logs?follow=false', token);
      log.response.pause();
      big.legs[0]!.gateway.abort('closed');
      log.response.resume();
      assert.equal(await log.ended, 'cut');
      world = outer;
    } finally {
      await big.close();
    }
  });
});

describe('the keys of tokens', () => {
  it('change while requests go on, and none of them fails; in the end the old key is refused', async () => {
    const clock: ManualClock = createManualClock(Date.now());
    const other = await createLogsWorld({ clock, log: LOG });
    try {
      const status = async (token: string) =>
        (await other.request('/logs?follow=false', { headers: bearer(token) })).status;
      const old = await other.token();
      let isRotated = false;
      const statuses: number[] = [];
      const load = (async () => {
        for (let after = 0; after < 10; after += isRotated ? 1 : 0) statuses.push(await status(old));
      })();
      await other.directory.rotateKeys('token');
      const fresh = await other.token();
      statuses.push(await status(fresh));
      isRotated = true;
      await load;
      assert.deepEqual([...new Set(statuses)], [200]);
      await other.directory.rotateKeys('token', { void: true });
      assert.deepEqual([await status(old), await status(fresh), await status(await other.token())], [401, 401, 200]);
      const expiring = await other.token();
      await clock.advance(TOKEN_LIFETIME_MS + 31_000);
      const answer = await other.request('/logs', { headers: bearer(expiring) });
      assert.deepEqual(statusAndCode(answer), [401, 'token_expired']);
    } finally {
      await other.close();
    }
  });
});

it('no token is in any line of the log', () => {
  const text = JSON.stringify(world.lines);
  assert.ok(world.lines.length > 0);
  assert.doesNotMatch(text, /eyJ|Bearer [a-zA-Z]|gitpod_logs=/);
});
