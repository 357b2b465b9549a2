import assert from 'node:assert/strict';
import { test } from 'node:test';
import { guardRequest, isWebSocketHead, type RequestHead } from '../../gateway/src/edge/request-guard.ts';

const HOST = '3000--demo.gateway.example';
const http1 = (change: Partial<RequestHead> & { fields?: readonly string[] } = {}): RequestHead => {
  const { fields = [], ...rest } = change;
  return {
    httpVersion: '1.1',
    isHttp2: false,
    method: 'GET',
    target: '/',
    rawHeaders: ['Host', HOST, ...fields],
    scheme: 'https',
    maxFields: 20,
    ...rest,
  };
};
const http2 = (
  change: Partial<RequestHead> & { pseudo?: readonly string[]; fields?: readonly string[] } = {},
): RequestHead => {
  const {
    fields = [],
    pseudo = [':method', 'GET', ':scheme', 'https', ':authority', HOST, ':path', '/'],
    ...rest
  } = change;
  return http1({ httpVersion: '2.0', isHttp2: true, rawHeaders: [...pseudo, ...fields], ...rest });
};
const codeOf = (head: RequestHead): string => {
  const result = guardRequest(head);
  return result.ok ? 'ok' : result.code;
};

test('an ordinary request passes unchanged', () => {
  assert.deepEqual(
    guardRequest(http1({ target: '//a/%zz/../b?x=[1]|"', fields: ['X-a', '1', 'x-A', '2', 'Content-Length', '5'] })),
    {
      ok: true,
      authority: HOST,
      host: { host: HOST, port: undefined, isAddress: false },
      target: '//a/%zz/../b?x=[1]|"',
      rawHeaders: ['Host', HOST, 'X-a', '1', 'x-A', '2', 'Content-Length', '5'],
      isWebSocket: false,
      expectsContinue: false,
    },
  );
  assert.deepEqual(guardRequest(http2({ fields: ['x-a', '1', 'cookie', 'a=b', 'cookie', 'c=d'] })), {
    ok: true,
    authority: HOST,
    host: { host: HOST, port: undefined, isAddress: false },
    target: '/',
    rawHeaders: ['x-a', '1', 'cookie', 'a=b', 'cookie', 'c=d'],
    isWebSocket: false,
    expectsContinue: false,
  });
});

const bad: Readonly<Record<string, RequestHead>> = {
  'HTTP/0.9': http1({ httpVersion: '0.9' }),
  'HTTP/2.0 on an HTTP/1 connection': http1({ httpVersion: '2.0' }),
  'method that is no token': http1({ method: 'G T' }),
  'content-length twice': http1({ fields: ['Content-Length', '1', 'Content-Length', '1'] }),
  'content-length list': http1({ fields: ['Content-Length', '1, 1'] }),
  'content-length +1': http1({ fields: ['Content-Length', '+1'] }),
  'content-length 0x1': http1({ fields: ['Content-Length', '0x1'] }),
  'content-length empty': http1({ fields: ['Content-Length', ''] }),
  'content-length 2^64': http1({ fields: ['Content-Length', '18446744073709551616'] }),
  'content-length and chunked': http1({ fields: ['Content-Length', '1', 'Transfer-Encoding', 'chunked'] }),
  'chunked twice': http1({ fields: ['Transfer-Encoding', 'chunked', 'transfer-encoding', 'chunked'] }),
  'chunked, identity': http1({ fields: ['Transfer-Encoding', 'chunked, identity'] }),
  'gzip, chunked': http1({ fields: ['Transfer-Encoding', 'gzip, chunked'] }),
  'transfer-encoding xchunked': http1({ fields: ['Transfer-Encoding', 'xchunked'] }),
  'chunked in HTTP/1.0': http1({ httpVersion: '1.0', fields: ['Transfer-Encoding', 'chunked'] }),
  Transfer_Encoding: http1({ fields: ['Transfer_Encoding', 'chunked'] }),
  'transfer.encoding': http1({ fields: ['transfer.encoding', 'chunked'] }),
  CONTENT_LENGTH: http1({ fields: ['CONTENT_LENGTH', '5'] }),
  host_: http1({ fields: ['Host_', 'x'] }),
  'name with a space': http1({ fields: ['a b', '1'] }),
  'empty name': http1({ fields: ['', '1'] }),
  'line break in a value': http1({ fields: ['a', '1\r\nb: 2'] }),
  'NUL in a value': http1({ fields: ['a', '1\0'] }),
  'fragment in the target': http1({ target: '/a#b' }),
  'space in the target': http1({ target: '/a b' }),
  'bytes above 0x7f in the target': http1({ target: '/\u00e9' }),
  'empty target': http1({ target: '' }),
  'target without a slash': http1({ target: 'a' }),
  'asterisk with GET': http1({ target: '*' }),
  'absolute form with another host': http1({ target: 'https://3000--other.gateway.example/' }),
  'absolute form with another port': http1({ target: `https://${HOST}:8443/` }),
  'absolute form with another scheme': http1({ target: `http://${HOST}/` }),
  'absolute form with user information': http1({ target: `https://x@${HOST}/` }),
  'WebSocket with a body': http1({ fields: ['Upgrade', 'websocket', 'Connection', 'Upgrade', 'Content-Length', '5'] }),
  'WebSocket with chunks': http1({
    fields: ['Upgrade', 'websocket', 'Connection', 'Upgrade', 'Transfer-Encoding', 'chunked'],
  }),
  'h2: scheme http': http2({ pseudo: [':method', 'GET', ':scheme', 'http', ':authority', HOST, ':path', '/'] }),
  'h2: no scheme': http2({ pseudo: [':method', 'GET', ':authority', HOST, ':path', '/'] }),
  'h2: scheme junk': http2({ pseudo: [':method', 'GET', ':scheme', 'https://x/', ':authority', HOST, ':path', '/'] }),
  'h2: authority twice': http2({
    pseudo: [':method', 'GET', ':scheme', 'https', ':authority', HOST, ':authority', HOST, ':path', '/'],
  }),
  'h2: unknown pseudo-header': http2({
    pseudo: [':method', 'GET', ':scheme', 'https', ':authority', HOST, ':path', '/', ':protocol', 'websocket'],
  }),
  'h2: pseudo-header behind a field': http2({
    pseudo: [':method', 'GET', ':scheme', 'https', 'a', 'b', ':authority', HOST, ':path', '/'],
  }),
  'h2: absolute path': http2({ target: `https://${HOST}/` }),
  'h2: upper-case name': http2({ fields: ['X-A', '1'] }),
  'h2: connection': http2({ fields: ['connection', 'close'] }),
  'h2: transfer-encoding': http2({ fields: ['transfer-encoding', 'chunked'] }),
  'h2: upgrade': http2({ fields: ['upgrade', 'websocket'] }),
  'h2: http2-settings': http2({ fields: ['http2-settings', 'AAMAAABk'] }),
};
for (const [name, head] of Object.entries(bad))
  test(`bad_request: ${name}`, () => assert.equal(codeOf(head), 'bad_request'));

const badHosts: Readonly<Record<string, RequestHead>> = {
  none: http1({ rawHeaders: [] }),
  'none in HTTP/1.0': http1({ rawHeaders: [], httpVersion: '1.0' }),
  empty: http1({ rawHeaders: ['Host', ''] }),
  two: http1({ fields: ['host', HOST] }),
  list: http1({ rawHeaders: ['Host', `${HOST}, ${HOST}`] }),
  'with a path': http1({ rawHeaders: ['Host', `${HOST}/x`] }),
  'h2: none': http2({ pseudo: [':method', 'GET', ':scheme', 'https', ':path', '/'] }),
  'h2: host differs from authority': http2({ fields: ['host', '3000--other.gateway.example'] }),
  'h2: two host fields': http2({ fields: ['host', HOST, 'host', HOST] }),
};
for (const [name, head] of Object.entries(badHosts))
  test(`bad_host: ${name}`, () => assert.equal(codeOf(head), 'bad_host'));

test('methods that are never passed on', () => {
  for (const method of ['CONNECT', 'TRACE']) {
    assert.equal(codeOf(http1({ method, target: `${HOST}:443` })), 'method_not_supported');
    assert.equal(codeOf(http2({ method })), 'method_not_supported');
  }
  assert.equal(codeOf(http1({ method: 'PROPFIND' })), 'ok');
});

test('absolute form of the own host becomes origin form', () => {
  const targetOf = (target: string, method = 'GET'): string | undefined => {
    const result = guardRequest(http1({ target, method }));
    return result.ok ? result.target : undefined;
  };
  assert.equal(targetOf(`https://${HOST}/a//b?c`), '/a//b?c');
  assert.equal(targetOf(`HTTPS://${HOST.toUpperCase()}:443`), '/');
  assert.equal(targetOf(`https://${HOST}?a`), '/?a');
  assert.equal(targetOf(`https://${HOST}`, 'OPTIONS'), '*');
  assert.equal(targetOf('*', 'OPTIONS'), '*');
});

test('h2: a host field that says the same is allowed', () => {
  assert.equal(codeOf(http2({ fields: ['host', `${HOST}:443`] })), 'ok');
  assert.equal(
    codeOf(http2({ pseudo: [':method', 'GET', ':scheme', 'https', ':path', '/'], fields: ['host', HOST] })),
    'ok',
  );
});

test('only a WebSocket is upgraded; other upgrades lose their fields', () => {
  const upgrade = (fields: readonly string[], change: Partial<RequestHead> = {}) => {
    const result = guardRequest(http1({ fields, ...change }));
    assert.ok(result.ok);
    return { isWebSocket: result.isWebSocket, names: result.rawHeaders.filter((_, index) => index % 2 === 0) };
  };
  assert.deepEqual(upgrade(['Upgrade', 'WebSocket', 'Connection', 'keep-alive, Upgrade']), {
    isWebSocket: true,
    names: ['Host', 'Upgrade', 'Connection'],
  });
  assert.equal(upgrade(['Upgrade', 'websocket', 'Connection', 'close', 'connection', 'upgrade']).isWebSocket, true);
  const plain = { isWebSocket: false, names: ['Host', 'Connection'] };
  assert.deepEqual(
    upgrade(['Upgrade', 'h2c', 'Connection', 'Upgrade, HTTP2-Settings', 'HTTP2-Settings', 'AAMAAABk']),
    plain,
  );
  assert.deepEqual(upgrade(['Upgrade', 'h2c, websocket', 'Connection', 'Upgrade']), plain);
  assert.deepEqual(upgrade(['Upgrade', 'websocket', 'Connection', 'close']), plain);
  assert.deepEqual(upgrade(['Upgrade', 'websocket', 'Connection', 'Upgrade'], { method: 'POST' }), plain);
  assert.deepEqual(upgrade(['Upgrade', 'websocket', 'Connection', 'Upgrade'], { httpVersion: '1.0' }), plain);
  assert.equal(
    isWebSocketHead({
      httpVersion: '1.1',
      method: 'GET',
      rawHeaders: ['UPGRADE', 'websocket', 'CONNECTION', 'UPGRADE'],
    }),
    true,
  );
});

test('Expect: 100-continue is known, anything else is not', () => {
  const result = guardRequest(http1({ method: 'POST', fields: ['Expect', '100-Continue', 'Content-Length', '5'] }));
  assert.ok(result.ok && result.expectsContinue);
  assert.equal(codeOf(http1({ fields: ['Expect', '200-ok'] })), 'expectation_failed');
});

test('too many field lines', () => {
  const fields = Array.from({ length: 20 }, (_, index) => [`x-${index}`, '1']).flat();
  assert.equal(codeOf(http1({ fields })), 'headers_too_large');
  assert.equal(codeOf(http1({ fields: fields.slice(2) })), 'ok');
});
