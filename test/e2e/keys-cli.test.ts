/** `gateway key`, `session`, `backup`, and `tunnel-client key new`, as programs. */
import assert from 'node:assert/strict';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { parseKey } from '../../shared/src/identity/keys.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { withoutSecrets } from '../../tunnel-client/src/cli/run.ts';
import { checkStateVersion, STATE_VERSION } from '../../tunnel-client/src/state-version.ts';
import { runProcess, startProcess, type Finished } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';

const GATEWAY = join(import.meta.dirname, '../../gateway/src/main.ts');
const TUNNEL_CLIENT = join(import.meta.dirname, '../../tunnel-client/src/main.ts');

const createPlace = async (t: TestContext, over: object = {}) => {
  const directory = await temporaryDirectory(t);
  const stateDir = join(directory, 'state');
  const config = join(directory, 'gateway.yaml');
  const listeners = { https: ['127.0.0.1:0'], quic: ['127.0.0.1:0'], internal: `unix:${join(directory, 'i.sock')}` };
  // JSON is YAML.
  await writeFile(config, JSON.stringify({ domains: ['gateway.test'], listeners, stateDir, ...over }));
  const gateway = (...args: string[]): Promise<Finished> =>
    runProcess(process.execPath, [GATEWAY, ...args], { env: { GATEWAY_CONFIG: config } });
  return {
    directory,
    stateDir,
    gateway,
    async json<T>(...args: string[]): Promise<T> {
      const { code, stdout, stderr } = await gateway(...args, '--json');
      assert.deepEqual([code, stderr], [0, ''], args.join(' '));
      return JSON.parse(stdout) as T;
    },
    open: (path = join(stateDir, 'directory.sqlite')) =>
      openEmbeddedDirectory({ clock: systemClock }, { path, issuer: 'https://api.gateway.test' }),
    async serve(): Promise<void> {
      const started = startProcess(t, process.execPath, [GATEWAY, 'serve', '--config', config]);
      await started.waitForOutput(/the gateway serves/);
    },
  };
};

interface Ring {
  readonly use: string;
  readonly keys: readonly { readonly keyId: string; readonly status: string; readonly acceptedUntil: string | null }[];
}

describe('gateway key', { timeout: 60_000 }, () => {
  it('lists what signs and what is accepted, and rotates each with its overlap', async (t) => {
    const place = await createPlace(t);
    const before = await place.json<Ring[]>('key', 'list');
    assert.deepEqual(
      before.map(({ use, keys }) => [use, keys.map(({ status }) => status)]),
      [
        ['authority', ['signs']],
        ['token', ['signs']],
        ['cookie', ['signs']],
        ['tickets', ['signs']],
      ],
    );
    const cookie = await place.gateway('key', 'rotate', 'cookie');
    assert.match(
      cookie.stdout,
      /^Key \S+ signs sessions and port cookies from now on\.\nThose made before are accepted/,
    );
    const authority = await place.gateway('key', 'rotate', 'authority');
    assert.match(
      authority.stdout,
      /^Key \S+ is known to all from now on, and signs memberships from .* UTC\.\nThose of the key before it/,
    );
    const after = await place.json<Ring[]>('key', 'list');
    assert.deepEqual(
      after.map(({ use, keys }) => [use, keys.map(({ status }) => status)]),
      [
        ['authority', ['published', 'signs']],
        ['token', ['signs']],
        ['cookie', ['signs', 'accepted']],
        ['tickets', ['signs']],
      ],
    );
    const { stdout } = await place.gateway('key', 'list');
    assert.match(stdout, /^USE +KEY +STATUS +SIGNS FROM +UNTIL$/m);
    for (const line of stdout.split('\n')) assert.ok(line.length <= 80, `longer than a terminal: ${line}`);
    for (const { secret } of (await (await place.open()).keyRing('session')).keys) {
      assert.ok(!stdout.includes(Buffer.from(secret).toString('base64url')));
    }
    const voided = await place.gateway('key', 'rotate', 'authority', '--void');
    assert.match(voided.stdout, /no other is accepted.*\n?.*runners get new ones with their own keys/);
    const unknown = await place.gateway('key', 'rotate', 'cookies');
    assert.equal(unknown.code, 2);
    assert.match(unknown.stderr, /Allowed choices are cookie, token, authority/);
  });
});

describe('gateway session', { timeout: 60_000 }, () => {
  it('ends sessions of a user, or one, and lists what was ended', async (t) => {
    const place = await createPlace(t);
    assert.match((await place.gateway('session', 'list')).stdout, /^No session was ended/);
    assert.match(
      (await place.gateway('session', 'revoke', '--user', 'user-1')).stdout,
      /^Every session of user user-1 that began before now has ended\./,
    );
    await place.json('session', 'revoke', '--session', 's-1');
    const list = await place.json<{ kind: string; subject: string }[]>('session', 'list');
    assert.deepEqual(
      list.map(({ kind, subject }) => [kind, subject]),
      [
        ['user', 'user-1'],
        ['session', 's-1'],
      ],
    );
    for (const args of [[], ['--user', 'a', '--session', 'b'], ['--user', '']]) {
      assert.equal((await place.gateway('session', 'revoke', ...args)).code, 1, args.join(' '));
    }
  });
});

describe('gateway backup', { timeout: 60_000 }, () => {
  it('copies a running gateway, for its owner alone, and tar brings it back', async (t) => {
    const place = await createPlace(t);
    await place.serve();
    const { id } = await place.json<{ id: string }>('runner', 'create', '--name', 'web');
    const file = join(place.directory, 'backup.tar');
    const made = await place.gateway('backup', file);
    assert.deepEqual([made.code, made.stderr], [0, '']);
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    // What comes later is not in it.
    await place.json('runner', 'create', '--name', 'later');

    const restored = join(place.directory, 'restored');
    await mkdir(restored);
    const tar = await runProcess('tar', ['-xpf', file, '-C', restored]);
    assert.deepEqual([tar.code, tar.stderr], [0, '']);
    for (const name of ['gateway-key.json', 'internal.token', 'self-signed/key.pem', 'self-signed/certificate.pem']) {
      assert.deepEqual(await readFile(join(restored, name)), await readFile(join(place.stateDir, name)), name);
      assert.equal((await stat(join(restored, name))).mode & 0o777, 0o600, name);
    }
    const [kept, copy] = [await place.open(), await place.open(join(restored, 'directory.sqlite'))];
    assert.deepEqual(
      (await copy.runners()).map((runner) => runner.id),
      [id],
    );
    assert.deepEqual(await copy.authority(), await kept.authority());
    assert.deepEqual(await copy.keyRing('session'), await kept.keyRing('session'));
    await copy.close();
    await kept.close();

    const again = await place.gateway('backup', file);
    assert.equal(again.code, 1);
    assert.match(again.stderr, /Name a new file/);
    assert.equal((await createPlace(t).then((empty) => empty.gateway('backup', 'x.tar'))).code, 1);
  });
});

describe('another authority at the command line', { timeout: 60_000 }, () => {
  it('is where runners and tokens are said to come from', async (t) => {
    const authority = { issuer: 'https://id.example', jwksUri: 'https://id.example/keys', audience: 'gateway' };
    const beside = await createPlace(t, { authority });
    const created = await beside.gateway('runner', 'create', '--name', 'web');
    assert.equal(created.code, 0);
    assert.match(created.stderr, /Runners of https:\/\/id\.example need not be created here/);
    const only = await createPlace(t, { authority: { ...authority, only: true } });
    const refused = await only.gateway('runner', 'create', '--name', 'web');
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /Runners come from https:\/\/id\.example/);
    const token = await only.gateway('token', 'create', '--scope', 'logs', '--environment', 'demo');
    assert.match(token.stderr, /Tokens come from https:\/\/id\.example/);
    const plain = await createPlace(t, { authority: { ...authority, jwksUri: 'http://id.example/keys' } });
    assert.match((await plain.gateway('runner', 'list')).stderr, /authority\.jwksUri: .* is no https URL/);
  });
});

describe('tunnel-client key new', { timeout: 60_000 }, () => {
  it('makes a key for a store of secrets, or in a file for its owner alone', async (t) => {
    const directory = await temporaryDirectory(t);
    const printed = await runProcess(process.execPath, [TUNNEL_CLIENT, 'key', 'new']);
    assert.deepEqual([printed.code, printed.stderr], [0, '']);
    parseKey(printed.stdout);
    const file = join(directory, 'keys', 'runner.json');
    const written = await runProcess(process.execPath, [TUNNEL_CLIENT, 'key', 'new', '--out', file]);
    assert.equal(written.code, 0, written.stderr);
    const text = await readFile(file, 'utf8');
    const secret = (JSON.parse(text) as { d: string }).d;
    assert.ok(!written.stdout.includes(secret));
    assert.match(written.stdout, /SHA256:[\w-]{43}/);
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    const again = await runProcess(process.execPath, [TUNNEL_CLIENT, 'key', 'new', '--out', file]);
    assert.equal(again.code, 1);
    assert.equal(await readFile(file, 'utf8'), text);
  });
});

it('log commands see no secret of the tunnel client', () => {
  const secrets = { TUNNEL_KEY: 'canary', TUNNEL_MEMBERSHIP: 'canary', TUNNEL_EXCHANGE_TOKEN: 'canary' };
  const seen = withoutSecrets({ ...secrets, TUNNEL_KEY_FILE: '/k', PATH: '/bin' });
  assert.doesNotMatch(JSON.stringify(seen), /canary/);
  assert.equal(seen['PATH'], '/bin');
});

describe('a state directory', { timeout: 60_000 }, () => {
  it('of a newer tunnel client is refused with a sentence, and left alone', async (t) => {
    const stateDir = join(await temporaryDirectory(t), 'state');
    await checkStateVersion(stateDir);
    await checkStateVersion(stateDir);
    const version = join(stateDir, 'version');
    assert.equal(await readFile(version, 'utf8'), `${STATE_VERSION}\n`);
    await writeFile(version, `${STATE_VERSION + 1}\n`);
    await assert.rejects(checkStateVersion(stateDir), /newer tunnel client.*Update this one/);
    const args = ['run', '--gateway', 'https://api.gateway.test', '--runner', 'r-1', '--state-dir', stateDir];
    const run = await runProcess(process.execPath, [
      TUNNEL_CLIENT,
      ...args,
      '--internal',
      'unix:' + join(stateDir, 's'),
    ]);
    assert.equal(run.code, 1);
    assert.match(run.stderr, /newer tunnel client/);
    await writeFile(version, 'x');
    await assert.rejects(checkStateVersion(stateDir), /is broken/);
  });

  it('of a newer gateway is refused with a sentence', async (t) => {
    const place = await createPlace(t);
    const directory = await place.open();
    await directory.close();
    const { DatabaseSync } = await import('node:sqlite');
    const database = new DatabaseSync(join(place.stateDir, 'directory.sqlite'));
    database.exec('PRAGMA user_version = 999');
    database.close();
    const served = await place.gateway('serve');
    assert.equal(served.code, 1);
    assert.match(served.stderr, /written by a newer version of the gateway. Update this one/);
  });
});
