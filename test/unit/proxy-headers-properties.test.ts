/** What holds for every set of field lines and cookies, there and back. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  cookiesForUpstream,
  fieldValues,
  HOPS_HEADER,
  INTERNAL_PREFIX,
  requestHeaders,
  responseHeaders,
  setCookieForClient,
  trailerFields,
} from '../../gateway/src/proxy/headers.ts';

const RUNS = 2_000;
const SEED = 20_261_120;
const HOST = '3000--demo.gateway.test';
const AUTHORITY = `${HOST}:8443`;
const SOURCE = {
  requestId: '0123456789abcdef0123456789abcdef',
  authority: AUTHORITY,
  authorityPort: 8443,
  clientAddress: '192.0.2.7',
};
const check = <T>(arbitrary: fc.Arbitrary<T>, predicate: (value: T) => void): void =>
  fc.assert(fc.property(arbitrary, predicate), { numRuns: RUNS, seed: SEED });

const SET_ONCE: Readonly<Record<string, string>> = {
  'x-forwarded-for': '192.0.2.7',
  'x-forwarded-host': AUTHORITY,
  'x-forwarded-proto': 'https',
  'x-forwarded-port': '8443',
  forwarded: `for=192.0.2.7;host="${AUTHORITY}";proto=https`,
  'x-request-id': SOURCE.requestId,
};
const HOP_BY_HOP = [
  ...['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade', 'http2-settings'],
  ...['proxy-authenticate', 'proxy-authorization', 'expect'],
];
const SPECIAL = [
  ...HOP_BY_HOP,
  ...Object.keys(SET_ONCE),
  ...['host', 'te', 'cookie', 'set-cookie', 'x-forwarded', 'x-forwarded-user', 'x-real-ip', 'proxy', 'trailer'],
  ...['traceparent', 'tracestate', 'content-length', 'authorization', 'gateway-error', HOPS_HEADER],
  ...[`${INTERNAL_PREFIX}user`, 'x-a', 'x-b', 'accept'],
];
const letters = fc.stringMatching(/^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}$/);
/** A field name in any case, with `_` for `-` at times. */
const name = fc
  .tuple(fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...SPECIAL) }, letters), fc.nat(), fc.boolean())
  .map(([text, seed, underscores]) => {
    const mixed = [...text]
      .map((letter, index) => ((seed >> (index % 30)) & 1 ? letter.toUpperCase() : letter))
      .join('');
    return underscores ? mixed.replaceAll('-', '_') : mixed;
  });
const value = fc.oneof(
  fc.stringMatching(/^[\t\x20-\x7e\x80-\xff]{0,20}$/),
  fc.array(fc.constantFrom(...SPECIAL, 'close', ' ', ''), { maxLength: 4 }).map((tokens) => tokens.join(',')),
);
const lines = fc.array(fc.tuple(name, value), { maxLength: 12 }).map((pairs) => pairs.flat());
const canonical = (text: string): string => text.toLowerCase().replaceAll('_', '-');
const pairsOf = (flat: readonly string[]): [string, string][] =>
  Array.from({ length: flat.length / 2 }, (_, index) => [flat[2 * index]!, flat[2 * index + 1]!]);
/** Names that the `Connection` lines list. */
const named = (flat: readonly string[]): Set<string> =>
  new Set(fieldValues(flat, 'connection').flatMap((text) => text.split(',').map((each) => each.trim().toLowerCase())));
/** `part` comes out of `whole` by leaving lines out. */
const isSubsequence = (part: readonly [string, string][], whole: readonly [string, string][]): boolean => {
  let at = 0;
  for (const [left, right] of whole) {
    if (at < part.length && part[at]![0] === left && part[at]![1] === right) at++;
  }
  return at === part.length;
};

describe('request fields', () => {
  const sent = (rawHeaders: string[]): string[] =>
    requestHeaders({ ...SOURCE, rawHeaders }, { hop: '3000--demo' }).headers;

  test('Host and what the gateway sets are there once, whatever the client sends', () => {
    check(lines, (raw) => {
      const headers = sent(raw);
      for (const [field, expected] of Object.entries({ ...SET_ONCE, host: AUTHORITY })) {
        const same = pairsOf(headers).filter(([each]) => canonical(each) === field);
        assert.deepEqual([field, same.map(([, text]) => text)], [field, [expected]]);
      }
      const ours = pairsOf(headers).filter(([each]) => canonical(each).startsWith(INTERNAL_PREFIX));
      assert.deepEqual(
        ours.map(([each]) => each),
        [HOPS_HEADER],
      );
      assert.equal(pairsOf(headers).filter(([each]) => canonical(each) === 'traceparent').length, 1);
      for (const gone of ['x-real-ip', 'proxy', 'x-forwarded', 'x-forwarded-user']) {
        assert.ok(!pairsOf(headers).some(([each]) => canonical(each) === gone), gone);
      }
    });
  });

  test('nothing of the connection passes, nor what Connection names', () => {
    check(lines, (raw) => {
      const gone = named(raw);
      const set = new Set([
        ...Object.keys(SET_ONCE),
        'host',
        'content-length',
        'traceparent',
        'tracestate',
        HOPS_HEADER,
      ]);
      for (const [field, text] of pairsOf(sent(raw))) {
        const lower = field.toLowerCase();
        assert.ok(!HOP_BY_HOP.includes(lower), field);
        if (lower === 'te') assert.deepEqual([field, text], ['TE', 'trailers']);
        else assert.ok(!gone.has(lower) || set.has(lower), `${field} is named by Connection`);
      }
    });
  });

  test('everything else passes: name, value and order', () => {
    check(lines, (raw) => {
      const isOther = ([field]: [string, string]): boolean =>
        !SPECIAL.some((special) => canonical(field) === special) &&
        !named(raw).has(field.toLowerCase()) &&
        !canonical(field).startsWith('x-forwarded') &&
        !canonical(field).startsWith(INTERNAL_PREFIX);
      assert.deepEqual(pairsOf(sent(raw)).filter(isOther), pairsOf(raw).filter(isOther));
    });
  });
});

describe('cookies', () => {
  const OWN = /^\s*__host-gitpod_/i;
  const pair = fc.oneof(
    { weight: 3, arbitrary: fc.stringMatching(/^[\t\x20-\x3a\x3c-\x7e\x80-\xff]{0,15}$/) },
    fc
      .tuple(
        fc.constantFrom('__Host-gitpod_port_auth', '__HOST-GITPOD_x', '__host-gitpod_'),
        fc.stringMatching(/^[a-z=]{0,8}$/),
      )
      .map((parts) => parts.join('=')),
    fc.constantFrom('a=__Host-gitpod_x', 'x__Host-gitpod_=1', '__Host-gitpo', '=', ''),
  );
  const line = fc.array(pair, { maxLength: 6 }).map((parts) => parts.join(';'));

  test('others stay byte for byte and in order; the gateway’s never pass', () => {
    check(fc.array(line, { maxLength: 3 }), (values) => {
      const text = cookiesForUpstream(values);
      const before = values.join('; ').split(';');
      const kept = before.filter((each) => !OWN.test(each));
      const after = (text ?? '').split(';');
      assert.ok(!after.some((each) => OWN.test(each)));
      // The space behind a semicolon goes with the cookie in front of it.
      const rest = kept.join(';');
      assert.equal(text ?? '', OWN.test(before[0]!) ? rest.trimStart() : rest);
    });
  });

  test('a line without the gateway’s cookies is the same line', () => {
    const other = line.filter((text) => text !== '' && !text.split(';').some((each) => OWN.test(each)));
    check(other, (text) => assert.equal(cookiesForUpstream([text]), text));
  });

  test('Set-Cookie loses Domain attributes that cover siblings, and no other byte', () => {
    const attribute = fc.oneof(
      fc.constantFrom(
        ' Path=/',
        ' Secure',
        'HttpOnly',
        ' SameSite=Lax',
        ' domain',
        ' Domain=',
        ` Domain=${HOST}`,
        ' Domain=x.test',
      ),
      fc.constantFrom(' Domain=gateway.test', ' domain=.gateway.test', 'DOMAIN = test ', ' Domain=.gateway.test.'),
      fc.stringMatching(/^[\x20-\x3a\x3c-\x7e]{0,12}$/),
    );
    const cookie = fc.tuple(
      fc.stringMatching(/^[a-z_]{0,5}=[\x20-\x3a\x3c-\x7e]{0,8}$/),
      fc.array(attribute, { maxLength: 6 }),
    );
    check(cookie, ([start, attributes]) => {
      const whole = [start, ...attributes].join(';');
      const cleaned = setCookieForClient(whole, HOST);
      assert.ok(cleaned !== undefined);
      const covers = (each: string): boolean => {
        const domain = /^\s*domain\s*=\s*\.?([^\s]*?)\.?\s*$/i.exec(each)?.[1]?.toLowerCase();
        return domain !== undefined && domain !== '' && domain !== HOST && HOST.endsWith(`.${domain}`);
      };
      assert.equal(cleaned, [start, ...attributes.filter((each) => !covers(each))].join(';'));
    });
  });
});

describe('response fields and trailers', () => {
  test('nothing of the connection or of the gateway’s own comes back; the rest does, in order', () => {
    check(lines, (raw) => {
      const headers = pairsOf(responseHeaders(raw, { host: HOST, authority: AUTHORITY }));
      const gone = named(raw);
      for (const [field] of headers) {
        const lower = field.toLowerCase();
        assert.ok(![...HOP_BY_HOP, 'te'].includes(lower), field);
        assert.ok(canonical(field) !== 'gateway-error' && !canonical(field).startsWith(INTERNAL_PREFIX), field);
        assert.ok(!gone.has(lower) || lower === 'host' || lower === 'content-length', field);
      }
      const plain = ([field]: [string, string]): boolean => field.toLowerCase() !== 'set-cookie';
      assert.ok(isSubsequence(headers.filter(plain), pairsOf(raw)));
    });
  });

  test('trailers are lines of what came, and none that frames, routes or speaks for the gateway', () => {
    const never = new Set([
      ...HOP_BY_HOP,
      ...Object.keys(SET_ONCE),
      'host',
      'content-length',
      'cookie',
      'set-cookie',
      'te',
    ]);
    check(lines, (raw) => {
      const fields = pairsOf(trailerFields(raw));
      assert.ok(isSubsequence(fields, pairsOf(raw)));
      for (const [field] of fields) {
        assert.ok(!never.has(canonical(field)), field);
        assert.ok(!canonical(field).startsWith('x-forwarded') && !canonical(field).startsWith(INTERNAL_PREFIX), field);
      }
    });
  });
});
