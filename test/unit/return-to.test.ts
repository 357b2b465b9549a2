import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MAX_RETURN_TO_LENGTH, parseReturnTo, returnToOf } from '../../gateway/src/access/sign-in/return-to.ts';

const DOMAIN = 'gateway.example';
const places = { domain: DOMAIN, ports: new Set([8443]) };
const parse = (text: string) => parseReturnTo(text, places);
const GOOD = `https://3000--demo.${DOMAIN}:8443`;

test('pages on port hosts are what a visitor may come back to', () => {
  for (const [text, path] of [
    [`${GOOD}/`, '/'],
    [`${GOOD}/a/b?c=d&e=%2F%5C#`.slice(0, -1), '/a/b?c=d&e=%2F%5C'],
    [`${GOOD}//double`, '//double'],
    [`${GOOD}/?next=//evil.test\\x`, '/?next=//evil.test\\x'],
    [`${GOOD}/%zz/..%2f`, '/%zz/..%2f'],
    [`https://3000s--demo.${DOMAIN}:8443/`, '/'],
  ] as const) {
    const parsed = parse(text);
    assert.ok(parsed, text);
    assert.equal(parsed.path, path);
    assert.equal(parsed.origin + parsed.path, text);
    assert.equal(parsed.environmentId, 'demo');
    assert.equal(parsed.port, 3000);
    assert.equal(parsed.tls, text.startsWith('https://3000s'));
  }
  assert.ok(parseReturnTo(`https://3000--demo.${DOMAIN}/`, { domain: DOMAIN, ports: new Set([443]) }));
});

/** What somebody might send a visitor to by way of the sign-in. */
const HOSTILE = [
  '',
  '/',
  '//',
  '/path',
  '//evil.test',
  '///evil.test',
  '////evil.test/',
  '/\\evil.test',
  '\\\\evil.test',
  '\\/evil.test',
  'evil.test',
  'https:',
  'https:/',
  'https://',
  'https:///',
  'https://evil.test/',
  'https://evil.test',
  'http://evil.test/',
  'javascript:alert(1)',
  'javascript://3000--demo.gateway.example:8443/%0aalert(1)',
  'data:text/html,<script>alert(1)</script>',
  'vbscript:x',
  'file:///etc/passwd',
  'blob:https://3000--demo.gateway.example:8443/x',
  `http://3000--demo.${DOMAIN}:8443/`,
  `HTTPS://3000--demo.${DOMAIN}:8443/`,
  `hTTps://3000--demo.${DOMAIN}:8443/`,
  `wss://3000--demo.${DOMAIN}:8443/`,
  `https:3000--demo.${DOMAIN}:8443/`,
  `https:/3000--demo.${DOMAIN}:8443/`,
  `https:///3000--demo.${DOMAIN}:8443/`,
  `https:\\\\3000--demo.${DOMAIN}:8443/`,
  `//3000--demo.${DOMAIN}:8443/`,
  ` https://3000--demo.${DOMAIN}:8443/`,
  `https://3000--demo.${DOMAIN}:8443/ `,
  `\thttps://3000--demo.${DOMAIN}:8443/`,
  `https://3000--demo.${DOMAIN}:8443/\r\nSet-Cookie: a=b`,
  `https://3000--demo.${DOMAIN}:8443/\n`,
  `ht\ntps://3000--demo.${DOMAIN}:8443/`,
  `https://3000--demo.${DOMAIN}:8443/\u0000`,
  `https://3000--demo.${DOMAIN}:8443/ä`,
  `https://3000--demo.${DOMAIN}:8443`,
  `https://3000--demo.${DOMAIN}:8443?x`,
  `https://3000--demo.${DOMAIN}:8443#x`,
  `https://3000--demo.${DOMAIN}:8443/#fragment`,
  `https://3000--demo.${DOMAIN}:8443/a\\b`,
  `https://3000--demo.${DOMAIN}:8443\\@evil.test/`,
  `https://3000--demo.${DOMAIN}:8443@evil.test/`,
  `https://user@3000--demo.${DOMAIN}:8443/`,
  `https://user:password@3000--demo.${DOMAIN}:8443/`,
  `https://evil.test@3000--demo.${DOMAIN}:8443/`,
  `https://evil.test:8443/@3000--demo.${DOMAIN}:8443/`,
  `https://evil.test/3000--demo.${DOMAIN}:8443/`,
  `https://evil.test?3000--demo.${DOMAIN}:8443/`,
  `https://evil.test#3000--demo.${DOMAIN}:8443/`,
  `https://evil.test\\.${DOMAIN}:8443/`,
  `https://evil.test%2f.${DOMAIN}:8443/`,
  `https://evil.test%00.${DOMAIN}:8443/`,
  `https://3000--demo.${DOMAIN}.evil.test:8443/`,
  `https://3000--demo.${DOMAIN}evil.test:8443/`,
  `https://3000--demo.evil${DOMAIN}:8443/`,
  `https://3000--demo-${DOMAIN}:8443/`,
  `https://3000--demo.${DOMAIN}.:8443/`,
  `https://3000--demo.${DOMAIN}..:8443/`,
  `https://3000--Demo.${DOMAIN}:8443/`,
  `https://3000--demo.GATEWAY.example:8443/`,
  `https://3000--demo.${DOMAIN}/`,
  `https://3000--demo.${DOMAIN}:/`,
  `https://3000--demo.${DOMAIN}:443/`,
  `https://3000--demo.${DOMAIN}:8444/`,
  `https://3000--demo.${DOMAIN}:08443/`,
  `https://3000--demo.${DOMAIN}:84430/`,
  `https://3000--demo.${DOMAIN}:8443:8443/`,
  `https://${DOMAIN}:8443/`,
  `https://${DOMAIN}:8443/auth/sign-out`,
  `https://api.${DOMAIN}:8443/`,
  `https://tunnel.${DOMAIN}:8443/`,
  `https://my-runner.${DOMAIN}:8443/oauth`,
  `https://22999--demo.${DOMAIN}:8443/logs`,
  `https://80--demo.${DOMAIN}:8443/`,
  `https://03000--demo.${DOMAIN}:8443/`,
  `https://65536--demo.${DOMAIN}:8443/`,
  `https://3000-demo.${DOMAIN}:8443/`,
  `https://3000--.${DOMAIN}:8443/`,
  `https://3000--a--b.${DOMAIN}:8443/`,
  `https://x.3000--demo.${DOMAIN}:8443/`,
  `https://3000--demo.x.${DOMAIN}:8443/`,
  `https://3000--demo.${DOMAIN}:8443/${'x'.repeat(MAX_RETURN_TO_LENGTH)}`,
  `https://[::1]:8443/`,
  `https://127.0.0.1:8443/`,
  `https://3000--demo。${DOMAIN}:8443/`,
  `https://3000--demo.${DOMAIN}／:8443/`,
  `https://3000--dеmo.${DOMAIN}:8443/`,
  `https://3000--demo.${DOMAIN}:8443/${GOOD}/\\`,
];

test(`a corpus of ${HOSTILE.length} hostile strings is refused`, () => {
  assert.ok(new Set(HOSTILE).size >= 60);
  for (const text of HOSTILE) assert.equal(parse(text), undefined, JSON.stringify(text));
});

test('whatever is accepted, a browser reads as a page of that very origin', () => {
  const pieces = fc.constantFrom(
    'https://',
    '3000--demo',
    `.${DOMAIN}`,
    ':8443',
    '/',
    '\\',
    '@',
    '#',
    '?',
    '.',
    '//',
    'a',
    '%2f',
    'evil.test',
    ' ',
    '\n',
    ':',
  );
  fc.assert(
    fc.property(fc.array(pieces, { maxLength: 12 }), fc.string(), (parts, tail) => {
      for (const text of [parts.join(''), `${GOOD}${parts.join('')}`, `${GOOD}/${tail}`, tail]) {
        const parsed = parse(text);
        if (!parsed) continue;
        const url = new URL(text);
        assert.equal(url.origin, GOOD);
        assert.equal(url.username + url.password + url.hash, '');
      }
    }),
    { numRuns: 2_000, seed: 1 },
  );
});

test('an address that is too long loses its query, then its path', () => {
  const request = { host: `3000--demo.${DOMAIN}`, authorityPort: 8443 };
  const long = 'x'.repeat(MAX_RETURN_TO_LENGTH);
  assert.equal(returnToOf({ ...request, target: '/a?b' }), `${GOOD}/a?b`);
  assert.equal(returnToOf({ ...request, target: `/a?${long}` }), `${GOOD}/a`);
  assert.equal(returnToOf({ ...request, target: `/${long}?b` }), `${GOOD}/`);
  assert.equal(returnToOf({ host: request.host, authorityPort: 443, target: '/' }), `https://3000--demo.${DOMAIN}/`);
});
