/** `gateway token …` as a program, beside a gateway that runs. */
import assert from 'node:assert/strict';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { decodeJwt, decodeProtectedHeader } from 'jose';
import { fetchOnce } from '../support/gateway.ts';
import { runProcess, startProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';

const MAIN = join(import.meta.dirname, '../../gateway/src/main.ts');
/** A gateway hears of new keys by its poll, once a second. */
const HEARD_MS = 10_000;

const createPlace = async (t: TestContext, over: object = {}) => {
  const directory = await temporaryDirectory(t);
  const config = join(directory, 'gateway.yaml');
  const listeners = { https: ['127.0.0.1:0'], quic: ['127.0.0.1:0'], internal: `unix:${join(directory, 'i.sock')}` };
  const stateDir = join(directory, 'state');
  // JSON is YAML.
  await writeFile(
    config,
    JSON.stringify({ domains: ['gateway.test'], listeners, stateDir, publicPort: 8443, ...over }),
  );
  const gateway = (...args: string[]) =>
    runProcess(process.execPath, [MAIN, ...args], { env: { GATEWAY_CONFIG: config } });
  return {
    directory,
    stateDir,
    gateway,
    async json(...args: string[]): Promise<Record<string, unknown>> {
      const { code, stdout, stderr } = await gateway(...args, '--json');
      assert.deepEqual([code, stderr], [0, ''], args.join(' '));
      return JSON.parse(stdout) as Record<string, unknown>;
    },
    async serve(): Promise<number> {
      const started = startProcess(t, process.execPath, [MAIN, 'serve', '--config', config]);
      const [, port] = await started.waitForOutput(/"https":\["127\.0\.0\.1:(\d+)"\].*the gateway serves/);
      return Number(port);
    },
  };
};

describe('gateway token create', { timeout: 60_000 }, () => {
  it('prints a token for the log, the address for a browser, and a command for a terminal', async (t) => {
    const place = await createPlace(t);
    const { code, stdout, stderr } = await place.gateway('token', 'create', '--scope', 'logs', '--environment', 'demo');
    assert.deepEqual([code, stderr], [0, '']);
    const token = /^ {2}token +(\S+)$/m.exec(stdout)![1]!;
    assert.equal(decodeProtectedHeader(token).typ, 'gitpod-logs+jwt');
    const { scope, env, aud, exp, iat } = decodeJwt(token);
    assert.deepEqual([scope, env, aud, exp! - iat!], ['logs', 'demo', 'demo', 3_600]);
    const url = 'https://22999--demo.gateway.test:8443/logs';
    assert.ok(stdout.includes(`\n  ${url}#token=${token}\n`), stdout);
    const ca = join(place.stateDir, 'self-signed/certificate.pem');
    assert.ok(stdout.includes(`\n  curl -N --cacert ${ca} -H "Authorization: Bearer ${token}" ${url}\n`), stdout);
    assert.match(stdout, /^ {2}expires +\d{4}-\d\d-\d\d \d\d:\d\d UTC$/m);
  });

  it('makes tokens of the other scopes, all in JSON', async (t) => {
    const place = await createPlace(t, { publicPort: 443, tls: { certificate: 'c.pem', key: 'k.pem' } });
    const port = await place.json(
      ...['token', 'create', '--scope', 'port', '--environment', 'demo', '--port', '3000', '--user', 'user-1'],
    );
    assert.deepEqual(
      [port['scope'], port['environment'], port['port'], port['user'], port['url'], port['viewerUrl']],
      ['port', 'demo', 3000, 'user-1', 'https://3000--demo.gateway.test/', undefined],
    );
    const token = String(port['token']);
    assert.equal(decodeProtectedHeader(token).typ, 'gitpod-port+jwt');
    const claims = decodeJwt(token);
    assert.deepEqual([claims['port'], claims.sub, claims['env']], [3000, 'user-1', 'demo']);
    assert.equal(Date.parse(String(port['expiresAt'])), claims.exp! * 1_000);

    const file = join(place.directory, 'ops token');
    const ops = await place.json(
      ...['token', 'create', '--scope', 'ops', '--environment', 'demo', '--token-file', file],
    );
    assert.deepEqual([ops['token'], ops['tokenFile']], [undefined, file]);
    assert.equal(decodeJwt((await readFile(file, 'utf8')).trim())['scope'], 'ops');
    assert.equal((await stat(file)).mode & 0o777, 0o600);
  });

  it('says what is wrong', async (t) => {
    const place = await createPlace(t);
    for (const [args, message, code] of [
      [['--scope', 'logs'], /required option '--environment <id>'/, 2],
      [['--environment', 'demo'], /required option '--scope <scope>'/, 2],
      [['--scope', 'all', '--environment', 'demo'], /Allowed choices are port, logs, ops/, 2],
      [['--scope', 'logs', '--environment', 'No Id'], /"No Id" is no id of an environment: an id is/, 1],
      [['--scope', 'port', '--environment', 'demo'], /needs --port/, 1],
      [['--scope', 'port', '--environment', 'demo', '--port', '22999'], /not 22999 \(the log port\)/, 1],
      [['--scope', 'port', '--environment', 'demo', '--port', '3e3'], /"3e3" is no port/, 1],
      [['--scope', 'logs', '--environment', 'demo', '--port', '3000'], /--port goes with --scope port/, 1],
      [['--scope', 'logs', '--environment', 'demo', '--user', 'x'.repeat(300)], /1 to 256 characters/, 1],
    ] as const) {
      const done = await place.gateway('token', 'create', ...args);
      assert.deepEqual([done.code, done.stdout], [code, ''], args.join(' '));
      assert.match(done.stderr, message);
      assert.doesNotMatch(done.stderr, /\n\s+at /, 'a stack helps nobody here');
    }
  });
});

describe('gateway key rotate token', { timeout: 60_000 }, () => {
  it('lets running gateways accept new tokens at once, old ones until they expire, and voided ones no more', async (t) => {
    const place = await createPlace(t);
    const port = await place.serve();
    const host = '22999--demo.gateway.test';
    const create = async () =>
      String((await place.json('token', 'create', '--scope', 'logs', '--environment', 'demo'))['token']);
    /** 404: the token is good, and there is no such environment. */
    const statusOf = async (token: string): Promise<number> => {
      const headers = { host: `${host}:8443`, authorization: `Bearer ${token}` };
      return (await fetchOnce(port, host, '/logs', { headers })).status;
    };
    const old = await create();
    assert.equal(await statusOf(old), 404);

    const rotated = await place.gateway('key', 'rotate', 'token');
    assert.match(rotated.stdout, /^Key \S+ signs tokens from now on\.\nThose made before are accepted until .* UTC/);
    const fresh = await create();
    assert.notEqual(decodeProtectedHeader(fresh).kid, decodeProtectedHeader(old).kid);
    assert.deepEqual([await statusOf(fresh), await statusOf(old)], [404, 404]);

    const voided = await place.json('key', 'rotate', 'token', '--void');
    assert.equal((voided['keys'] as unknown[]).length, 1);
    const end = performance.now() + HEARD_MS;
    while ((await statusOf(old)) !== 401) assert.ok(performance.now() < end, 'a voided token is still accepted');
    assert.equal(await statusOf(fresh), 401);
    assert.equal(await statusOf(await create()), 404);
  });
});
