import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const ROOT = join(import.meta.dirname, '../..');

interface Manifest {
  readonly version?: string;
  readonly link?: boolean;
  readonly resolved?: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}
const readJson = (path: string): unknown => JSON.parse(readFileSync(join(ROOT, path), 'utf8'));
const lock = (readJson('package-lock.json') as { packages: Record<string, Manifest> }).packages;

/** Where a package that the one at `from` depends on was put: the nearest `node_modules` upwards that has it. */
const locate = (from: string, name: string): string | undefined => {
  for (let base = from; ; base = base.replace(/(?:^|\/)(?:node_modules\/)?(?:@[^/]+\/)?[^/]+$/, '')) {
    const path = posixJoin(base, 'node_modules', name);
    if (Object.hasOwn(lock, path)) return path;
    if (base === '') return undefined;
  }
};
const posixJoin = (...parts: string[]): string => parts.filter(Boolean).join('/');

/** Paths in the lock file of everything that `workspace` brings in production, optional packages included. */
const productionTree = (workspace: string): Set<string> => {
  const seen = new Set<string>();
  const visit = (path: string): void => {
    const { dependencies, optionalDependencies } = lock[path] ?? {};
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      const found = locate(path, name);
      // Also the packages of other platforms: without them npm refuses the lock file ("Missing: … from lock file").
      assert.ok(found !== undefined, `${name} is not in the lock file`);
      if (seen.has(found)) continue;
      seen.add(found);
      visit(found);
    }
  };
  visit(workspace);
  return seen;
};
const nameOf = (path: string): string => path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length);

const tunnelClientNames = (): string[] => [...new Set([...productionTree('tunnel-client')].map(nameOf))].sort();
const committedNames = readFileSync(join(import.meta.dirname, 'tunnel-client-dependencies.txt'), 'utf8')
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'));

test('the tunnel client brings the packages of the committed list and no others', () => {
  assert.deepEqual(tunnelClientNames(), committedNames);
});

test('the tunnel client stays embeddable: no HTTP framework, no metrics library, no cache', () => {
  const names = new Set(tunnelClientNames());
  for (const unwanted of ['fastify', '@fastify/http-proxy', 'undici', 'prom-client', 'lru-cache']) {
    assert.ok(!names.has(unwanted), `${unwanted} is in the production tree of the tunnel client`);
  }
  // The native half of WebTransport (HTTP/3) comes from GitHub at install time, or compiles for 20 minutes.
  for (const name of names) assert.doesNotMatch(name, /http3-quiche/);
  // The walk itself finds them where they are.
  const gateway = new Set([...productionTree('gateway')].map(nameOf));
  for (const present of ['fastify', '@fastify/reply-from', 'prom-client', 'lru-cache']) assert.ok(gateway.has(present));
});

const isAtLeast = (version: string, minimum: string): boolean => {
  const [a, b] = [version, minimum].map((text) => text.split('-')[0]?.split('.').map(Number) ?? []);
  for (let index = 0; index < 3; index++) {
    const difference = (a?.[index] ?? 0) - (b?.[index] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return true;
};

/** Versions below these have published faults in how they forward requests. */
const MINIMUM_VERSIONS = { '@fastify/http-proxy': '11.6.3', '@fastify/reply-from': '12.6.5', undici: '7.24.0' };

test('no copy of a proxy library is older than it may be', () => {
  for (const [name, minimum] of Object.entries(MINIMUM_VERSIONS)) {
    const copies = Object.keys(lock).filter((path) => path.endsWith(`node_modules/${name}`));
    assert.ok(copies.length > 0, `${name} is not in the lock file`);
    for (const path of copies) {
      const version = lock[path]?.version ?? '0';
      assert.ok(isAtLeast(version, minimum), `${path} is ${version}, must be ${minimum} or newer`);
    }
  }
  assert.ok(!isAtLeast('11.6.2', '11.6.3') && !isAtLeast('7.23.9', '7.24.0') && isAtLeast('8.0.0', '7.24.0'));
});

const MANIFESTS = ['package.json', 'shared/package.json', 'gateway/package.json', 'tunnel-client/package.json'];

test('a package that several workspaces need has the same, exact version everywhere', () => {
  const versions = new Map<string, string>();
  for (const path of MANIFESTS) {
    const manifest = readJson(path) as Manifest & { devDependencies?: Record<string, string> };
    const all = { ...manifest.dependencies, ...manifest.optionalDependencies, ...manifest.devDependencies };
    for (const [name, version] of Object.entries(all)) {
      assert.match(version, /^\d+\.\d+\.\d+$/, `${path}: ${name} has no exact version`);
      assert.equal(version, versions.get(name) ?? version, `${path}: ${name} differs from another workspace`);
      versions.set(name, version);
    }
  }
});

test('gateway and tunnel client declare all that shared needs, since it is compiled into them', () => {
  const shared = readJson('shared/package.json') as Manifest;
  for (const workspace of ['gateway', 'tunnel-client']) {
    const own = readJson(`${workspace}/package.json`) as Manifest;
    for (const kind of ['dependencies', 'optionalDependencies'] as const) {
      const missing = Object.keys(shared[kind] ?? {}).filter((name) => !Object.hasOwn(own[kind] ?? {}, name));
      assert.deepEqual(missing, [], `${workspace}/package.json, ${kind}`);
    }
  }
});
