import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  cookiesForUpstream,
  fieldValues,
  HOPS_HEADER,
  locationForClient,
  passedHops,
  requestHeaders,
  responseHeaders,
  setCookieForClient,
  trailerFields,
} from '../../gateway/src/proxy/headers.ts';

const REQUEST_ID = '0123456789abcdef0123456789abcdef';
const source = (rawHeaders: string[], over: Record<string, unknown> = {}) => ({
  rawHeaders,
  requestId: REQUEST_ID,
  authority: '3000--demo.gateway.test:8443',
  authorityPort: 8443,
  clientAddress: '192.0.2.7',
  ...over,
});
const upstreamHeaders = (raw: string[], options = {}, over = {}): string[] =>
  requestHeaders(source(raw, over), { hop: '3000--demo', ...options }).headers;
const OURS = [
  'X-Forwarded-For',
  '192.0.2.7',
  'X-Forwarded-Host',
  '3000--demo.gateway.test:8443',
  'X-Forwarded-Proto',
  'https',
  'X-Forwarded-Port',
  '8443',
  'Forwarded',
  'for=192.0.2.7;host="3000--demo.gateway.test:8443";proto=https',
  'X-Request-Id',
  REQUEST_ID,
  'traceparent',
  `00-${REQUEST_ID}-0123456789abcdef-00`,
  HOPS_HEADER,
  '3000--demo',
];
const HOST = ['Host', '3000--demo.gateway.test:8443'];

describe('request fields', () => {
  test('case, order, repetition and bytes stay', () => {
    const raw = ['HOST', 'x', 'aCCept', '*/*', 'X-A', '1', 'x-a', '\xc3\xa9 \t;', 'X-A', ''];
    assert.deepEqual(upstreamHeaders(raw), ['HOST', HOST[1], ...raw.slice(2), ...OURS]);
    const last = ['X-A', '1', 'hOsT', 'x'];
    assert.deepEqual(upstreamHeaders(last), ['X-A', '1', 'hOsT', HOST[1], ...OURS]);
  });

  test('fields of the connection go, and what Connection names, in every line', () => {
    const raw = [
      'Connection',
      'close, X-Forwarded-For ,Authorization',
      'connection',
      'cookie, Host, content-length',
      'Authorization',
      'secret',
      'Cookie',
      'a=1',
      'Content-Length',
      '3',
      'X-Forwarded-For',
      '203.0.113.9',
      ...['Keep-Alive', 'Proxy-Connection', 'TE', 'Transfer-Encoding', 'Upgrade', 'HTTP2-Settings', 'Expect'].flatMap(
        (name) => [name, 'x'],
      ),
    ];
    assert.deepEqual(upstreamHeaders(raw), [...HOST, 'Content-Length', '3', ...OURS]);
  });

  test('copies of what the gateway sets are removed in every spelling', () => {
    const names = [
      'X-Forwarded-For',
      'x_forwarded_for',
      'X-FORWARDED_HOST',
      'X-Forwarded-Proto',
      'X-Forwarded-Prefix',
      'Forwarded',
      'X-Real-IP',
      'x_real_ip',
      'X-Request-ID',
      'Gitpod-Gateway-User',
      'gitpod_gateway_hops',
      'Proxy',
    ];
    assert.deepEqual(upstreamHeaders(names.flatMap((name) => [name, 'spoofed'])), [...HOST, ...OURS]);
  });

  test('IPv6 clients are written as RFC 7239 wants it; mapped addresses and zones are plain', () => {
    const of = (clientAddress: string): string[] => {
      const headers = upstreamHeaders([], {}, { clientAddress });
      return [fieldValues(headers, 'x-forwarded-for')[0]!, fieldValues(headers, 'forwarded')[0]!.split(';')[0]!];
    };
    assert.deepEqual(of('2001:db8::7'), ['2001:db8::7', 'for="[2001:db8::7]"']);
    assert.deepEqual(of('::ffff:192.0.2.7'), ['192.0.2.7', 'for=192.0.2.7']);
    assert.deepEqual(of('fe80::1%eth0'), ['fe80::1', 'for="[fe80::1]"']);
  });

  test('a host without port needs no quotes, one with quotes in it cannot break out', () => {
    const forwarded = (authority: string) => fieldValues(upstreamHeaders([], {}, { authority }), 'forwarded')[0];
    assert.equal(forwarded('a.test'), 'for=192.0.2.7;host=a.test;proto=https');
    assert.equal(forwarded('a"\\;x'), 'for=192.0.2.7;host="a\\"\\\\;x";proto=https');
  });

  test('a valid trace context is kept with its state, anything else is made anew', () => {
    const parent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    const kept = requestHeaders(source(['Traceparent', parent, 'Tracestate', 'a=1', 'tracestate', 'b=2']), {
      hop: 'x',
    });
    assert.equal(kept.traceParent, parent);
    assert.deepEqual(fieldValues(kept.headers, 'traceparent'), [parent]);
    assert.deepEqual(fieldValues(kept.headers, 'tracestate'), ['a=1,b=2']);
    for (const bad of [
      [parent, parent],
      ['00-00000000000000000000000000000000-00f067aa0ba902b7-01'],
      [parent.toUpperCase()],
      ['ff' + parent.slice(2)],
      [`${parent}-${'x'.repeat(100)}`],
    ]) {
      const raw = [...bad.flatMap((value) => ['traceparent', value]), 'tracestate', 'a=1'];
      const { headers } = requestHeaders(source(raw), { hop: 'x' });
      assert.deepEqual(fieldValues(headers, 'traceparent'), [`00-${REQUEST_ID}-0123456789abcdef-00`]);
      assert.deepEqual(fieldValues(headers, 'tracestate'), []);
    }
  });

  test('TE: trailers is passed on, other codings are not', () => {
    assert.deepEqual(fieldValues(upstreamHeaders(['TE', 'gzip, Trailers;q=0.5']), 'te'), ['trailers']);
    assert.deepEqual(fieldValues(upstreamHeaders(['TE', 'gzip']), 'te'), []);
  });

  test('hops grow by one, and only labels count', () => {
    const raw = [HOPS_HEADER, '3000--a, junk value', 'Gitpod-Gateway-Hops', '8080--b'];
    assert.deepEqual(passedHops(raw), ['3000--a', '8080--b']);
    assert.deepEqual(fieldValues(upstreamHeaders(raw), HOPS_HEADER), ['3000--a, 8080--b, 3000--demo']);
  });

  test('upgrades get the names of RFC 6455', () => {
    const raw = [
      'sec-websocket-key',
      'k',
      'SEC-WEBSOCKET-VERSION',
      '13',
      'Upgrade',
      'websocket',
      'Connection',
      'Upgrade',
    ];
    assert.deepEqual(upstreamHeaders(raw, { upgrade: true }).slice(2, 6), [
      'Sec-WebSocket-Key',
      'k',
      'Sec-WebSocket-Version',
      '13',
    ]);
  });

  test('hostHeader local: Host and a same-host Origin', () => {
    const origin = 'https://3000--demo.gateway.test:8443';
    const of = (value: string, tls: boolean) => upstreamHeaders(['Origin', value], { local: { port: 3000, tls } });
    assert.deepEqual(of(origin, false).slice(0, 4), ['Host', 'localhost:3000', 'Origin', 'http://localhost:3000']);
    assert.equal(of(origin, true)[3], 'https://localhost:3000');
    assert.equal(of('https://evil.test', false)[3], 'https://evil.test');
    assert.equal(fieldValues(of(origin, false), 'x-forwarded-host')[0], '3000--demo.gateway.test:8443');
  });
});

describe('cookies', () => {
  test('the gateway’s own go, all others stay byte for byte', () => {
    const odd = ' a=1;b;  =c; "q;r"=x;\x80é=1;;d="e f" ';
    assert.equal(cookiesForUpstream([odd]), odd);
    assert.equal(cookiesForUpstream(['a=1; __Host-gitpod_port_auth=x; b=2']), 'a=1; b=2');
    assert.equal(cookiesForUpstream(['__Host-gitpod_port_auth=x; b=2;c=3']), 'b=2;c=3');
    assert.equal(cookiesForUpstream(['a=1;__hOST-gitpod_other=x']), 'a=1');
    assert.equal(cookiesForUpstream(['__Host-gitpod_port_auth=x']), undefined);
    assert.equal(
      cookiesForUpstream(['x__Host-gitpod_=1', 'y=__Host-gitpod_2']),
      'x__Host-gitpod_=1; y=__Host-gitpod_2',
    );
  });

  test('several lines become one, where the first one stood', () => {
    const headers = upstreamHeaders([
      'A',
      '1',
      'cookie',
      'a=1',
      'B',
      '2',
      'Cookie',
      '__Host-gitpod_s=1',
      'cookie',
      'c=3',
    ]);
    assert.deepEqual(headers.slice(2, 8), ['A', '1', 'cookie', 'a=1; c=3', 'B', '2']);
  });

  test('Set-Cookie loses a Domain that covers siblings, and nothing else', () => {
    const host = '3000--demo.gateway.test';
    const cleaned = (value: string) => setCookieForClient(value, host);
    assert.equal(cleaned('a=1; Path=/; Domain=gateway.test; Secure'), 'a=1; Path=/; Secure');
    assert.equal(cleaned('a=1;domain = .GATEWAY.test ;Secure'), 'a=1;Secure');
    assert.equal(cleaned('a=1; Domain=test'), 'a=1');
    assert.equal(cleaned('a=1; Domain=gateway.test.'), 'a=1');
    assert.equal(cleaned(`a=1; Domain=${host}`), `a=1; Domain=${host}`);
    assert.equal(cleaned('a=1; Domain=other.test'), 'a=1; Domain=other.test');
    assert.equal(cleaned('domain=gateway.test; Path=/'), 'domain=gateway.test; Path=/');
    assert.equal(cleaned('__Host-gitpod_port_auth=stolen; Secure'), undefined);
    assert.equal(setCookieForClient('a=1; Domain=localhost', host, { port: 3000, tls: false }), 'a=1');
  });
});

describe('response fields', () => {
  const options = { host: '3000--demo.gateway.test', authority: '3000--demo.gateway.test:8443' };

  test('fields of the connection and of the gateway go, the rest stays', () => {
    const kept = ['Server', 'x', 'X-A', '1', 'x-a', '2', 'Content-Length', '3', 'Gateway-Other', 'y'];
    const gone = [
      'Connection',
      'keep-alive, X-Gone',
      'X-Gone',
      '1',
      'Keep-Alive',
      'timeout=5',
      'Transfer-Encoding',
      'x',
    ];
    const ours = ['Gateway-Error', 'x', 'gateway_error', 'x', 'Gitpod-Gateway-User', 'x', 'gitpod_gateway_x', 'y'];
    assert.deepEqual(responseHeaders([...gone, ...kept, ...ours], options), kept);
  });

  test('Location of a localhost application is mapped back, only with hostHeader local', () => {
    const local = { port: 3000, tls: false };
    const mapped = (value: string) => locationForClient(value, options.authority, local);
    assert.equal(mapped('http://localhost:3000/a?b#c'), 'https://3000--demo.gateway.test:8443/a?b#c');
    assert.equal(mapped('https://127.0.0.1:3000'), 'https://3000--demo.gateway.test:8443');
    assert.equal(mapped('//[::1]:3000/x'), 'https://3000--demo.gateway.test:8443/x');
    for (const other of [
      '/x',
      'http://localhost:3001/',
      'http://localhost:30000/',
      'http://localhost/',
      'http://a.test/http://localhost:3000/',
    ]) {
      assert.equal(mapped(other), other);
    }
    assert.deepEqual(responseHeaders(['Location', 'http://localhost:3000/'], options), [
      'Location',
      'http://localhost:3000/',
    ]);
  });

  test('trailers carry nothing that was decided on the head', () => {
    assert.deepEqual(
      trailerFields(['Grpc-Status', '0', 'Set-Cookie', 'a=1', 'Content-Length', '1', 'X_Forwarded_For', 'x']),
      ['Grpc-Status', '0'],
    );
  });
});
