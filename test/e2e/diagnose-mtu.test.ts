// needs: netns, iproute2
/** A path on which handshakes pass and packets of full size get lost: `tunnel-client diagnose` finds it, and says so. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { CheckResult, Diagnosis } from '../../tunnel-client/src/diagnose/report.ts';
import { type Finished, runProcess, startProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import type { Namespace } from '../support/namespaces.ts';
import { createSmallMtuPath } from '../support/small-mtu.ts';

const ROOT = join(import.meta.dirname, '../..');
const GATEWAY = join(ROOT, 'gateway/src/main.ts');
const TUNNEL_CLIENT = join(ROOT, 'tunnel-client/src/main.ts');
const TIMEOUT_MS = 110_000;
const NO_PROXY = { HTTPS_PROXY: undefined, https_proxy: undefined };

/** OpenSSL's older choice: a first message of the TLS handshake that is smaller than the path. */
const SMALL_HELLO = `nodejs_conf = node
[node]
ssl_conf = ssl
[ssl]
system_default = groups
[groups]
Groups = X25519
`;

const find = ({ checks }: Diagnosis, start: string): CheckResult => {
  const found = checks.find(({ id }) => id.startsWith(start));
  assert.ok(found, `${start} is not among ${checks.map(({ id }) => id).join(', ')}`);
  return found;
};

describe('tunnel-client diagnose where packets of full size get lost', { timeout: 180_000 }, () => {
  it('names the MTU, whether a handshake or a transfer gets stuck, and what is used instead', async (t) => {
    const { client, server, serverAddress } = await createSmallMtuPath(t);
    const directory = await temporaryDirectory(t);
    const config = join(directory, 'gateway.yaml');
    await writeFile(
      config,
      JSON.stringify({
        domains: ['gateway.test'],
        listeners: { https: ['0.0.0.0:8443'], quic: ['0.0.0.0:4242'], internal: '127.0.0.1:9090' },
        stateDir: join(directory, 'gateway'),
      }),
    );
    const [enter = '', ...inServer] = server.prefix;
    const gateway = startProcess(t, enter, [...inServer, process.execPath, GATEWAY, 'serve', '--config', config]);
    await gateway.waitForOutput(/the gateway serves/);
    const made = await server.run(
      process.execPath,
      ...[GATEWAY, 'runner', 'create', '--name', 'test', '--config', config, '--json'],
    );
    const { id, exchangeToken } = JSON.parse(made) as { id: string; exchangeToken: string };
    await writeFile(join(directory, 'token'), exchangeToken);
    await writeFile(join(directory, 'hosts'), `${serverAddress} api.gateway.test tunnel.gateway.test\n`);
    await writeFile(join(directory, 'openssl.cnf'), SMALL_HELLO);

    /** In a namespace, where the names of the gateway are known as well. */
    const command = (namespace: Namespace, args: readonly string[]): string[] => [
      ...[...namespace.prefix, 'unshare', '--mount', '--', 'sh', '-c'],
      ...['mount --bind "$0" /etc/hosts && exec "$@"', join(directory, 'hosts'), process.execPath, TUNNEL_CLIENT],
      ...args,
    ];
    const flags = [
      ...['--gateway', 'https://api.gateway.test:8443', '--runner', id, '--internal', '127.0.0.1:9091'],
      ...['--exchange-token-file', join(directory, 'token'), '--state-dir', join(directory, 'runner')],
      ...['--ca', join(directory, 'gateway/self-signed/certificate.pem')],
    ];
    const diagnose = async (code: number, more: readonly string[], env: Record<string, string> = {}) => {
      const [program = '', ...args] = command(client, ['diagnose', ...flags, ...more, '--json']);
      const options = { timeoutMs: TIMEOUT_MS, env: { ...NO_PROXY, ...env } };
      const done: Finished = await runProcess(program, args, options);
      assert.equal(done.code, code, `${done.stdout}\n${done.stderr}`);
      return JSON.parse(done.stdout) as Diagnosis;
    };

    // It joins where nothing is in the way.
    const [program = '', ...args] = command(server, ['run', ...flags]);
    const joined = startProcess(t, program, args, { env: NO_PROXY });
    await joined.waitForOutput(/"msg":"leg up"/);
    await joined.stop();

    // Today's first message of TLS has more than 1,280 bytes: it is what gets stuck. QUIC finds the size that passes.
    const today = await diagnose(1, []);
    assert.equal(today.transport, 'quic');
    assert.equal(find(today, 'leg:quic').state, 'ok');
    for (const [start, state] of [
      ['api', 'failed'],
      ['tcp:tunnel.gateway.test:8443', 'warning'],
      ['leg:webtransport', 'warning'],
      ['leg:websocket', 'warning'],
    ] as const) {
      const check = find(today, start);
      assert.equal(check.state, state, JSON.stringify(check));
      assert.match(check.result, /TCP connects, and the TLS handshake gets no answer/);
      assert.match(check.advice ?? '', start.startsWith('leg') ? /TCP, ALPN and upgrades above/ : /check the MTU/);
    }

    // With a smaller one every handshake passes, that of the tunnel as well: only the transfer shows what is wrong.
    const small = { OPENSSL_CONF: join(directory, 'openssl.cnf') };
    const older = await diagnose(1, ['--transport', 'webtransport'], small);
    assert.equal(older.transport, undefined);
    for (const start of ['api', 'tcp:tunnel.gateway.test:8443', 'alpn', 'upgrade']) {
      assert.equal(find(older, start).state, 'ok', JSON.stringify(find(older, start)));
    }
    const leg = find(older, 'leg:webtransport');
    assert.equal(leg.state, 'failed');
    assert.match(leg.result, /^small packets pass, and the transfer stopped after \d+ of 1024 KiB$/);
    assert.match(leg.advice ?? '', /check the MTU on the way/);
    assert.equal(leg.data?.['isStalled'], true);
  });
});
