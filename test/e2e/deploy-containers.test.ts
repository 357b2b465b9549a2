// needs: bwrap, curl, netns, root
/**
 * The images: what the container file promises, and that its trees work where an image would run, as an unprivileged
 * user on a read-only file system. No container engine takes part.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, it, test, type TestContext } from 'node:test';
import { parse } from 'yaml';
import { parseGatewayConfig } from '../../gateway/src/config.ts';
import { parseDuration } from '../../shared/src/units.ts';
import { parseClientConfig } from '../../tunnel-client/src/config.ts';
import { suspiciousVariables } from '../../tunnel-client/src/config-sources.ts';
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

interface Service {
  readonly environment?: Readonly<Record<string, string>>;
  readonly entrypoint?: readonly string[];
  readonly read_only?: boolean;
  readonly cap_drop?: readonly string[];
  readonly security_opt?: readonly string[];
  readonly stop_grace_period?: string;
  readonly volumes?: readonly string[];
}

const compose = parse(readFileSync(join(ROOT, 'deploy/compose.yaml'), 'utf8')) as {
  readonly services: Readonly<Record<string, Service>>;
  readonly volumes: Readonly<Record<string, unknown>>;
};
const serviceOf = (name: string): Service => {
  const service = compose.services[name];
  assert.ok(service, name);
  return service;
};
/** Variables of a service, with what the person at the shell has set. */
const environmentOf = (service: Service, shell: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(service.environment ?? {}).map(([name, value]) => [
      name,
      value.replace(/\$\{(\w+):-([^}]*)\}/g, (_, key: string, otherwise: string) => shell[key] ?? otherwise),
    ]),
  );

describe('compose.yaml', () => {
  for (const [name, service] of Object.entries(compose.services)) {
    it(`${name} has no privileges and writes into its volumes alone`, () => {
      assert.deepEqual([service.read_only, service.cap_drop], [true, ['ALL']]);
      assert.deepEqual(service.security_opt, ['no-new-privileges:true']);
      for (const volume of service.volumes ?? []) {
        const [source = ''] = volume.split(':');
        assert.ok(volume.endsWith(':ro') || Object.hasOwn(compose.volumes, source), volume);
      }
    });
  }

  it('has variables that the programs know, and gives them more time to end than they take', () => {
    const gateway = environmentOf(serviceOf('gateway'), {});
    const { drainDelayMs, drainTimeoutMs } = parseGatewayConfig(undefined, gateway);
    assert.ok((parseDuration(serviceOf('gateway').stop_grace_period ?? '') ?? 0) > drainDelayMs + drainTimeoutMs);
    const runner = environmentOf(serviceOf('runner'), { RUNNER_ID: 'runner-1', EXCHANGE_TOKEN: 'token' });
    assert.deepEqual(suspiciousVariables(runner), []);
    const config = parseClientConfig({ env: runner, flags: {}, cwd: '/' });
    assert.ok((parseDuration(serviceOf('runner').stop_grace_period ?? '') ?? 0) > config.drainTimeoutMs);
  });
});

interface Container {
  start(t: TestContext, args: readonly string[], env: Readonly<Record<string, string>>): StartedProcess;
  /** Another program than the image's own. */
  startProgram(t: TestContext, command: readonly string[]): StartedProcess;
  run(args: readonly string[], env?: Readonly<Record<string, string>>): Promise<Finished>;
  /** A program of the machine, where the image's would run. */
  shell(text: string): Promise<Finished>;
}

/** `network`: the network namespace that it shares; absent: the machine's. */
const container = (root: string, name: string, state: string, network: string | undefined): Container => {
  const stage = stageOf(name);
  const entry = JSON.parse(only(stage, 'ENTRYPOINT')) as string[];
  const commandLine = (command: readonly string[], env: Readonly<Record<string, string>> = {}) => [
    ...(network === undefined ? [] : ['ip', 'netns', 'exec', network]),
    ...sandboxed(root, command, { writable: [state], env: { ...variablesOf(stage), ...env }, cwd: state, uid: 1_000 }),
  ];
  return {
    startProgram(t, command) {
      const [program = '', ...rest] = commandLine(command);
      return startProcess(t, program, rest);
    },
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

/** With its loopback interface up, gone after the test. */
const networkNamespace = async (t: TestContext): Promise<string> => {
  const name = `gitpod-test-${process.pid}`;
  const ip = async (...args: string[]) =>
    assert.deepEqual(await runProcess('ip', args), { code: 0, stdout: '', stderr: '' });
  await ip('netns', 'add', name);
  t.after(() => ip('netns', 'delete', name));
  await ip('-n', name, 'link', 'set', 'lo', 'up');
  return name;
};

test('the trees of the images', { timeout: 300_000 }, async (t) => {
  const roots = new Map<string, string>();
  const containerOf = (name: 'gateway' | 'tunnel-client', network?: string): Container =>
    container(roots.get(name) ?? '', name, `/var/lib/${name}`, network);

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

  await t.test('wired as in compose.yaml they serve, are healthy, and end when they are asked to', async (t) => {
    const network = await networkNamespace(t);
    const [gateway, runner, application] = ['gateway', 'runner', 'application'].map(serviceOf);
    assert.ok(gateway && runner && application);
    const gatewayBox = containerOf('gateway', network);
    const clientBox = containerOf('tunnel-client', network);

    const gatewayEnv = environmentOf(gateway, {});
    const notYet = await gatewayBox.run(['health'], gatewayEnv);
    assert.equal(notYet.code, 1, notYet.stdout);
    const serving = gatewayBox.start(t, ['serve'], gatewayEnv);
    await serving.waitForOutput(/the gateway serves/);
    assert.deepEqual(await gatewayBox.run(['health'], gatewayEnv), { code: 0, stdout: 'ready\n', stderr: '' });
    const created = await gatewayBox.run(['runner', 'create', '--name', 'sample', '--json'], gatewayEnv);
    const { id, exchangeToken } = JSON.parse(created.stdout) as { id: string; exchangeToken: string };

    const certificate = join(roots.get('tunnel-client') ?? '', 'certificate.pem');
    writeFileSync(
      certificate,
      readFileSync(join(roots.get('gateway') ?? '', 'var/lib/gateway/self-signed/certificate.pem')),
    );
    const runnerEnv = environmentOf(runner, { RUNNER_ID: id, EXCHANGE_TOKEN: exchangeToken });
    const running = clientBox.start(t, ['run'], runnerEnv);
    assert.equal((await clientBox.run(['health', '--wait', '20s'], runnerEnv)).code, 0, running.output());
    clientBox.startProgram(t, application.entrypoint ?? []);

    const url = 'https://3000--sample.gateway.localhost:8443/';
    const curl = ['--silent', '--show-error', '--retry', '20', '--retry-delay', '1', '--retry-all-errors', '--fail'];
    const got = await runProcess('ip', ['netns', 'exec', network, 'curl', ...curl, '--cacert', certificate, url]);
    // Until the application listens it is told so, and asks again.
    assert.deepEqual([got.code, got.stdout], [0, 'hello from the sample\n'], got.stderr);

    for (const [program, name] of [
      [running, 'tunnel-client'],
      [serving, 'gateway'],
    ] as const) {
      endSandboxed(program.child);
      assert.deepEqual(await program.exited, { code: 0, signal: null }, `${name}:\n${program.output()}`);
    }
  });
});
