/**
 * What the tunnel client costs whoever embeds it: packed, installed into an empty folder, run from there against a real
 * gateway. Prints the size of the installation, the number of packages, and the memory of the process.
 *
 *     node test/bench/footprint.ts
 */
import { spawn } from 'node:child_process';
import { mkdtemp, lstat, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { get, type Agent, Agent as HttpsAgent } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { cleanEnvironment, runProcess } from '../support/processes.ts';
import { portHost, startTestGateway } from '../support/gateway.ts';
import { startUpstream, until } from '../support/runner.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const STREAMS = 100;
const NPM_TIMEOUT_MS = 180_000;
/** Long enough for the garbage of the start to be collected, ms. */
const SETTLE_MS = 10_000;
const MIB = 1 << 20;

const npm = async (cwd: string, ...args: string[]): Promise<string> => {
  const { code, stdout, stderr } = await runProcess('npm', args, { cwd, timeoutMs: NPM_TIMEOUT_MS });
  if (code !== 0) throw new Error(`npm ${args.join(' ')}: ${stderr}`);
  return stdout;
};

const sizeOf = async (directory: string): Promise<number> => {
  const entries = await readdir(directory, { recursive: true });
  const sizes = await Promise.all(
    entries.map(async (entry) => {
      const found = await lstat(join(directory, entry));
      return found.isFile() ? found.size : 0;
    }),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
};

/** Resident memory, anonymous and all, bytes. */
const memoryOf = async (pid: number): Promise<{ all: number; own: number }> => {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const kib = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1_024;
  return { all: kib('VmRSS'), own: kib('RssAnon') };
};

const settle = (): Promise<void> => new Promise((done) => setTimeout(done, SETTLE_MS));
const mib = (bytes: number): string => `${(bytes / MIB).toFixed(1)} MiB`;

const directory = await mkdtemp(join(tmpdir(), 'footprint-'));
const gateway = await startTestGateway();
const waiting: { end(): void }[] = [];
const upstream = await startUpstream((_request, response) => {
  response.write('first');
  waiting.push(response);
});
try {
  await npm(ROOT, 'pack', '-w', 'tunnel-client', '--pack-destination', directory);
  const tarball = (await readdir(directory)).find((name) => name.endsWith('.tgz')) ?? '';
  const packed = (await lstat(join(directory, tarball))).size;
  await writeFile(join(directory, 'package.json'), '{ "private": true, "type": "module" }');
  await npm(directory, 'install', '--prefer-offline', '--no-audit', '--no-fund', `./${tarball}`);
  const { dependencies } = JSON.parse(await npm(directory, 'ls', '--all', '--json')) as { dependencies: unknown };
  const names = new Set<string>();
  const collect = (tree: unknown): void => {
    for (const [name, entry] of Object.entries(
      (tree ?? {}) as Record<string, { dependencies?: unknown; version?: string }>,
    )) {
      if (entry.version !== undefined) names.add(`${name}@${entry.version}`);
      collect(entry.dependencies);
    }
  };
  collect(dependencies);
  console.log(`packed            ${mib(packed)}`);
  console.log(`installed         ${mib(await sizeOf(join(directory, 'node_modules')))}`);
  console.log(`packages          ${names.size}, itself included`);

  const { runner, exchangeToken } = await gateway.gateway.directory.createRunner({ name: 'footprint' });
  await writeFile(join(directory, 'ca.pem'), gateway.ca);
  const config = {
    ...{ gateway: gateway.url, runnerId: runner.id, exchangeToken, stateDir: './state', ca: 'ca.pem' },
    ...{ internal: 'unix:internal.sock', logFormat: 'json' },
    environments: [{ id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' }] }],
  };
  await writeFile(join(directory, 'client.yaml'), JSON.stringify(config));
  const main = join(directory, 'node_modules/@gitpod-gateway/tunnel-client/dist/tunnel-client/src/main.js');
  const child = spawn(process.execPath, [main, 'run', '--config', 'client.yaml'], {
    cwd: directory,
    env: cleanEnvironment(),
    stdio: 'ignore',
  });
  const agent: Agent = new HttpsAgent({ keepAlive: false });
  try {
    await until(() => gateway.gateway.registry.environments().length === 1, NPM_TIMEOUT_MS);
    await settle();
    const report = async (label: string): Promise<void> => {
      const { all, own } = await memoryOf(child.pid ?? 0);
      console.log(`${label.padEnd(17)} ${mib(all)} resident, ${mib(own)} of it its own`);
    };
    await report('idle');
    const host = portHost('demo', upstream.port);
    const answers = await Promise.all(
      Array.from(
        { length: STREAMS },
        () =>
          new Promise<IncomingMessage>((done, fail) => {
            const options = { host: '127.0.0.1', port: gateway.httpsPort, servername: host, rejectUnauthorized: false };
            get({ ...options, agent, headers: { host: `${host}:${gateway.httpsPort}` } }, done).on('error', fail);
          }),
      ),
    );
    await until(() => waiting.length === STREAMS);
    await settle();
    await report(`${STREAMS} open streams`);
    for (const response of waiting) response.end();
    for (const answer of answers) answer.resume();
  } finally {
    child.kill('SIGTERM');
    await new Promise((done) => child.once('exit', done));
  }
} finally {
  await upstream.close();
  await gateway.close();
  await rm(directory, { recursive: true, force: true });
}
