/** Every answer that the gateway gives by itself, in each of its forms; and ports that are not open to everyone. */
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { after, before, describe, it } from 'node:test';
import { DOMAIN, type Answer } from '../support/gateway.ts';
import { startTestRunner, until, type TestRunner } from '../support/runner.ts';
import { httpApplication, type Application } from '../support/applications.ts';
import { portHost, startWholeWay, type WholeWay } from '../support/whole-way.ts';

/** Of the gateway under test; the default is a minute. */
const RESPONSE_HEADER_TIMEOUT_MS = 300;

const FORMS = {
  html: { 'sec-fetch-mode': 'navigate', accept: 'text/html' },
  json: { accept: '*/*', 'user-agent': 'test' },
  text: { accept: '*/*', 'user-agent': 'curl/8.14.1' },
} as const;
type Form = keyof typeof FORMS;

describe('answers of the gateway', { timeout: 60_000 }, () => {
  let way: WholeWay;
  let away: TestRunner;
  let silent: Application;
  let closedPort: number;
  before(async () => {
    silent = await httpApplication(() => undefined);
    way = await startWholeWay({ limits: { responseHeaderTimeoutMs: RESPONSE_HEADER_TIMEOUT_MS } });
    const unused = createServer().listen(0, '127.0.0.1');
    await once(unused, 'listening');
    closedPort = (unused.address() as { port: number }).port;
    unused.close();
    await once(unused, 'close');
    await way.expose('demo', [silent.port, closedPort, { port: 4_000, admission: 'creator_only' }]);
    away = await startTestRunner(way.gateway);
    await away.announce({ id: 'away', ports: [{ port: silent.port, admission: 'everyone' }] });
    await away.client.close();
    await until(() => way.gateway.gateway.registry.legs().length === 1);
  });
  after(async () => {
    await way.close();
    await away.close();
    await silent.close();
  });

  interface Case {
    readonly what: string;
    readonly host: () => string;
    readonly status: number;
    readonly code: string;
    /** What a person reads. */
    readonly says: RegExp;
    readonly retryAfter?: string;
    /** The request was given to the application, which did nothing with it. */
    readonly arrives?: true;
  }
  const cases: readonly Case[] = [
    {
      what: 'unknown environment',
      host: () => portHost('nobody'),
      status: 404,
      code: 'unknown_environment',
      says: /No environment has this address/,
    },
    {
      what: 'known but offline',
      host: () => portHost('away', silent.port),
      status: 503,
      code: 'runner_offline',
      says: /runner is not connected/,
      retryAfter: '5',
    },
    {
      what: 'port not exposed',
      host: () => portHost('demo', 3_001),
      status: 404,
      code: 'port_not_exposed',
      says: /does not expose port 3001/,
    },
    {
      what: 'nothing listens',
      host: () => portHost('demo', closedPort),
      status: 502,
      code: 'upstream_refused',
      says: /may listen on another address.*0\.0\.0\.0/,
      retryAfter: '5',
    },
    {
      what: 'upstream silent',
      host: () => portHost('demo', silent.port),
      status: 504,
      code: 'upstream_timeout',
      says: /did not begin to answer in time/,
      arrives: true,
    },
    {
      what: 'not open to everyone',
      host: () => portHost('demo', 4_000),
      status: 401,
      code: 'port_token_required',
      says: /not open to everyone.*opens with a token only/,
    },
    {
      what: 'malformed host',
      host: () => `a b.${DOMAIN}`,
      status: 400,
      code: 'bad_host',
      says: /missing or malformed/,
    },
    {
      what: 'foreign host',
      host: () => 'demo.example',
      status: 421,
      code: 'misdirected',
      says: /does not serve the host/,
    },
  ];

  const ask = (host: string, form: Form): Promise<Answer> =>
    way.gateway.request(host, '/page?secret=canary', {
      servername: `${portHost('demo')}`,
      headers: { host: `${host}:${way.gateway.httpsPort}`, ...FORMS[form] },
    });
  const bodyOf = (form: Form, { body }: Answer): { code: string; requestId: string; text: string } => {
    if (form === 'json') {
      const { error } = JSON.parse(body) as { error: { code: string; message: string; requestId: string } };
      return { ...error, text: error.message };
    }
    if (form === 'text') {
      return {
        code: /^Code: +(\S+)$/m.exec(body)?.[1] ?? '',
        requestId: /^Request: +(\S+)$/m.exec(body)?.[1] ?? '',
        text: body,
      };
    }
    assert.match(body, /^<!doctype html>/i);
    const text = body
      .replaceAll(/<(style|script)[\s\S]*?<\/\1>/g, '')
      .replaceAll(/<[^>]*>/g, ' ')
      .replaceAll('&quot;', '"');
    return {
      code: /\b[a-z]+_[a-z_]+\b|\bmisdirected\b/.exec(text)?.[0] ?? '',
      requestId: /\b[0-9a-f]{32}\b/.exec(text)?.[0] ?? '',
      text,
    };
  };
  const TYPES: Readonly<Record<Form, string>> = {
    html: 'text/html; charset=utf-8',
    json: 'application/json; charset=utf-8',
    text: 'text/plain; charset=utf-8',
  };

  for (const { what, host, status, code, says, retryAfter, arrives } of cases) {
    it(`${what}: ${status} ${code}, for people, programs and terminals, and in the access log`, async () => {
      for (const form of ['html', 'json', 'text'] as const) {
        const before = silent.bytes();
        const answer = await ask(host(), form);
        assert.deepEqual([answer.status, answer.headers['gateway-error']], [status, code]);
        assert.equal(answer.headers['content-type'], TYPES[form]);
        assert.equal(answer.headers['cache-control'], 'no-store');
        assert.equal(answer.headers['retry-after'], retryAfter);
        assert.equal(answer.headers['www-authenticate'] !== undefined, status === 401);
        const body = bodyOf(form, answer);
        assert.deepEqual([body.code, body.requestId], [code, answer.headers['x-request-id']], form);
        assert.match(body.text, says);
        assert.ok(!answer.body.includes('canary'));
        const line = await way.gateway.waitFor(
          (each) => each['requestId'] === body.requestId && each.msg === 'request',
        );
        assert.deepEqual([line['status'], line['error']], [status, code]);
        if (!arrives) assert.equal(silent.bytes(), before);
      }
    });
  }

  it('come over HTTP/2 as well', async () => {
    const session = await way.connectH2(portHost('demo'));
    for (const { host, status, code } of cases.filter(
      ({ code }) => code !== 'bad_host' && code !== 'upstream_timeout',
    )) {
      const stream = session.request({ ':authority': host(), ':path': '/' }, { endStream: true });
      const [headers] = (await once(stream, 'response')) as [Record<string, string>];
      assert.deepEqual([Number(headers[':status']), headers['gateway-error']], [status, code]);
      stream.resume();
      await once(stream, 'end');
    }
    session.close();
  });

  it('refuse every admission but everyone, and none given, whether the runner is there or not', async () => {
    const application = await httpApplication((_request, response) => response.end('private'));
    const { port } = application;
    for (const admission of ['creator_only', 'organization', undefined] as const) {
      const id = `closed-${(admission ?? 'none').replace('_', '-')}`;
      const runner = await startTestRunner(way.gateway, {
        environments: [{ id, ports: [{ port, ...(admission ? { admission } : {}) }] }],
      });
      await until(() => runner.client.status().environments[0]?.state === 'accepted');
      for (const label of [`${port}`, `${port}s`]) {
        for (const headers of [{}, { authorization: 'Bearer x', cookie: '__Host-gitpod_port_auth=x' }]) {
          const answer = await way.gateway.request(`${label}--${id}.${DOMAIN}`, '/', { headers });
          assert.deepEqual([id, answer.status, answer.headers['gateway-error']], [id, 401, 'port_token_required']);
        }
      }
      // A WebSocket is no way round it.
      const upgrade = await way.gateway.request(`${port}--${id}.${DOMAIN}`, '/', {
        headers: {
          connection: 'upgrade',
          upgrade: 'websocket',
          'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
          'sec-websocket-version': '13',
        },
      });
      assert.equal(upgrade.status, 401);
      await runner.client.close();
      await until(() => way.gateway.gateway.registry.legs().every(({ runnerId }) => runnerId !== runner.id));
      assert.equal((await way.gateway.request(`${port}--${id}.${DOMAIN}`)).status, 401);
      await runner.close();
    }
    assert.equal(application.connections(), 0);
    await application.close();
  });
});
