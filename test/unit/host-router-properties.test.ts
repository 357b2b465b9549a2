/** What holds for every host name, found or made up. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseAuthority, parseHost, type HostRoute } from '../../gateway/src/edge/host-router.ts';
import { isId, LOG_PORT, parsePort } from '../../shared/src/hostname.ts';

const RUNS = 2_000;
const SEED = 20_261_120;
const DOMAINS = ['gateway.example', 'dev.gateway.example', 'other.test'];
const PORTS = new Set([443, 8443]);
const route = (authority: string): HostRoute => parseHost(authority, { domains: DOMAINS, ports: PORTS });
const check = <T>(arbitrary: fc.Arbitrary<T>, predicate: (value: T) => void): void =>
  fc.assert(fc.property(arbitrary, predicate), { numRuns: RUNS, seed: SEED });

const SERVICES = new Set(['api', 'tunnel']);
const id = fc.stringMatching(/^[a-z0-9](?:-?[a-z0-9]){0,20}$/).filter((text) => isId(text) && !SERVICES.has(text));
const port = fc.integer({ min: 1_024, max: 65_535 }).filter((number) => number !== LOG_PORT);
const domain = fc.constantFrom(...DOMAINS);
type Found = Exclude<HostRoute, { kind: 'error' | 'address' }>;
const service = fc.constantFrom('api' as const, 'tunnel' as const);
const found: fc.Arbitrary<Found> = fc.oneof(
  domain.map((name): Found => ({ kind: 'apex', domain: name })),
  fc.tuple(domain, port, fc.boolean(), id).map(([name, number, tls, environmentId]): Found => ({
    kind: 'port',
    domain: name,
    port: number,
    tls,
    environmentId,
  })),
  fc.tuple(domain, id).map(([name, environmentId]): Found => ({ kind: 'logs', domain: name, environmentId })),
  fc.tuple(domain, id).map(([name, runnerId]): Found => ({ kind: 'runner', domain: name, runnerId })),
  fc.tuple(domain, service).map(([name, which]): Found => ({ kind: 'service', domain: name, service: which })),
);

/** The host name of a route, as its grammar says. */
const format = (to: Found): string => {
  switch (to.kind) {
    case 'apex':
      return to.domain;
    case 'port':
      return `${to.port}${to.tls ? 's' : ''}--${to.environmentId}.${to.domain}`;
    case 'logs':
      return `${LOG_PORT}--${to.environmentId}.${to.domain}`;
    case 'runner':
      return `${to.runnerId}.${to.domain}`;
    case 'service':
      return `${to.service}.${to.domain}`;
  }
};
/** `dev.gateway.example` is a domain as well as the name of a runner. */
const isDomain = (name: string): boolean => DOMAINS.includes(name);

test('a route that was written is read as the same, in any case, with a dot and a port', () => {
  const written = fc.tuple(found, fc.nat(), fc.boolean(), fc.constantFrom('', ':443', ':8443'));
  check(written, ([to, seed, dot, suffix]) => {
    const name = format(to);
    fc.pre(to.kind === 'apex' || !isDomain(name));
    const mixed = [...name]
      .map((letter, index) => ((seed >> (index % 30)) & 1 ? letter.toUpperCase() : letter))
      .join('');
    assert.deepEqual(route(`${mixed}${dot ? '.' : ''}${suffix}`), to);
  });
});

test('a name outside the domains is never routed, whatever it begins with', () => {
  const suffix = fc.oneof(
    fc.domain(),
    fc.constantFrom(
      ...DOMAINS.flatMap((name) => [`${name}.evil.test`, `x${name}`, `${name}x`, name.replaceAll('.', '-')]),
    ),
  );
  check(fc.tuple(found, suffix), ([to, foreign]) => {
    fc.pre(!DOMAINS.some((name) => foreign === name || foreign.endsWith(`.${name}`)));
    const name = format(to).replace(to.domain, foreign);
    const { kind } = route(name);
    assert.ok(kind === 'error', `${name} is ${kind}`);
    const deeper = route(`${format(to)}.${foreign}`);
    assert.ok(deeper.kind === 'error');
  });
});

test('any text is routed only by what it says: the route written again is that name', () => {
  const alphabet = fc.constantFrom(
    ...'abz019-.:sS_%/@\\[]# \t\0\u00e9',
    '--',
    '3000--',
    '.gateway.example',
    '.evil.test',
  );
  const text = fc.array(alphabet, { maxLength: 12 }).map((parts) => parts.join(''));
  const any = fc.oneof(
    text,
    fc.string(),
    text.map((part) => `${part}.gateway.example`),
    fc.string().map((part) => `${part}.other.test:443`),
  );
  check(any, (authority) => {
    const to = route(authority);
    if (to.kind === 'error') return;
    if (to.kind === 'address') return assert.ok(parseAuthority(authority)?.isAddress);
    assert.equal(format(to), parseAuthority(authority)?.host);
    assert.match(authority, /^[\x21-\x7e]+$/);
    if (to.kind === 'port') assert.equal(parsePort(String(to.port)), to.port);
  });
});

test('a label below a host, and another port, are never routed', () => {
  check(fc.tuple(found, id, fc.integer({ min: 0, max: 99_999 })), ([to, label, other]) => {
    fc.pre(to.kind !== 'apex' && !PORTS.has(other));
    const name = format(to);
    fc.pre(!isDomain(name));
    assert.deepEqual(route(`${label}.${name}`), { kind: 'error', code: 'not_found' });
    assert.deepEqual(route(`${name}:${other}`), { kind: 'error', code: 'bad_host' });
  });
});
