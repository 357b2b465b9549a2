// needs: dnsmasq, netns
/** What doctor finds out from others: a real sign-in provider, somebody's clock, and real name servers. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { startIdentityProvider } from '../support/identity-provider.ts';
import { runProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { ACCOUNTS } from '../support/sign-in-world.ts';
import { GATEWAY_MAIN } from '../support/served-processes.ts';
import { findProgram } from '../support/system-packages.ts';

const TIMEOUT = { timeout: 90_000 };
const HOUR_MS = 3_600_000;

interface Finding {
  readonly check: string;
  readonly result: string;
  readonly detail: string;
}
const findingsIn = (stdout: string, check: string): string[] =>
  (JSON.parse(stdout) as { findings: Finding[] }).findings
    .filter((finding) => finding.check === check)
    .map(({ result, detail }) => `${result}: ${detail}`);

const configure = async (t: TestContext, over: object): Promise<{ directory: string; path: string }> => {
  const directory = await temporaryDirectory(t);
  const path = join(directory, 'gateway.yaml');
  const listeners = {
    https: ['127.0.0.1:0'],
    quic: ['127.0.0.1:0'],
    internal: `unix:${join(directory, 'gateway.sock')}`,
  };
  await writeFile(path, JSON.stringify({ listeners, stateDir: join(directory, 'state'), ...over }));
  return { directory, path };
};
const doctorWith = async (t: TestContext, issuer: string): Promise<string> => {
  const { path } = await configure(t, { signIn: { issuer, clientId: 'gateway' } });
  return (await runProcess(process.execPath, [GATEWAY_MAIN, 'doctor', '--json', '--config', path])).stdout;
};

test('a sign-in provider that answers, and one that does not', TIMEOUT, async (t) => {
  const provider = await startIdentityProvider({ accounts: ACCOUNTS });
  provider.serve(['https://gateway.invalid/auth/callback']);
  const good = await doctorWith(t, provider.issuer);
  assert.deepEqual(findingsIn(good, 'sign-in'), [`ok: ${provider.issuer} answers`]);
  assert.match(findingsIn(good, 'clock').join(), /^ok: within 15 s of the provider's$/);
  await provider.close();
  const gone = await doctorWith(t, provider.issuer);
  assert.match(findingsIn(gone, 'sign-in').join(), /^failed: .*ECONNREFUSED/);
  assert.deepEqual(findingsIn(gone, 'clock'), ['skipped: nobody to compare it with']);
});

test('a clock that is wrong, by the Date of a provider; and a provider with another name', TIMEOUT, async (t) => {
  const server = createServer((_request, response) => {
    response.setHeader('Date', new Date(Date.now() + HOUR_MS).toUTCString());
    response.end(JSON.stringify({ issuer: 'https://somebody.else.example' }));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const found = await doctorWith(t, issuer);
  assert.deepEqual(findingsIn(found, 'sign-in'), [
    `failed: it calls itself https://somebody.else.example, not ${issuer}`,
  ]);
  assert.match(findingsIn(found, 'clock').join(), /^failed: (?:3600|3599) s behind the provider's: tokens are refused/);
});

test('names with and without a wildcard, at a real name server', TIMEOUT, async (t) => {
  const { directory, path } = await configure(t, { domains: ['gateway.test'] });
  await writeFile(join(directory, 'resolv.conf'), 'nameserver 127.0.0.1\n');
  const script = `
    ip link set lo up
    mount --bind "$1/resolv.conf" /etc/resolv.conf
    shift
    ${findProgram('dnsmasq')} --no-resolv --no-hosts --user=root --pid-file= --listen-address=127.0.0.1 --bind-interfaces \\
      --keep-in-foreground "$1" "$2" &
    server=$!
    until ${process.execPath} -e 'require("dns").lookup("gateway.test", (error) => process.exit(error ? 1 : 0))'; do
      kill -0 $server || exit 9
    done
    ${process.execPath} ${GATEWAY_MAIN} doctor --json --config ${path}
    kill $server`;
  const doctor = async (...records: readonly [string, string]): Promise<string[]> => {
    const args = ['--net', '--mount', 'sh', '-c', script, 'sh', directory, ...records];
    const { stdout, stderr } = await runProcess('unshare', args, { timeoutMs: 60_000 });
    return findingsIn(
      stdout || `{"findings":[{"check":"DNS","result":"none","detail":${JSON.stringify(stderr)}}]}`,
      'DNS',
    );
  };
  assert.deepEqual(await doctor('--address=/gateway.test/192.0.2.7', '--local=/gateway.test/'), [
    'ok: gateway.test is 192.0.2.7',
    'ok: api.gateway.test is 192.0.2.7',
    'ok: 3000--name-of-no-environment.gateway.test is 192.0.2.7',
  ]);
  const [apex, api, port] = await doctor('--host-record=gateway.test,192.0.2.7', '--local=/gateway.test/');
  assert.equal(apex, 'ok: gateway.test is 192.0.2.7');
  assert.match(api!, /^failed: api\.gateway\.test has no address .*port hosts need \*\.gateway\.test/);
  assert.match(port!, /^failed: 3000--name-of-no-environment\.gateway\.test has no address .*\*\.gateway\.test/);
});
