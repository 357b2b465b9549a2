import assert from 'node:assert/strict';
import { stat, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { createKey, keyFingerprint } from '../../shared/src/identity/keys.ts';
import { environmentSchema } from '../../shared/src/protocol/messages.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { runProcess, startProcess, type Finished } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';

const MAIN = join(import.meta.dirname, '../../gateway/src/main.ts');

interface Place {
  readonly directory: string;
  readonly stateDir: string;
  readonly config: string;
  gateway(...args: string[]): Promise<Finished>;
  json(...args: string[]): Promise<Record<string, unknown> & Record<string, unknown>[]>;
}

/** A configuration of its own, and the command that uses it. */
const createPlace = async (t: TestContext, over: object = {}): Promise<Place> => {
  const directory = await temporaryDirectory(t);
  const stateDir = join(directory, 'state');
  const config = join(directory, 'gateway.yaml');
  const listeners = { https: ['127.0.0.1:0'], quic: ['127.0.0.1:0'], internal: `unix:${join(directory, 'i.sock')}` };
  // JSON is YAML.
  await writeFile(config, JSON.stringify({ domains: ['gateway.test'], listeners, stateDir, ...over }));
  const gateway = (...args: string[]) =>
    runProcess(process.execPath, [MAIN, ...args], { env: { GATEWAY_CONFIG: config } });
  return {
    directory,
    stateDir,
    config,
    gateway,
    json: async (...args) => {
      const { code, stdout, stderr } = await gateway(...args, '--json');
      assert.deepEqual([code, stderr], [0, ''], args.join(' '));
      return JSON.parse(stdout) as Record<string, unknown> & Record<string, unknown>[];
    },
  };
};

const openDirectory = ({ stateDir }: Place) =>
  openEmbeddedDirectory(
    { clock: systemClock },
    { path: join(stateDir, 'directory.sqlite'), issuer: 'https://api.gateway.test' },
  );

const startServe = async (t: TestContext, place: Place) => {
  const started = startProcess(t, process.execPath, [MAIN, 'serve', '--config', place.config]);
  const [, port] = await started.waitForOutput(/"https":\["127\.0\.0\.1:(\d+)"\].*the gateway serves/);
  return { started, port: Number(port) };
};

const failed = (done: Finished, message: RegExp): void => {
  assert.equal(done.code, 1, done.stdout);
  assert.equal(done.stdout, '');
  assert.match(done.stderr, message);
  assert.doesNotMatch(done.stderr, /\n\s+at /, 'a stack helps nobody here');
};

describe('gateway runner', { timeout: 60_000 }, () => {
  it('create prints id, token, its end, and the commands that join', async (t) => {
    const place = await createPlace(t, { publicPort: 8443 });
    const { code, stdout } = await place.gateway('runner', 'create', '--name', 'web', '--org', 'acme');
    assert.equal(code, 0);
    const id = /^ {2}id +([a-z0-9-]+)$/m.exec(stdout)![1]!;
    const token = /^ {2}token +(gpx_[A-Za-z0-9_-]{43})$/m.exec(stdout)![1]!;
    assert.match(stdout, /^ {2}expires +\d{4}-\d\d-\d\d \d\d:\d\d UTC$/m);
    const joined = stdout.replaceAll(/ \\\n +/g, ' ');
    assert.ok(joined.includes(`printf '%s\\n' ${token} > exchange-token`));
    assert.ok(
      stdout.split('\n').every((line) => line.length <= 80 || line.includes(place.stateDir)),
      stdout,
    );
    assert.match(
      joined,
      /docker run [^\n]* --env TUNNEL_EXCHANGE_TOKEN [^\n]* gitpod-tunnel-client:\S+ run --expose 3000\n/,
    );
    assert.equal(joined.split(token).length, 3, 'shown once, written once, and in no argument of a program');
    assert.ok(
      joined.includes(
        `tunnel-client -- run --gateway https://api.gateway.test:8443 --runner ${id} --exchange-token-file exchange-token ` +
          `--ca ${join(place.stateDir, 'self-signed/certificate.pem')} --expose 3000`,
      ),
      stdout,
    );
    const directory = await openDirectory(place);
    const { publicKey } = createKey();
    const runner = await directory.enrol({ runnerId: id, exchangeToken: token, publicKey });
    assert.deepEqual([runner.name, runner.organization], ['web', 'acme']);
    await directory.close();

    const list = await place.gateway('runner', 'list');
    const [head, row, state] = list.stdout.split('\n');
    assert.match(head!, /^RUNNER +NAME AND STATE$/);
    assert.equal(row, `${id}  web (acme)`);
    assert.equal(state!.trim(), 'joined');
    const [listed] = (await place.json('runner', 'list')) as unknown as Record<string, unknown>[];
    assert.deepEqual([listed?.['key'], listed?.['online']], [keyFingerprint(publicKey), null]);
  });

  it('writes the token to a file for its owner only, and prints it nowhere', async (t) => {
    const place = await createPlace(t, { tls: { certificate: 'c.pem', key: 'k.pem' } });
    const file = join(place.directory, 'my token');
    const created = await place.json('runner', 'create', '--name', 'web', '--token-file', file);
    const token = (await readFile(file, 'utf8')).trim();
    assert.match(token, /^gpx_/);
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    assert.ok(!JSON.stringify(created).includes(token));
    assert.ok(String(created['command']).includes(`--exchange-token-file '${file}' --expose 3000`));
    failed(await place.gateway('runner', 'create', '--name', 'web', '--token-file', file), /cannot be written/);
    assert.equal((await readFile(file, 'utf8')).trim(), token);
  });

  it('token and revoke act on a known runner, all in JSON', async (t) => {
    const place = await createPlace(t);
    const created = await place.json('runner', 'create', '--name', 'web');
    const id = String(created['id']);
    assert.deepEqual([created['status'], created['organization']], ['not_joined', null]);
    const again = await place.json('runner', 'token', id);
    assert.equal(again['id'], id);
    assert.notEqual(again['exchangeToken'], created['exchangeToken']);
    assert.ok(Date.parse(String(again['expiresAt'])) > Date.now());
    const revoked = await place.json('runner', 'revoke', id);
    assert.equal(revoked['status'], 'revoked');
    assert.deepEqual(
      (await place.json('runner', 'list')).map((runner) => [runner['id'], runner['status']]),
      [[id, 'revoked']],
    );
    for (const command of ['token', 'revoke']) {
      failed(await place.gateway('runner', command, 'nobody'), /no runner with this id.*gateway runner list/);
    }
  });

  it('cannot be made to write to the terminal what it likes', async (t) => {
    const place = await createPlace(t);
    failed(await place.gateway('runner', 'create', '--name', 'a\u001b[2Jb'), /control characters/);
    assert.equal((await place.gateway('runner', 'create', '--name', 'a\u202eb')).code, 0);
    assert.ok((await place.gateway('runner', 'list')).stdout.includes('a\ufffdb'));
  });
});

describe('gateway environment', { timeout: 60_000 }, () => {
  it('blocks environments and organizations, and serves them again', async (t) => {
    const place = await createPlace(t);
    assert.match((await place.gateway('environment', 'blocks')).stdout, /Nothing is blocked/);
    assert.match((await place.gateway('environment', 'block', 'demo')).stdout, /No port of environment demo is served/);
    assert.deepEqual(await place.json('organization', 'block', 'acme'), {
      kind: 'organization',
      subject: 'acme',
      blocked: true,
    });
    const listed = await place.json('environment', 'blocks');
    assert.deepEqual(
      listed.map(({ kind, subject }) => [kind, subject]),
      [
        ['environment', 'demo'],
        ['organization', 'acme'],
      ],
    );
    assert.match((await place.gateway('environment', 'blocks')).stdout, /^environment +demo +\d{4}-/m);
    assert.match((await place.gateway('environment', 'unblock', 'demo')).stdout, /environment demo are served again/);
    failed(await place.gateway('environment', 'unblock', 'demo'), /demo is not blocked/);
    failed(await place.gateway('environment', 'block', 'No-Id'), /is no id of an environment/);
    failed(await place.gateway('organization', 'block', 'a b'), /is no name of an organization/);
    assert.deepEqual((await place.json('environment', 'blocks')).length, 1);
  });

  it('lists, moves and releases names', async (t) => {
    const place = await createPlace(t);
    const one = String((await place.json('runner', 'create', '--name', 'one', '--org', 'acme'))['id']);
    const two = String((await place.json('runner', 'create', '--name', 'two', '--org', 'acme'))['id']);
    const foreign = String((await place.json('runner', 'create', '--name', 'three'))['id']);
    const directory = await openDirectory(place);
    const ports = [{ port: 3000, admission: 'everyone' }];
    await directory.claim(one, [
      environmentSchema.parse({ id: 'demo', ports }),
      environmentSchema.parse({ id: 'other' }),
    ]);
    await directory.release(one, ['other']);
    await directory.close();

    const { stdout } = await place.gateway('environment', 'list');
    assert.match(stdout, /^demo +[0-9a-f-]{36}\n +acme\n +held since [^\n]+\n +3000 \(everyone\)\nother /m);
    assert.match(stdout, /^other +[0-9a-f-]{36}\n +acme\n +released /m);
    assert.equal((await place.json('environment', 'list', '--runner', two)).length, 0);

    failed(await place.gateway('environment', 'move', 'demo', '--to', foreign), /different organizations/);
    assert.equal((await place.json('environment', 'move', 'demo', '--to', two))['runnerId'], two);
    assert.deepEqual(
      (await place.json('environment', 'list', '--runner', two)).map((environment) => environment['id']),
      ['demo'],
    );
    assert.equal((await place.json('environment', 'release', 'demo'))['released'], true);
    failed(await place.gateway('environment', 'release', 'demo'), /no environment demo/);
    failed(await place.gateway('environment', 'move', 'demo', '--to', two), /no environment demo/);
  });
});

describe('gateway usage', { timeout: 60_000 }, () => {
  it('that is wrong ends with 2, help with 0', async (t) => {
    const place = await createPlace(t);
    for (const args of [[], ['runer'], ['runner', 'create'], ['runner', 'token'], ['serve', '--nope'], ['runner']]) {
      const { code, stdout, stderr } = await place.gateway(...args);
      assert.deepEqual([code, stdout], [2, ''], args.join(' '));
      assert.notEqual(stderr, '');
    }
    const help = await place.gateway('--help');
    assert.equal(help.code, 0);
    assert.match(help.stdout, /serve[\s\S]*runner[\s\S]*environment[\s\S]*health/);
  });

  it('with a configuration that is wrong names every fault', async (t) => {
    const place = await createPlace(t, { domain: ['x'], drainDelay: 3 });
    failed(
      await place.gateway('serve'),
      /domain: unknown key; did you mean domains\?\n {2}|drainDelay: .*number and a unit/,
    );
    const { stderr } = await place.gateway('runner', 'list');
    assert.match(stderr, /did you mean domains\?/);
    assert.match(stderr, /drainDelay/);
    await writeFile(place.config, 'domains: [a.test\nstateDir: x\n');
    failed(await place.gateway('serve'), /line \d+, column \d+/);
    failed(await place.gateway('serve', '--config', '/does/not/exist.yaml'), /exist\.yaml cannot be read.*ENOENT/);
  });
});

describe('gateway serve', { timeout: 60_000 }, () => {
  it('is healthy while it runs, lets commands run beside it, and ends with 0 on SIGTERM', async (t) => {
    const place = await createPlace(t);
    failed(await place.gateway('health'), /No gateway answers at unix:/);
    const { started } = await startServe(t, place);
    const health = await place.gateway('health');
    assert.deepEqual([health.code, health.stdout], [0, 'ready\n']);
    await place.json('runner', 'create', '--name', 'web');
    assert.equal((await place.json('runner', 'list')).length, 1);
    started.child.kill('SIGTERM');
    assert.deepEqual(await started.exited, { code: 0, signal: null });
    failed(await place.gateway('health'), /No gateway answers/);
  });

  for (const [signal, code] of [
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const) {
    it(`drains at the first ${signal} and ends with ${code} at the second`, async (t) => {
      const place = await createPlace(t, { drainDelay: '10m' });
      const { started } = await startServe(t, place);
      started.child.kill(signal);
      await started.waitForOutput(/the gateway drains/);
      failed(await place.gateway('health'), /is not ready \(503\)/);
      started.child.kill(signal);
      assert.deepEqual(await started.exited, { code, signal: null });
    });
  }

  it('names the option when a port is busy', async (t) => {
    const { port } = await startServe(t, await createPlace(t));
    const internal = `unix:${join(await temporaryDirectory(t), 'i.sock')}`;
    const listeners = { https: [`127.0.0.1:${port}`], quic: ['127.0.0.1:0'], internal };
    const second = await createPlace(t, { listeners });
    const done = await second.gateway('serve');
    assert.equal(done.code, 1);
    assert.match(done.stderr, new RegExp(`listeners\\.https.*127\\.0\\.0\\.1:${port} is in use`));
  });
});
