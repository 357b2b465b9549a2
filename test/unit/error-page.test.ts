import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { buildErrorAnswer, type ErrorAnswerInput } from '../../gateway/src/edge/error-answer.ts';
import { renderErrorPage } from '../../gateway/src/edge/error-page.ts';
import { GATEWAY_ERRORS, type GatewayErrorCode } from '../../gateway/src/errors.ts';
import { escapeHtml } from '../../gateway/src/html.ts';

const requestId = '3f9c2a61b7d84e0fa1c5d2903be47788';
const input = (change: Partial<ErrorAnswerInput> = {}): ErrorAnswerInput => ({
  code: 'upstream_refused',
  requestId,
  host: '3000--demo.gateway.example',
  method: 'GET',
  rawHeaders: [],
  port: 3000,
  environmentId: 'demo',
  now: 0,
  ...change,
});
const headerOf = (answer: ReturnType<typeof buildErrorAnswer>, name: string): string | undefined =>
  answer.headers.find(([candidate]) => candidate.toLowerCase() === name)?.[1];
const formOf = (rawHeaders: readonly string[], method = 'GET'): string | undefined =>
  /html|json|plain/.exec(headerOf(buildErrorAnswer(input({ rawHeaders, method })), 'content-type') ?? '')?.[0];

test('a navigation gets the page, a program JSON, a terminal text', () => {
  const html = ['Accept', 'text/html,*/*;q=0.8'];
  assert.equal(formOf(['Sec-Fetch-Mode', 'navigate']), 'html');
  assert.equal(formOf(['Sec-Fetch-Mode', 'navigate'], 'POST'), 'html');
  assert.equal(formOf(html), 'html');
  assert.equal(formOf(html, 'HEAD'), 'html');
  assert.equal(formOf(html, 'POST'), 'json');
  assert.equal(formOf([...html, 'Sec-Fetch-Mode', 'cors']), 'json');
  assert.equal(formOf([...html, 'Origin', 'https://a.example']), 'json');
  assert.equal(formOf([...html, 'Upgrade', 'websocket']), 'json');
  assert.equal(formOf([...html, 'X-Requested-With', 'XMLHttpRequest']), 'json');
  assert.equal(formOf([]), 'json');
  assert.equal(formOf(['User-Agent', 'curl/8.0', 'Accept', '*/*']), 'plain');
  assert.equal(formOf(['User-Agent', 'curl/8.0', 'Accept', 'application/json']), 'json');
  assert.equal(formOf(['User-Agent', 'Wget/1.21']), 'plain');
});

test('every code is answered with its status, its name and no store, in each form', () => {
  for (const code of Object.keys(GATEWAY_ERRORS) as GatewayErrorCode[]) {
    for (const rawHeaders of [[], ['Sec-Fetch-Mode', 'navigate'], ['User-Agent', 'curl/8']]) {
      const answer = buildErrorAnswer(input({ code, rawHeaders }));
      assert.equal(answer.status, GATEWAY_ERRORS[code].status);
      assert.equal(headerOf(answer, 'gateway-error'), code);
      assert.equal(headerOf(answer, 'x-request-id'), requestId);
      assert.equal(headerOf(answer, 'cache-control'), 'no-store');
      assert.equal(headerOf(answer, 'content-length'), String(Buffer.byteLength(answer.body)));
      assert.ok(answer.body.includes(code) && answer.body.includes(requestId));
      assert.ok(!/[{](?:port|environment)[}]/.test(answer.body));
    }
  }
});

test('JSON has code, message and request id', () => {
  const { error } = JSON.parse(buildErrorAnswer(input()).body) as { error: Record<string, string> };
  assert.deepEqual(Object.keys(error), ['code', 'message', 'requestId']);
  assert.match(error['message'] ?? '', /^Nothing listens on port 3000\. /);
});

test('headers that statuses demand', () => {
  assert.equal(headerOf(buildErrorAnswer(input({ code: 'runner_offline' })), 'retry-after'), '5');
  assert.equal(headerOf(buildErrorAnswer(input({ code: 'not_found' })), 'retry-after'), undefined);
  assert.equal(headerOf(buildErrorAnswer(input({ code: 'not_found', retryAfterSeconds: 1.2 })), 'retry-after'), '2');
  assert.match(headerOf(buildErrorAnswer(input({ code: 'sign_in_required' })), 'www-authenticate') ?? '', /^Bearer /);
  assert.equal(headerOf(buildErrorAnswer(input({ code: 'method_not_allowed' })), 'allow'), 'GET, HEAD');
});

test('nothing of the client stands in a header, and only escaped in the page', () => {
  const evil = `"'><script>alert(1)</script>`;
  const answer = buildErrorAnswer(
    input({ host: evil, environmentId: evil, rawHeaders: ['Accept', 'text/html', 'X-Request-Id', evil, 'Host', evil] }),
  );
  assert.ok(answer.headers.every(([, value]) => !value.includes('alert')));
  assert.ok(!answer.body.includes('<script>alert'));
  assert.ok(answer.body.includes(escapeHtml(evil)));
});

test('the policy names the style and the script of the page, and nothing else may run', () => {
  const answer = buildErrorAnswer(input({ rawHeaders: ['Sec-Fetch-Mode', 'navigate'] }));
  const policy = headerOf(answer, 'content-security-policy') ?? '';
  for (const tag of ['style', 'script']) {
    const blocks = [...answer.body.matchAll(new RegExp(`<${tag}>([^]*?)</${tag}>`, 'g'))];
    assert.equal(blocks.length, 1);
    const digest = createHash('sha256')
      .update(blocks[0]?.[1] ?? '')
      .digest('base64');
    assert.ok(policy.includes(`${tag}-src 'sha256-${digest}'`));
  }
  assert.match(policy, /default-src 'none'/);
  assert.ok(
    !/ (?:style|on[a-z]+)=|https?:\/\/(?!www\.w3\.org)/.test(answer.body),
    'no inline handlers, no external resources',
  );
});

test('the page tries again by itself only where that makes sense', () => {
  const page = (change: Partial<ErrorAnswerInput>) =>
    buildErrorAnswer(input({ rawHeaders: ['Sec-Fetch-Mode', 'navigate'], ...change })).body;
  assert.ok(page({ code: 'runner_offline' }).includes('data-retry="5"'));
  assert.ok(!page({ code: 'unknown_environment' }).includes('data-retry'));
  assert.ok(!page({ code: 'runner_offline', method: 'POST' }).includes('data-retry'), 'a form is never sent again');
});

test('the diagram marks where the request stopped', () => {
  const states = (code: GatewayErrorCode): string[] =>
    [...renderErrorPage({ ...input(), code, requestId, now: 0 }).matchAll(/<li class="([a-z ]+)">/g)].map(
      (match) => match[1] ?? '',
    );
  assert.deepEqual(states('unknown_environment'), ['reached', 'stopped', 'ahead', 'ahead']);
  assert.deepEqual(states('runner_offline'), ['reached', 'reached', 'stopped apart', 'ahead']);
  assert.deepEqual(states('upstream_refused'), ['reached', 'reached', 'reached', 'stopped apart']);
  assert.deepEqual(states('upstream_timeout'), ['reached', 'reached', 'reached', 'stopped']);
});

test('without a port the texts still read well', () => {
  const answer = buildErrorAnswer(input({ code: 'port_not_exposed', port: undefined, environmentId: undefined }));
  assert.match(answer.body, /The port is not exposed\. .*does not expose this port\./);
});
