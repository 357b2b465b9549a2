import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isPreflight, preflightFields, refusalFields } from '../../gateway/src/access/cors.ts';
import {
  cookieVerdict,
  environmentOfOrigin,
  isListed,
  type CookieVerdict,
  type FetchRequest,
} from '../../gateway/src/access/origins.ts';

const HOST = '3000--demo.gateway.example';
const OWN = `https://${HOST}`;
const request = (fields: Record<string, string>, over: Partial<FetchRequest> = {}): FetchRequest => ({
  method: 'GET',
  host: HOST,
  authorityPort: 443,
  rawHeaders: Object.entries(fields).flat(),
  isUpgrade: false,
  ...over,
});
const verdict = (fields: Record<string, string>, over: Partial<FetchRequest> = {}): CookieVerdict =>
  cookieVerdict(request(fields, over));
const fetchMetadata = (site: string, mode: string, dest: string): Record<string, string> => ({
  'Sec-Fetch-Site': site,
  'Sec-Fetch-Mode': mode,
  'Sec-Fetch-Dest': dest,
});

test('requests of the own page and of the visitor’s own hand count', () => {
  for (const site of ['same-origin', 'none']) {
    for (const method of ['GET', 'POST', 'DELETE']) {
      assert.equal(verdict(fetchMetadata(site, 'cors', 'empty'), { method }), 'always');
      assert.equal(verdict(fetchMetadata(site, 'navigate', 'document'), { method }), 'always');
    }
  }
});

test('a link that is followed counts, whoever wrote it', () => {
  for (const site of ['same-site', 'cross-site']) {
    assert.equal(verdict(fetchMetadata(site, 'navigate', 'document')), 'always');
  }
});

test('what a page of somebody else makes the browser send counts by its origin alone', () => {
  const origin = 'https://3000--evil.gateway.example';
  for (const site of ['same-site', 'cross-site']) {
    for (const [mode, dest] of [
      ['no-cors', 'script'],
      ['no-cors', 'image'],
      ['no-cors', 'empty'],
      ['navigate', 'iframe'],
      ['navigate', 'object'],
      ['navigate', 'embed'],
      ['websocket', 'websocket'],
    ] as const) {
      assert.equal(verdict(fetchMetadata(site, mode, dest)), 'never', `${mode} ${dest}`);
    }
    for (const method of ['POST', 'HEAD', 'PUT']) {
      assert.equal(verdict(fetchMetadata(site, 'navigate', 'document'), { method }), 'never', method);
    }
    assert.deepEqual(verdict({ ...fetchMetadata(site, 'cors', 'empty'), Origin: origin }), { origin });
    assert.deepEqual(verdict({ ...fetchMetadata(site, 'navigate', 'document'), Origin: origin }, { method: 'POST' }), {
      origin,
    });
  }
});

test('a frame counts by who shows it', () => {
  const shown = (referer: string): CookieVerdict =>
    verdict({ ...fetchMetadata('same-site', 'navigate', 'iframe'), Referer: referer });
  assert.deepEqual(shown('https://8080--demo.gateway.example/page?x'), {
    origin: 'https://8080--demo.gateway.example',
  });
  assert.deepEqual(shown('https://8080--demo.gateway.example:443/'), { origin: 'https://8080--demo.gateway.example' });
  assert.equal(shown('no address'), 'never');
  assert.equal(verdict(fetchMetadata('same-site', 'navigate', 'iframe')), 'never', 'a Referer may be withheld');
});

test('old browsers and programs: an Origin counts where it is sent, and has to be sent with what changes something', () => {
  assert.equal(verdict({}), 'always');
  assert.equal(verdict({}, { method: 'HEAD' }), 'always');
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH']) assert.equal(verdict({}, { method }), 'never');
  assert.deepEqual(verdict({ Origin: OWN }), { origin: OWN });
  assert.deepEqual(verdict({ Origin: OWN }, { method: 'POST' }), { origin: OWN });
});

test('an upgrade always needs an Origin', () => {
  assert.equal(verdict(fetchMetadata('same-origin', 'websocket', 'empty'), { isUpgrade: true }), 'never');
  assert.equal(verdict({}, { isUpgrade: true }), 'never');
  assert.deepEqual(verdict({ Origin: OWN }, { isUpgrade: true }), { origin: OWN });
});

test('two lines of one field are no valid value', () => {
  const rawHeaders = ['Sec-Fetch-Site', 'same-origin', 'sec-fetch-site', 'same-origin'];
  assert.equal(verdict({}, { rawHeaders }), 'never');
  assert.deepEqual(verdict({}, { rawHeaders: ['Origin', OWN, 'Origin', OWN] }), { origin: `${OWN}, ${OWN}` });
});

test('the origins of an environment are its port hosts, on the same domain and port', () => {
  const of = (origin: string, authorityPort = 443): string | undefined =>
    environmentOfOrigin(origin, { host: HOST, authorityPort });
  for (const origin of [OWN, 'https://8080--demo.gateway.example', 'https://8443s--demo.gateway.example']) {
    assert.equal(of(origin), 'demo', origin);
  }
  assert.equal(of('https://3000--other.gateway.example'), 'other');
  assert.equal(of('https://3000--demo.gateway.example:8443', 8443), 'demo');
  for (const origin of [
    'null',
    '',
    'https://gateway.example',
    'https://api.gateway.example',
    'http://3000--demo.gateway.example',
    'HTTPS://3000--demo.gateway.example',
    'https://3000--demo.gateway.example/',
    'https://3000--demo.gateway.example.',
    'https://3000--demo.gateway.example:8443',
    'https://3000--demo.gateway.example:443',
    'https://3000--demo.gateway.example.evil.test',
    'https://evil.test/3000--demo.gateway.example',
    'https://3000--demo.evil.gateway.example',
    'https://evil.3000--demo.gateway.example',
    'https://user@3000--demo.gateway.example',
    'https://03000--demo.gateway.example',
    'https://80--demo.gateway.example',
    'https://99999--demo.gateway.example',
    'https://22999--demo.gateway.example',
    'https://3000ss--demo.gateway.example',
    'https://3000--de--mo.gateway.example',
    'https://3000--Demo.gateway.example',
    'https://3000---demo.gateway.example',
    'https://3000--demo.other.example',
    `${OWN}, ${OWN}`,
  ]) {
    assert.equal(of(origin), undefined, origin);
  }
  assert.equal(of(OWN, 8443), undefined, 'another port is another origin');
});

test('listed are the environment itself and what the configuration names', () => {
  const at = { host: HOST, authorityPort: 443 };
  const rules = { sameCreator: false, origins: ['https://app.example'] };
  assert.equal(isListed(OWN, 'demo', at, rules), 'yes');
  assert.equal(isListed('https://8080--demo.gateway.example', 'demo', at, rules), 'yes');
  assert.equal(isListed('https://app.example', 'demo', at, rules), 'yes');
  for (const origin of ['https://3000--evil.gateway.example', 'https://app.example.evil.test', 'null']) {
    assert.equal(isListed(origin, 'demo', at, rules), 'no', origin);
  }
  const sameCreator = { ...rules, sameCreator: true };
  assert.deepEqual(isListed('https://3000--other.gateway.example', 'demo', at, sameCreator), {
    ifSameCreatorAs: 'other',
  });
  assert.equal(isListed('https://gateway.example', 'demo', at, sameCreator), 'no');
});

test('a preflight is an OPTIONS that asks for another origin', () => {
  const asked = ['Origin', OWN, 'Access-Control-Request-Method', 'PUT', 'Access-Control-Request-Headers', 'x-a,x-b'];
  assert.equal(isPreflight('OPTIONS', asked), true);
  assert.equal(isPreflight('GET', asked), false);
  assert.equal(isPreflight('OPTIONS', asked.slice(0, 2)), false);
  assert.equal(isPreflight('OPTIONS', asked.slice(2)), false);
  assert.deepEqual(Object.fromEntries(preflightFields(OWN, asked)), {
    'Access-Control-Allow-Origin': OWN,
    'Access-Control-Allow-Credentials': 'true',
    'Access-Control-Allow-Methods': 'PUT',
    'Access-Control-Allow-Headers': 'x-a,x-b',
    'Access-Control-Max-Age': '600',
    Vary: 'Origin, Access-Control-Request-Method, Access-Control-Request-Headers',
  });
  assert.equal(Object.fromEntries(refusalFields(OWN))['Access-Control-Allow-Credentials'], 'true');
});
