// needs: bwrap, root
/**
 * The images: what the container file promises, and that its trees work where an image would run, as an unprivileged
 * user on a read-only file system. No container engine takes part.
 */
import assert from 'node:assert/strict';
import { chownSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, it, test, type TestContext } from 'node:test';
import {
  buildStage,
  endSandboxed,
  only,
  parseContainerFile,
  sandboxed,
  variablesOf,
} from '../support/container-file.ts';
import { runProcess, startProcess, type Finished, type StartedProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const stages = parseContainerFile(readFileSync(join(ROOT, 'deploy/images/Dockerfile'), 'utf8'));
const stageOf = (name: string) => {
  const stage = stages.find((candidate) => candidate.name === name);
  assert.ok(stage, name);
  return stage;
};
const MIB = 1 << 20;

/** Of each image: where it keeps what it keeps, and how big its tree may get, MiB. */
const IMAGES = [
  { name: 'gateway', state: '/var/lib/gateway', maxMiB: 80 },
  { name: 'tunnel-client', state: '/var/lib/tunnel-client', maxMiB: 50 },
] as const;

for (const { name, state } of IMAGES) {
  describe(`the image of the ${name}`, () => {
    const stage = stageOf(name);
    const main = `/app/${name}/dist/${name}/src/main.js`;

    it('has the Node.js that the tests run with as its base, pinned', () => {
      const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
        devDependencies: Record<string, string>;
      };
      for (const { base } of stages) assert.equal(base, `node:${manifest.devDependencies['node']}-trixie-slim`);
    });

    it('runs as an unprivileged user, keeps its state in a volume, and needs no port below 1024', () => {
      assert.equal(only(stage, 'USER'), '1000:1000');
      assert.equal(only(stage, 'VOLUME'), state);
      assert.ok(Object.values(variablesOf(stage)).includes(state));
      for (const exposed of only(stage, 'EXPOSE').split(' ')) assert.ok(Number.parseInt(exposed) >= 1_024, exposed);
    });

    it('starts the program itself, which gets the signals, and asks it for its health', () => {
      assert.equal(only(stage, 'STOPSIGNAL'), 'SIGTERM');
      assert.deepEqual(JSON.parse(only(stage, 'ENTRYPOINT')), ['node', main]);
      const health = /^(.*) CMD (\[.*\])$/.exec(only(stage, 'HEALTHCHECK'));
      assert.deepEqual(JSON.parse(health?.[2] ?? ''), ['node', main, 'health']);
    });
  });
}

const sizeOf = (directory: string): number =>
  readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0);

interface Container {
  start(t: TestContext, args: readonly string[], env: Readonly<Record<string, string>>): StartedProcess;
  run(args: readonly string[], env?: Readonly<Record<string, string>>): Promise<Finished>;
  /** A program of the machine, where the image's would run. */
  shell(text: string): Promise<Finished>;
}

const container = (root: string, name: string, state: string): Container => {
  const stage = stageOf(name);
  const entry = JSON.parse(only(stage, 'ENTRYPOINT')) as string[];
  const commandLine = (command: readonly string[], env: Readonly<Record<string, string>> = {}) =>
    sandboxed(root, command, { writable: [state], env: { ...variablesOf(stage), ...env }, cwd: state, uid: 1_000 });
  return {
    start(t, args, env) {
      const [program = '', ...rest] = commandLine([...entry, ...args], env);
      return startProcess(t, program, rest);
    },
    run(args, env) {
      const [program = '', ...rest] = commandLine([...entry, ...args], env);
      return runProcess(program, rest);
    },
    shell(text) {
      const [program = '', ...rest] = commandLine(['sh', '-c', text]);
      return runProcess(program, rest);
    },
  };
};

test('the trees of the images', { timeout: 300_000 }, async (t) => {
  const roots = new Map<string, string>();
  const containerOf = (name: 'gateway' | 'tunnel-client'): Container =>
    container(roots.get(name) ?? '', name, `/var/lib/${name}`);

  const directory = await temporaryDirectory(t);
  const npmCache = (await runProcess('npm', ['config', 'get', 'cache'])).stdout.trim();
  mkdirSync(npmCache, { recursive: true });
  for (const { name } of IMAGES) roots.set(name, buildStage(stages, name, { context: ROOT, directory, npmCache }));

  for (const { name, state, maxMiB } of IMAGES) {
    await t.test(`${name}: compiled, without development packages, and small`, (t) => {
      const root = roots.get(name) ?? '';
      const modules = readdirSync(join(root, 'app/node_modules'));
      for (const development of ['typescript', 'eslint', 'playwright-core', 'vite', 'node']) {
        assert.ok(!modules.includes(development), development);
      }
      const own = readdirSync(join(root, 'app', name), { recursive: true, encoding: 'utf8' });
      assert.deepEqual(
        own.filter((file) => /(?<!\.d)\.ts$/.test(file)),
        [],
      );
      const bytes = sizeOf(join(root, 'app'));
      t.diagnostic(`${name}: ${(bytes / MIB).toFixed(1)} MiB above the base image`);
      assert.ok(bytes < maxMiB * MIB, `${bytes} bytes`);
    });

    await t.test(`${name}: nothing but the volume can be written`, async () => {
      const { stdout } = await containerOf(name).shell(
        `id -u; touch /app/x 2>/dev/null || echo no; touch /x 2>/dev/null || echo no; touch ${state}/x && echo yes`,
      );
      assert.deepEqual(stdout.trim().split('\n'), ['1000', 'no', 'no', 'yes']);
    });
  }

  await t.test(
    'a gateway and a tunnel client serve from them, are healthy, and end when they are asked to',
    async (t) => {
      const gateway = containerOf('gateway');
      const client = containerOf('tunnel-client');
      const gatewayEnv = {
        GATEWAY_LISTENERS_HTTPS: '127.0.0.1:0',
        GATEWAY_LISTENERS_QUIC: '127.0.0.1:0',
        GATEWAY_LISTENERS_INTERNAL: 'unix:/var/lib/gateway/internal.sock',
      };
      const notYet = await gateway.run(['health'], gatewayEnv);
      assert.equal(notYet.code, 1, notYet.stdout);
      const serving = gateway.start(t, ['serve'], gatewayEnv);
      const [, port = ''] = await serving.waitForOutput(/"https":\["127\.0\.0\.1:(\d+)"\].*the gateway serves/);
      assert.deepEqual(await gateway.run(['health'], gatewayEnv), { code: 0, stdout: 'ready\n', stderr: '' });
      const created = await gateway.run(['runner', 'create', '--name', 'image', '--json'], gatewayEnv);
      const runner = JSON.parse(created.stdout) as { id: string; exchangeToken: string };

      // As a volume with the certificate of the gateway would be mounted.
      const clientState = join(roots.get('tunnel-client') ?? '', 'var/lib/tunnel-client');
      const selfSigned = join(roots.get('gateway') ?? '', 'var/lib/gateway/self-signed/certificate.pem');
      writeFileSync(join(clientState, 'ca.pem'), readFileSync(selfSigned));
      chownSync(join(clientState, 'ca.pem'), 1_000, 1_000);
      const clientEnv = {
        TUNNEL_GATEWAY: `https://api.gateway.localhost:${port}`,
        TUNNEL_RUNNER_ID: runner.id,
        TUNNEL_EXCHANGE_TOKEN: runner.exchangeToken,
        TUNNEL_CA: '/var/lib/tunnel-client/ca.pem',
        TUNNEL_INTERNAL: 'unix:/var/lib/tunnel-client/internal.sock',
      };
      const running = client.start(t, ['run'], clientEnv);
      await running.waitForOutput(/leg up|connected/);
      assert.equal((await client.run(['health'], clientEnv)).code, 0);
      for (const [program, name] of [
        [running, 'tunnel-client'],
        [serving, 'gateway'],
      ] as const) {
        endSandboxed(program.child);
        assert.deepEqual(await program.exited, { code: 0, signal: null }, `${name}:\n${program.output()}`);
      }
    },
  );
});
