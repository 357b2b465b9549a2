/**
 * Who may import whom, and who owns which risky dependency. The sources are parsed, so that a comment or a string
 * counts for nothing and an `import type` counts as much as any other import.
 */
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import { test } from 'node:test';
import ts from 'typescript';

const ROOT = join(import.meta.dirname, '../..');

interface Source {
  /** Relative to the root of the repository. */
  readonly path: string;
  readonly text: string;
}

const readSources = (): Source[] =>
  globSync(['shared/src/**/*.ts', 'gateway/src/**/*.ts', 'tunnel-client/src/**/*.ts'], { cwd: ROOT })
    .map((path) => ({ path: path.replaceAll('\\', '/'), text: readFileSync(join(ROOT, path), 'utf8') }))
    .sort((a, b) => a.path.localeCompare(b.path));

/** Every module that `source` imports or re-exports, statically or dynamically; relative ones as paths from the root. */
const importsOf = ({ path, text }: Source): string[] =>
  ts
    .preProcessFile(text, true, true)
    .importedFiles.map(({ fileName }) =>
      fileName.startsWith('.') ? posix.normalize(posix.join(posix.dirname(path), fileName)) : fileName,
    );

/**
 * The layers, most special first: a file belongs to the first layer that it lies in, and may import its own layer and
 * what is listed. A prefix that ends in `/` is a directory; `shared` stands for all of `shared/src`.
 */
const LAYERS: readonly (readonly [layer: string, mayImport: readonly string[]])[] = [
  // transport/connection.ts is the contract between the two: neither knows anything else of the other.
  ['shared/src/transport/connection.ts', []],
  ['shared/src/transport/', ['shared base', 'shared/src/identity/keys.ts', 'shared/src/transport/connection.ts']],
  // What join and renew carry shares the shape of a gateway's address with the control stream.
  ['shared/src/identity/enrolment.ts', ['shared base', 'shared/src/identity/', 'shared/src/protocol/messages.ts']],
  ['shared/src/identity/', ['shared base']],
  ['shared/src/protocol/', ['shared base', 'shared/src/identity/', 'shared/src/transport/connection.ts']],
  ['shared/src/', ['shared base']],

  ['gateway/src/errors.ts', []],
  ['gateway/src/html.ts', []],
  ['gateway/src/linked-list.ts', []],
  ['gateway/src/limits.ts', []],
  ['gateway/src/version.ts', []],
  ['gateway/src/config.ts', ['gateway/src/config-schema.ts', 'gateway/src/limits.ts', 'shared']],
  ['gateway/src/config-schema.ts', ['gateway/src/config.ts', 'gateway/src/limits.ts', 'shared']],
  ['gateway/src/directory/', ['gateway base', 'shared']],
  ['gateway/src/tunnels/', ['gateway/src/directory/', 'gateway base', 'shared']],
  [
    // Pages and routes around the sign-in: they look like the error pages, and are registered on a Fastify host.
    'gateway/src/access/sign-in/',
    [
      'gateway/src/access/',
      'gateway/src/edge/host-router.ts',
      'gateway/src/edge/error-page-assets.ts',
      'gateway/src/hosts/fastify-host.ts',
      'gateway/src/proxy/exchange.ts',
      'gateway/src/proxy/navigation.ts',
      'gateway/src/tunnels/route.ts',
      'gateway base',
      'shared',
    ],
  ],
  [
    'gateway/src/access/',
    [
      // What a request is: the types of it, and whether a person sees its answer as a page.
      'gateway/src/proxy/exchange.ts',
      'gateway/src/proxy/navigation.ts',
      'gateway/src/tunnels/',
      'gateway/src/directory/',
      'gateway base',
      'shared',
    ],
  ],
  ['gateway/src/proxy/', ['gateway/src/access/', 'gateway/src/tunnels/', 'gateway base', 'shared']],
  [
    'gateway/src/logs/',
    ['gateway/src/proxy/', 'gateway/src/access/', 'gateway/src/tunnels/route.ts', 'gateway base', 'shared'],
  ],
  ['gateway/src/edge/', ['gateway/src/proxy/', 'gateway/src/access/', 'gateway base', 'shared']],
  ['gateway/src/api/', ['gateway/src/directory/', 'gateway base', 'shared']],
  ['gateway/src/observability/log.ts', ['shared']],
  [
    'gateway/src/observability/',
    [
      'gateway/src/proxy/exchange.ts',
      'gateway/src/proxy/trace-parent.ts',
      'gateway/src/start-error.ts',
      'gateway/src/tunnels/',
      'gateway/src/directory/',
      'gateway base',
      'shared',
    ],
  ],
  ['gateway/src/hosts/', ['gateway/src/api/', 'gateway/src/proxy/exchange.ts', 'gateway base', 'shared']],
  [
    'gateway/src/oauth/',
    [
      'gateway/src/hosts/fastify-host.ts',
      'gateway/src/proxy/',
      'gateway/src/tunnels/',
      'gateway/src/directory/',
      'gateway base',
      'shared',
    ],
  ],
  ['gateway/src/start-error.ts', ['gateway base', 'shared']],
  // The composition root wires everything below the command line.
  ['gateway/src/gateway.ts', ['gateway/src/', 'shared']],
  ['gateway/src/parts.ts', ['gateway/src/', 'shared']],
  ['gateway/src/open-parts.ts', ['gateway/src/', 'shared']],
  ['gateway/src/closers.ts', ['gateway base']],
  ['gateway/src/live-config.ts', ['gateway base']],
  ['gateway/src/listen.ts', ['gateway/src/start-error.ts', 'gateway base']],
  [
    'gateway/src/cli/',
    [
      'gateway/src/gateway.ts',
      'gateway/src/observability/',
      'gateway/src/access/',
      'gateway/src/directory/',
      // Whether a certificate can be used is said before the gateway starts, too.
      'gateway/src/edge/certificates.ts',
      'gateway base',
      'shared',
    ],
  ],
  ['gateway/src/main.ts', ['gateway/src/cli/', 'gateway base', 'shared']],

  ['tunnel-client/src/main.ts', ['tunnel-client/src/', 'shared']],
  ['tunnel-client/src/cli/', ['tunnel-client/src/', 'shared']],
  ['tunnel-client/src/', ['tunnel-client/src/', 'shared']],
];

/** Importable by all of their package. */
const GATEWAY_BASE = [
  'gateway/src/errors.ts',
  'gateway/src/html.ts',
  'gateway/src/linked-list.ts',
  'gateway/src/limits.ts',
  'gateway/src/version.ts',
  'gateway/src/config.ts',
  'gateway/src/config-schema.ts',
  'gateway/src/observability/log.ts',
];
/** Never imported by anything but what is named here. */
const ENTRANCES: readonly (readonly [prefix: string, importers: RegExp])[] = [
  ['gateway/src/main.ts', /^$/],
  ['gateway/src/cli/', /^gateway\/src\/(?:main\.ts|cli\/)/],
  ['gateway/src/gateway.ts', /^gateway\/src\/(?:main\.ts|cli\/)/],
  ['gateway/src/parts.ts', /^gateway\/src\/gateway\.ts$/],
  ['gateway/src/open-parts.ts', /^gateway\/src\/parts\.ts$/],
  ['tunnel-client/src/main.ts', /^$/],
  ['tunnel-client/src/cli/', /^tunnel-client\/src\/(?:main\.ts|cli\/)/],
];

/** Risky or large dependencies: module → the only files that may know it. */
const OWNERS: readonly (readonly [module: RegExp, owner: RegExp])[] = [
  [/^@chainsafe\/libp2p-quic/, /^shared\/src\/transport\/quic[^/]*\.ts$/],
  [/^@fails-components\//, /^shared\/src\/transport\/webtransport[^/]*\.ts$/],
  [/^ws$/, /^shared\/src\/transport\/websocket[^/]*\.ts$/],
  [/^openid-client$/, /^gateway\/src\/access\/sign-in\/provider\.ts$/],
  [/^prom-client$/, /^gateway\/src\/observability\//],
  [/^node:sqlite$/, /^gateway\/src\/directory\//],
  [/^tweetnacl$/, /^shared\/src\/identity\//],
];

const isIn = (path: string, prefix: string): boolean =>
  prefix.endsWith('/') ? path.startsWith(prefix) : path === prefix;
const layerOf = (path: string) => LAYERS.find(([prefix]) => isIn(path, prefix));

const isAllowed = (imported: string, allowed: string): boolean => {
  if (allowed === 'shared') return imported.startsWith('shared/src/');
  if (allowed === 'shared base') return /^shared\/src\/[^/]+$/.test(imported);
  if (allowed === 'gateway base') return GATEWAY_BASE.includes(imported);
  return isIn(imported, allowed);
};

const directionFaults = (source: Source): string[] => {
  const layer = layerOf(source.path);
  if (!layer) return [`${source.path} lies in no layer: add it to LAYERS`];
  const [own, mayImport] = layer;
  return importsOf(source)
    .filter((imported) => /^(?:shared|gateway|tunnel-client)\/src\//.test(imported))
    .filter((imported) => {
      const isEntrance = ENTRANCES.some(
        ([prefix, importers]) => isIn(imported, prefix) && !importers.test(source.path),
      );
      return isEntrance || !(isIn(imported, own) || mayImport.some((allowed) => isAllowed(imported, allowed)));
    })
    .map((imported) => `${source.path} imports ${imported}`);
};

/** The binding is loaded by a computed name, so string literals count as well as imports. */
const stringsOf = ({ path, text }: Source): string[] => {
  const strings: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isStringLiteralLike(node) || ts.isTemplateHead(node)) strings.push(node.text);
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(path, text, ts.ScriptTarget.Latest));
  return strings;
};

const ownerFaults = (source: Source): string[] =>
  OWNERS.filter(([, owner]) => !owner.test(source.path)).flatMap(([module]) =>
    [...new Set(stringsOf(source))].filter((text) => module.test(text)).map((text) => `${source.path} names ${text}`),
  );

/** What belongs to the process as a whole. Standard streams, versions and the like do not. */
const PROCESS_EDGE = new Set([
  'env',
  'exit',
  'exitCode',
  'on',
  'once',
  'addListener',
  'kill',
  'abort',
  'chdir',
  'umask',
]);

/** The one who may send signals: to the process groups of log commands. */
const SIGNAL_SENDER = 'tunnel-client/src/log-server/end-process.ts';

const processFaults = ({ path, text }: Source): string[] => {
  if (/^[^/]+\/src\/main\.ts$/.test(path)) return [];
  const faults: string[] = [];
  const visit = (node: ts.Node): void => {
    if (
      ts.isPropertyAccessExpression(node) &&
      node.expression.getText() === 'process' &&
      PROCESS_EDGE.has(node.name.text) &&
      !(path === SIGNAL_SENDER && node.name.text === 'kill')
    ) {
      faults.push(`${path} touches process.${node.name.text}`);
    }
    if (ts.isElementAccessExpression(node) && node.expression.getText() === 'process') {
      faults.push(`${path} touches process[…]`);
    }
    if (ts.isImportDeclaration(node) && /^(?:node:)?process$/.test((node.moduleSpecifier as ts.StringLiteral).text)) {
      faults.push(`${path} imports node:process`);
    }
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true));
  return faults;
};

const moduleStateFaults = ({ path, text }: Source): string[] =>
  ts
    .createSourceFile(path, text, ts.ScriptTarget.Latest, true)
    .statements.filter(ts.isVariableStatement)
    .filter(({ declarationList }) => (declarationList.flags & ts.NodeFlags.BlockScoped) !== ts.NodeFlags.Const)
    .map(
      ({ declarationList }) =>
        `${path} has a module-level variable ${declarationList.declarations[0]?.name.getText() ?? ''}`,
    );

const packageFaults = (source: Source): string[] => {
  const workspace = source.path.split('/')[0] ?? '';
  const manifest = JSON.parse(readFileSync(join(ROOT, workspace, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
    optionalDependencies: Record<string, string>;
  };
  const declared = { ...manifest.dependencies, ...manifest.optionalDependencies };
  return importsOf(source)
    .filter((imported) => !imported.startsWith('node:') && !/^(?:shared|gateway|tunnel-client)\/src\//.test(imported))
    .map((imported) => /^(?:@[^/]+\/)?[^/]+/.exec(imported)?.[0] ?? imported)
    .filter((name) => !Object.hasOwn(declared, name))
    .map((name) => `${source.path} imports ${name}, which ${workspace}/package.json does not declare`);
};

const sources = readSources();

test('there are sources to check', () => {
  for (const workspace of ['shared', 'gateway', 'tunnel-client']) {
    assert.ok(
      sources.some(({ path }) => path.startsWith(`${workspace}/src/`)),
      `no source of ${workspace} was found`,
    );
  }
});

test('imports go in one direction only', () => {
  assert.deepEqual(sources.flatMap(directionFaults), []);
});

test('a risky dependency has one owner', () => {
  assert.deepEqual(sources.flatMap(ownerFaults), []);
});

test('main.ts alone touches the environment, signals and exit codes', () => {
  assert.deepEqual(sources.flatMap(processFaults), []);
});

test('no module has a variable that can change', () => {
  assert.deepEqual(sources.flatMap(moduleStateFaults), []);
});

test('each workspace declares every package that it imports', () => {
  assert.deepEqual(sources.flatMap(packageFaults), []);
});

/** Each rule must be able to fail: a source that breaks it, and what is then said. */
const BROKEN: readonly (readonly [rule: (source: Source) => string[], path: string, text: string])[] = [
  [directionFaults, 'shared/src/protocol/x.ts', "import { listenQuic } from '../transport/quic.ts';"],
  [directionFaults, 'shared/src/transport/x.ts', "import type { Leg } from '../protocol/leg.ts';"],
  [directionFaults, 'shared/src/x.ts', "export * from '../../gateway/src/errors.ts';"],
  [directionFaults, 'gateway/src/proxy/x.ts', "import { createEdge } from '../edge/edge.ts';"],
  [directionFaults, 'gateway/src/tunnels/x.ts', "const m = await import('../proxy/exchange.ts');"],
  [directionFaults, 'gateway/src/directory/x.ts', "import type { TunnelRegistry } from '../tunnels/registry.ts';"],
  [directionFaults, 'gateway/src/edge/x.ts', "import { startGateway } from '../gateway.ts';"],
  [directionFaults, 'gateway/src/x/y.ts', ''],
  [directionFaults, 'gateway/src/cli/x.ts', "import { connectRunner } from '../../../tunnel-client/src/client.ts';"],
  [directionFaults, 'tunnel-client/src/x.ts', "import { GATEWAY_ERRORS } from '../../gateway/src/errors.ts';"],
  [directionFaults, 'tunnel-client/src/x.ts', "import { run } from './cli/run.ts';"],
  [ownerFaults, 'shared/src/transport/memory.ts', "require('@chainsafe/libp2p-quic-linux-x64-gnu');"],
  [ownerFaults, 'gateway/src/tunnels/x.ts', "import { Gauge } from 'prom-client';"],
  [processFaults, 'gateway/src/gateway.ts', "if (process.env['CI']) process.stdout.write('');"],
  [processFaults, 'tunnel-client/src/log-server/follower.ts', "process.kill(1, 'SIGTERM');"],
  [processFaults, 'tunnel-client/src/client.ts', "process.on('SIGTERM', () => {});"],
  [processFaults, 'tunnel-client/src/client.ts', "import { env } from 'node:process';"],
  [moduleStateFaults, 'shared/src/x.ts', 'let counter = 0; export const next = () => counter++;'],
  [packageFaults, 'tunnel-client/src/x.ts', "import fastify from 'fastify';"],
];

for (const [rule, path, text] of BROKEN) {
  test(`the rules notice in ${path}: ${text || 'a file of no layer'}`, () => {
    assert.equal(rule({ path, text }).length, 1);
  });
}
