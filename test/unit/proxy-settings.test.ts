/** HTTPS_PROXY and NO_PROXY as people write them. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  needsAddresses,
  parseNoProxy,
  parseProxyUrl,
  proxyFor,
  proxySettingsOf,
  type ProxySettings,
} from '../../tunnel-client/src/proxy-settings.ts';

const basic = (text: string): string => `Basic ${Buffer.from(text).toString('base64')}`;

describe('the URL of a proxy', () => {
  it('has a scheme, a host, a port, and perhaps credentials', () => {
    const at = (text: string) => {
      const { tls, host, port, authorization } = parseProxyUrl(text);
      return [tls, host, port, authorization];
    };
    assert.deepEqual(at('http://proxy.example:3128'), [false, 'proxy.example', 3128, undefined]);
    assert.deepEqual(at('http://proxy.example/'), [false, 'proxy.example', 80, undefined]);
    assert.deepEqual(at('https://proxy.example'), [true, 'proxy.example', 443, undefined]);
    assert.deepEqual(at('proxy.example:3128'), [false, 'proxy.example', 3128, undefined]);
    assert.deepEqual(at('http://[2001:db8::1]:3128'), [false, '2001:db8::1', 3128, undefined]);
    assert.deepEqual(at('http://192.0.2.1:3128'), [false, '192.0.2.1', 3128, undefined]);
    assert.deepEqual(at('http://me:secret@proxy.example:1'), [false, 'proxy.example', 1, basic('me:secret')]);
    assert.deepEqual(at('http://me@proxy.example:1'), [false, 'proxy.example', 1, basic('me:')]);
    assert.deepEqual(at('http://a%40b:p%3Aw%2F%C3%A9@proxy.example:1'), [
      false,
      'proxy.example',
      1,
      basic('a@b:p:w/é'),
    ]);
  });

  it('is refused with a sentence that never repeats it', () => {
    for (const text of [
      'nonsense',
      'not a url',
      ':3128',
      'http://',
      'http://:3128',
      'http://bad host:1',
      'http://me:secret@',
      'http://me:secret@proxy.example:99999',
      'http://me:secret@proxy.example/path',
      'http://me:secret@proxy.example?x',
      'http://me:sec%ret@proxy.example',
      'socks5://me:secret@proxy.example:1080',
      'ftp://proxy.example',
    ]) {
      assert.throws(
        () => parseProxyUrl(text),
        (error: Error) => {
          assert.ok(error instanceof RangeError, text);
          assert.doesNotMatch(`${error.message} ${String(error.cause)}`, /secret|sec%ret|bad host|nonsense/);
          return true;
        },
        text,
      );
    }
  });

  it('shows no credentials', () => {
    assert.equal(parseProxyUrl('http://me:secret@proxy.example:3128').url, 'http://proxy.example:3128');
  });
});

describe('NO_PROXY', () => {
  const server = parseProxyUrl('http://proxy.example:3128');
  const isDirect = (noProxy: string, host: string, port = 443, addresses = [host]): boolean => {
    const settings: ProxySettings = { server, exceptions: parseNoProxy(noProxy) };
    return proxyFor(settings, { host, port, addresses }) === undefined;
  };

  it('names hosts with everything below them, with and without a dot', () => {
    for (const entry of ['gateway.example', '.gateway.example', '*.gateway.example', 'GATEWAY.example.']) {
      assert.ok(isDirect(entry, 'api.gateway.example'), entry);
      assert.ok(isDirect(entry, 'a.b.Gateway.Example.'), entry);
      assert.ok(isDirect(entry, 'gateway.example'), entry);
      assert.ok(!isDirect(entry, 'notgateway.example'), entry);
      assert.ok(!isDirect(entry, 'gateway.example.other'), entry);
      assert.ok(!isDirect(entry, 'example'), entry);
    }
  });

  it('names ports', () => {
    assert.ok(isDirect('gateway.example:8443', 'api.gateway.example', 8443));
    assert.ok(!isDirect('gateway.example:8443', 'api.gateway.example', 443));
    assert.ok(isDirect('192.0.2.1:8443', '192.0.2.1', 8443));
    assert.ok(!isDirect('192.0.2.1:8443', '192.0.2.1', 443));
    assert.ok(isDirect('[2001:db8::1]:8443', '2001:db8::1', 8443));
    assert.ok(!isDirect('[2001:db8::1]:8443', '2001:db8::1', 443));
  });

  it('names addresses and ranges, of the target or of what its name means', () => {
    assert.ok(isDirect('192.0.2.1', '192.0.2.1'));
    assert.ok(!isDirect('192.0.2.1', '192.0.2.10'));
    assert.ok(isDirect('10.0.0.0/8', '10.255.0.1'));
    assert.ok(!isDirect('10.0.0.0/8', '11.0.0.1'));
    assert.ok(isDirect('192.168.4.0/22', '192.168.7.255'));
    assert.ok(!isDirect('192.168.4.0/22', '192.168.8.0'));
    assert.ok(isDirect('2001:db8::/32', '2001:db8:1::5'));
    assert.ok(isDirect('[2001:db8::1]', '2001:db8::1'));
    assert.ok(!isDirect('2001:db8::/32', '2001:db9::'));
    assert.ok(isDirect('10.0.0.0/8', 'api.gateway.example', 443, ['10.1.2.3', '10.1.2.4']));
    assert.ok(!isDirect('10.0.0.0/8', 'api.gateway.example', 443, ['10.1.2.3', '192.0.2.1']), 'one is outside');
    assert.ok(!isDirect('0.0.0.0/0', 'api.gateway.example', 443, []), 'a name without address');
  });

  it('is a list, and `*` is everything', () => {
    assert.ok(isDirect('*', 'api.gateway.example'));
    assert.ok(isDirect('localhost, 127.0.0.1,gateway.example', 'gateway.example'));
    assert.ok(isDirect('localhost gateway.example', 'gateway.example'));
    assert.ok(!isDirect('', 'gateway.example'));
    assert.ok(!isDirect(' , ,,', 'gateway.example'));
    assert.ok(!isDirect('10.0.0.0/99,999.1.1.1,a b/c,:80,%', 'gateway.example'), 'what means nothing is passed over');
  });

  it('has names resolved only where a range could except them', () => {
    const needs = (noProxy: string, host: string, port = 443): boolean =>
      needsAddresses({ server, exceptions: parseNoProxy(noProxy) }, { host, port });
    assert.ok(needs('10.0.0.0/8', 'gateway.example'));
    assert.ok(!needs('10.0.0.0/8', '192.0.2.1'));
    assert.ok(!needs('10.0.0.1:80', 'gateway.example'));
    assert.ok(!needs('other.example', 'gateway.example'));
  });
});

describe('environment variables', () => {
  it('the lower-case one wins, and an empty one counts as absent', () => {
    const urlOf = (env: Record<string, string>): string | undefined => proxySettingsOf(env).settings.server?.url;
    assert.equal(
      urlOf({ HTTPS_PROXY: 'http://upper.example:1', https_proxy: 'http://lower.example:2' }),
      'http://lower.example:2',
    );
    assert.equal(urlOf({ HTTPS_PROXY: 'http://upper.example:1', https_proxy: '' }), 'http://upper.example:1');
    assert.equal(urlOf({ HTTP_PROXY: 'http://other.example:1' }), undefined);
    assert.equal(proxySettingsOf({ no_proxy: 'a', NO_PROXY: 'b,c' }).settings.exceptions.length, 1);
  });

  it('a fault is told with the name of the variable', () => {
    const { problems, settings } = proxySettingsOf({ https_proxy: 'nonsense' });
    assert.equal(problems[0]?.path, 'https_proxy');
    assert.match(problems[0].message, /is not the URL of a proxy: it looks like http:/);
    assert.equal(settings.server, undefined);
  });
});
