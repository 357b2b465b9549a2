/** The tunnel client as others get it: packed, installed into an empty project, run and imported there. */
import assert from 'node:assert/strict';
import { lstat, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test, type TestContext } from 'node:test';
import { runProcess, type Finished } from '../support/processes.ts';

const ROOT = resolve(import.meta.dirname, '../..');
/** tunnel-client/README.md, with room for what minor releases of others bring. */
const MAX_PACKAGES = 32;
const MAX_INSTALLED_MIB = 16;
/** Packing compiles, installing may ask the registry: ms. */
const NPM_TIMEOUT_MS = 90_000;

const temporaryDirectory = async (t: TestContext): Promise<string> => {
  const directory = await mkdtemp(join(tmpdir(), 'package-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  return directory;
};

const npm = async (cwd: string, ...args: string[]): Promise<Finished> => {
  const result = await runProcess('npm', args, { cwd, timeoutMs: NPM_TIMEOUT_MS });
  assert.equal(result.code, 0, `npm ${args.join(' ')} failed:\n${result.stdout}\n${result.stderr}`);
  return result;
};

const tsc = (cwd: string, ...args: string[]): Promise<Finished> =>
  runProcess(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), ...args], {
    cwd,
    timeoutMs: NPM_TIMEOUT_MS,
  });

/** A program of somebody who embeds the client: as they would write it, with their compiler's strictest settings. */
const CONSUMER = `
import { connectRunner, RefusedError, type RunnerClient, type RunnerStatus } from '@gitpod-gateway/tunnel-client';

const client: RunnerClient = connectRunner({
  gateway: 'https://api.gateway.invalid',
  runnerId: 'runner-1',
  stateDir: process.argv[2] ?? '',
  environments: [{ id: 'demo', ports: [{ port: 3000, admission: 'everyone' }] }],
});
client.on('leg', () => {});
const status: RunnerStatus = client.status();
// @ts-expect-error: the state directory is needed
void (() => connectRunner({ gateway: 'https://api.gateway.invalid', runnerId: 'runner-1' }));
// @ts-expect-error: no such admission
void (() => client.environments.set({ id: 'other', ports: [{ port: 3000, admission: 'anybody' }] }));
await client.close();
console.log('environments:', client.environments.list().map(({ id }) => id).join(), typeof status.state, RefusedError.name);
`;

const TSCONFIG = {
  compilerOptions: {
    target: 'esnext',
    module: 'nodenext',
    strict: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: true,
    outDir: 'out',
    types: ['node'],
    typeRoots: [join(ROOT, 'node_modules/@types')],
  },
  files: ['consumer.ts'],
};

test('the packed tunnel client runs and can be embedded in an empty project', async (t) => {
  const directory = await temporaryDirectory(t);

  const packed = await npm(ROOT, 'pack', '-w', 'tunnel-client', '--pack-destination', directory);
  const tarball = (await readdir(directory)).find((name) => name.endsWith('.tgz'));
  assert.ok(tarball, packed.stdout);
  await writeFile(join(directory, 'package.json'), '{ "private": true, "type": "module" }');
  await npm(directory, 'install', '--prefer-offline', '--no-audit', '--no-fund', `./${tarball}`);

  await t.test('no TypeScript source and nothing of the gateway is in it', async () => {
    const installed = join(directory, 'node_modules/@gitpod-gateway/tunnel-client');
    const files = await readdir(installed, { recursive: true });
    assert.ok(files.includes(join('dist', 'tunnel-client', 'src', 'client.js')));
    // What a browser is sent is not compiled; it has to be copied.
    assert.ok(files.includes(join('dist', 'tunnel-client', 'src', 'inspector', 'page', 'main.js')));
    assert.deepEqual(
      files.filter((file) => /(?<!\.d)\.ts$/.test(file) || file.startsWith(join('dist', 'gateway'))),
      [],
    );
    const modules = await readdir(join(directory, 'node_modules'));
    assert.ok(
      !modules.some((name) => ['fastify', 'prom-client', 'lru-cache', 'undici'].includes(name)),
      modules.join(),
    );
  });

  await t.test('it stays as small as its README says', async () => {
    const lock = await readFile(join(directory, 'node_modules/.package-lock.json'), 'utf8');
    const packages = Object.keys((JSON.parse(lock) as { packages: object }).packages);
    const entries = await readdir(join(directory, 'node_modules'), { recursive: true });
    const sizes = await Promise.all(
      entries.map(async (entry) => {
        const found = await lstat(join(directory, 'node_modules', entry));
        return found.isFile() ? found.size : 0;
      }),
    );
    const mib = sizes.reduce((sum, size) => sum + size, 0) / 2 ** 20;
    assert.ok(packages.length <= MAX_PACKAGES, `${packages.length} packages: ${packages.join(' ')}`);
    assert.ok(mib <= MAX_INSTALLED_MIB, `${mib.toFixed(1)} MiB`);
  });

  await t.test('npx tunnel-client --version tells the version of the package', async () => {
    const { version } = JSON.parse(await readFile(join(ROOT, 'tunnel-client/package.json'), 'utf8')) as {
      version: string;
    };
    const { stdout } = await npm(directory, 'exec', '--offline', '--', 'tunnel-client', '--version');
    assert.ok(stdout.includes(version), stdout);
  });

  await t.test('connectRunner is there, with its types', async () => {
    await writeFile(join(directory, 'consumer.ts'), CONSUMER);
    await writeFile(join(directory, 'tsconfig.json'), JSON.stringify(TSCONFIG));
    const compiled = await tsc(directory);
    assert.equal(compiled.code, 0, compiled.stdout);
    const run = await runProcess(process.execPath, ['out/consumer.js', join(directory, 'state')], { cwd: directory });
    assert.equal(run.stdout.trim(), 'environments: demo string RefusedError', run.stderr);
    assert.equal(run.code, 0);
  });
});

test('the built gateway runs', async (t) => {
  const directory = await temporaryDirectory(t);
  const outDir = join(directory, 'dist');
  const compiled = await tsc(join(ROOT, 'gateway'), '-p', 'tsconfig.build.json', '--outDir', outDir);
  assert.equal(compiled.code, 0, compiled.stdout);
  // Installed, the packages would lie beside it.
  await writeFile(join(directory, 'package.json'), '{ "type": "module" }');
  await symlink(join(ROOT, 'node_modules'), join(directory, 'node_modules'));
  const { code, stdout, stderr } = await runProcess(process.execPath, [join(outDir, 'gateway/src/main.js'), '--help']);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /\bserve\b/);
  assert.match(stdout, /\brunner\b/);
});
