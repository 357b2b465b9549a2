/** `tunnel-client diagnose` as a program, against a real gateway, beside a running client and without one. */
import assert from 'node:assert/strict';
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
