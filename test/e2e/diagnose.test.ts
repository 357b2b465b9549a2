// needs: script
/** `tunnel-client diagnose` as a program, against a real gateway, beside a running client and without one. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { Diagnosis } from '../../tunnel-client/src/diagnose/report.ts';
import { runProcess, type Finished } from '../support/processes.ts';
import {
  startGatewayProgram,
  startTunnelClientProgram,
  temporaryDirectory,
  type GatewayProgram,
} from '../support/programs.ts';
import { startUpstream, until } from '../support/runner.ts';

const MAIN = join(import.meta.dirname, '../../tunnel-client/src/main.ts');
const TIMEOUT_MS = 60_000;
const NO_PROXY = { HTTPS_PROXY: undefined, https_proxy: undefined };

const run = (args: readonly string[], env: Record<string, string> = {}): Promise<Finished> =>
  runProcess(process.execPath, [MAIN, ...args], { timeoutMs: TIMEOUT_MS, env: { ...NO_PROXY, ...env } });

const diagnose = async (args: readonly string[], code: number, env?: Record<string, string>): Promise<Diagnosis> => {
  const done = await run(['diagnose', ...args, '--json'], env);
  assert.equal(done.code, code, `${done.stdout}\n${done.stderr}`);
  return JSON.parse(done.stdout) as Diagnosis;
};
const find = ({ checks }: Diagnosis, start: string) => {
  const found = checks.find(({ id }) => id.startsWith(start));
  assert.ok(found, `${start} is not among ${checks.map(({ id }) => id).join(', ')}`);
  return found;
};

const flagsFor = (gateway: GatewayProgram, runnerId: string, stateDir: string): string[] => [
  ...['--gateway', `https://api.gateway.localhost:${gateway.httpsPort}`, '--runner', runnerId],
  ...['--state-dir', stateDir, '--ca', gateway.certificate, '--internal', '127.0.0.1:1'],
];

describe('tunnel-client diagnose', () => {
  it('finds nothing in the way, over each transport, and disturbs nobody', async (t) => {
    const gateway = await startGatewayProgram(t);
    const upstream = await startUpstream((_request, response) => response.end('hello'));
    t.after(() => upstream.close());
    const client = await startTunnelClientProgram(t, gateway, [
      { id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' }] },
    ]);
    const config = client.child.spawnargs.at(-1) ?? '';
    const before = client.output();
    const legLines = (): number => gateway.process.output().split('"leg down"').length;
    const downBefore = legLines();

    const found = await diagnose(['--config', config], 0);
    assert.equal(found.ok, true);
    assert.equal(found.transport, 'quic');
    for (const id of [
      'membership',
      'api',
      'clock',
      'name:api.',
      'quic:127.0.0.1:',
      'tcp:tunnel.',
      'certificate:',
      'alpn:',
      'upgrade:',
      'transport',
    ]) {
      assert.equal(find(found, id).state, 'ok', JSON.stringify(find(found, id)));
    }
    // The gateway listens on IPv4 alone, and its name means both.
    const six = find(found, 'quic:[::1]:');
    assert.deepEqual([six.state, 'advice' in six], ['skipped', false]);
    assert.match(six.result, /^\[::1\]:\d+: .*; IPv4 is used$/);
    for (const transport of ['quic', 'webtransport', 'websocket']) {
      const { state, data } = find(found, `leg:${transport}`);
      assert.equal(state, 'ok');
      assert.ok(Number(data?.['goodput']) > 0 && Number(data?.['rttMs']) > 0);
      assert.equal(data?.['inspected'], false);
    }
    assert.equal(typeof find(found, 'leg:quic').data?.['loss'], 'number');
    assert.equal(client.output(), before, 'the running client had no problem, and lost no leg');
    // Its legs were on standby, and none was the running client's.
    await until(() => legLines() - downBefore === 3);
    assert.equal((gateway.process.output().match(/"agent":"tunnel-client\/[^"]* diagnose"/g) ?? []).length > 0, true);

    const table = await run(['diagnose', '--config', config]);
    assert.equal(table.code, 0);
    assert.match(table.stdout, /^✓ Leg, QUIC +gateway gw-/m);
    assert.match(table.stdout, /^✓ Transport +QUIC would be chosen$/m);
    assert.ok(
      table.stdout.split('\n').every((line) => line.length <= 80),
      table.stdout,
    );
    assert.equal(table.stderr, '', 'no progress where no terminal is');
  });

  it('renews an expired membership for the test alone, and says what keeps it from doing so', async (t) => {
    const gateway = await startGatewayProgram(t);
    const client = await startTunnelClientProgram(t, gateway, []);
    await client.waitForOutput(/"msg":"leg up"/);
    const config = client.child.spawnargs.at(-1) ?? '';
    await client.stop();
    const { stateDir, runnerId } = JSON.parse(await readFile(config, 'utf8')) as Record<
      'stateDir' | 'runnerId',
      string
    >;
    const path = join(stateDir, 'membership.json');
    const kept = JSON.parse(await readFile(path, 'utf8')) as { membership: string };
    const [head, payload = '', signature] = kept.membership.split('.');
    const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as { iat: number; exp: number };
    const now = Math.floor(Date.now() / 1_000);
    const old = Buffer.from(JSON.stringify({ ...claims, iat: now - 30 * 3_600, exp: now - 3 * 3_600 - 60 }));
    const expired = { ...kept, membership: [head, old.toString('base64url'), signature].join('.') };
    await writeFile(path, JSON.stringify(expired));

    const renewed = await diagnose(['--config', config], 0);
    assert.match(
      find(renewed, 'membership').result,
      /^valid for 2[34] h.*, renewed for this test: the one that is kept expired 3 h ago$/,
    );
    assert.deepEqual(JSON.parse(await readFile(path, 'utf8')), expired, 'nothing was written');

    await gateway.command('runner', 'revoke', runnerId);
    const revoked = find(await diagnose(['--config', config], 1), 'membership');
    assert.equal(revoked.state, 'failed');
    assert.match(revoked.result, /^the one that is kept expired 3 h ago, and was not renewed: revoked: /);
    assert.ok(revoked.advice);

    await gateway.process.stop();
    const alone = find(await diagnose(['--config', config], 1), 'membership');
    assert.equal(alone.state, 'failed');
    assert.match(alone.result, /^the one that is kept expired 3 h ago, and was not renewed: https:\/\/api\..*refused/i);
  });

  it('shows how far it is at a terminal, and leaves nothing of that behind', async (t) => {
    const directory = await temporaryDirectory(t);
    const flags = ['--gateway', 'https://api.nobody.localhost:1', '--runner', 'a', '--state-dir', directory];
    const command = [process.execPath, MAIN, 'diagnose', ...flags, '--internal', '127.0.0.1:1'];
    // `script` gives its command a terminal of its own.
    const shell = (text: readonly string[]): string => text.map((word) => `'${word}'`).join(' ');
    const options = { timeoutMs: TIMEOUT_MS, env: NO_PROXY };
    const shown = await runProcess('script', ['-qec', shell(command), '/dev/null'], options);
    const clear = '\r\u001B[K';
    assert.match(shown.stdout, /\r\u001B\[K\d+ of \d+ checks done: (?:API|Membership|UDP 4242)\r/);
    const end = shown.stdout.lastIndexOf(clear) + clear.length;
    assert.match(shown.stdout.slice(end), /^Runner {3}a\r\nGateway {2}https:/);
    const lines = shown.stdout.split(clear).slice(1, -1);
    assert.ok(
      lines.every((line) => line.length <= 80 && !line.includes('\n')),
      lines.join('|'),
    );
    const json = await runProcess('script', ['-qec', shell([...command, '--json']), '/dev/null'], options);
    assert.ok(!json.stdout.includes('checks done'), 'who wants JSON does not watch');
  });

  it('says what is in the way: no key, a foreign certificate, nobody there', async (t) => {
    const gateway = await startGatewayProgram(t);
    const directory = await temporaryDirectory(t);
    const runner = (await gateway.command('runner', 'create', '--name', 'test')) as { id: string };
    const flags = flagsFor(gateway, runner.id, join(directory, 'nowhere'));

    const keyless = await diagnose(flags, 1);
    assert.equal(find(keyless, 'membership').state, 'failed');
    assert.match(find(keyless, 'membership').advice ?? '', /gateway runner token/);
    assert.equal(keyless.transport, 'quic', 'the way is clear all the same');
    assert.equal(
      keyless.checks.some(({ id }) => id.startsWith('leg:')),
      false,
    );

    const withToken = await diagnose(flags, 0, { TUNNEL_EXCHANGE_TOKEN: 'not-used' });
    assert.equal(find(withToken, 'membership').state, 'warning');

    const untrusted = await diagnose(
      flags.filter((flag) => flag !== '--ca' && flag !== gateway.certificate),
      1,
      {
        NODE_EXTRA_CA_CERTS: '',
      },
    );
    assert.match(find(untrusted, 'api').result, /its certificate is self-signed/);
    assert.match(find(untrusted, 'api').advice ?? '', /with `ca`/);

    const nobody = await diagnose(
      [
        '--gateway',
        'https://api.nobody.localhost:1',
        '--runner',
        runner.id,
        '--state-dir',
        directory,
        '--internal',
        '127.0.0.1:1',
      ],
      1,
    );
    assert.equal(nobody.transport, undefined);
    for (const id of ['api', 'tcp:tunnel.nobody.localhost:1', 'transport']) {
      assert.equal(find(nobody, id).state, 'failed', id);
      assert.ok(find(nobody, id).advice);
    }
    const two = `https://api.nobody.localhost:1,https://api.gateway.localhost:${gateway.httpsPort}`;
    const several = await diagnose([...flags.slice(2), '--gateway', two], 0, { TUNNEL_EXCHANGE_TOKEN: 'not-used' });
    assert.equal(several.gateway, `https://api.gateway.localhost:${gateway.httpsPort}`, 'the one that answers');
    assert.equal(find(several, 'gateway:https://api.nobody.localhost:1').state, 'warning');
    assert.ok(Number(find(several, 'gateway:https://api.gateway.localhost').data?.['connectMs']) > 0);

    const wrong = await run(['diagnose', '--gateway', 'nonsense', '--runner', 'a']);
    assert.equal(wrong.code, 2);
  });
});
