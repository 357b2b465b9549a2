import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect } from 'node:tls';
import { once } from 'node:events';
import { makeSelfSignedCertificate } from '../../gateway/src/edge/self-signed-certificate.ts';
import { parseGatewayConfig } from '../../gateway/src/config.ts';
import { describeConfig } from '../../gateway/src/cli/config.ts';
import { runProcess, startProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { GATEWAY_MAIN } from '../support/served-processes.ts';

const DAY_MS = 24 * 3_600_000;
const TIMEOUT = { timeout: 60_000 };

test('SIGHUP takes over what it can, and names what needs a restart', TIMEOUT, async (t) => {
  const directory = await temporaryDirectory(t);
  const path = join(directory, 'gateway.yaml');
  const pair = { certificate: join(directory, 'cert.pem'), key: join(directory, 'key.pem') };
  const issue = async (name: string): Promise<void> => {
    const now = Date.now();
    const made = await makeSelfSignedCertificate({ names: [name], notBefore: now - DAY_MS, notAfter: now + DAY_MS });
    await writeFile(pair.certificate, made.certificate);
    await writeFile(pair.key, made.key);
  };
  const configure = (over: object): Promise<void> =>
    writeFile(
      path,
      JSON.stringify({
        listeners: {
          https: ['127.0.0.1:0'],
          quic: ['127.0.0.1:0'],
          internal: `unix:${join(directory, 'gateway.sock')}`,
        },
        stateDir: join(directory, 'state'),
        tls: pair,
        ...over,
      }),
    );
  await issue('one.example');
  await configure({});
  const gateway = startProcess(t, process.execPath, [GATEWAY_MAIN, 'serve', '--config', path]);
  const [, port] = await gateway.waitForOutput(/"https":\["127\.0\.0\.1:(\d+)"\].*the gateway serves/);
  const nameServed = async (): Promise<string | undefined> => {
    const socket = connect({ host: '127.0.0.1', port: Number(port), rejectUnauthorized: false });
    await once(socket, 'secureConnect');
    const name = socket.getPeerCertificate().subjectaltname;
    socket.destroy();
    return name;
  };
  assert.equal(await nameServed(), 'DNS:one.example');

  await issue('two.example');
  await configure({ logLevel: 'debug', limits: { connections: 50, maxApiBodyBytes: 1_000 }, publicPort: 443 });
  gateway.child.kill('SIGHUP');
  const [line] = await gateway.waitForOutput(/.*configuration read again; a part of it needs a restart.*/);
  const { applied, needsRestart } = JSON.parse(line) as { applied: string[]; needsRestart: string[] };
  assert.deepEqual(applied, ['limits.connections 50', 'logLevel debug', `certificate ${pair.certificate}`]);
  assert.deepEqual(needsRestart, ['limits.maxApiBodyBytes', 'publicPort']);
  assert.equal(await nameServed(), 'DNS:two.example');
  await gateway.waitForOutput(/"level":"debug"/);

  await writeFile(path, 'domains: [');
  gateway.child.kill('SIGHUP');
  await gateway.waitForOutput(/the configuration cannot be used; nothing has changed/);
  assert.equal(gateway.child.exitCode, null);
  assert.deepEqual(await gateway.stop(), { code: 0, signal: null });
});

test('config check names every fault, also of files; config show means the same', TIMEOUT, async (t) => {
  const directory = await temporaryDirectory(t);
  const path = join(directory, 'gateway.yaml');
  const gateway = (...args: string[]) => runProcess(process.execPath, [GATEWAY_MAIN, 'config', ...args]);
  await writeFile(
    path,
    'domains: [a.example]\nlisteners: { http: [":80"], internal: "unix:i.sock" }\ndrainDelay: 15s\n' +
      'organizations: { acme: { highestAdmission: organization } }\nlimits: { connections: 7 }\n',
  );
  const good = await gateway('check', path);
  assert.deepEqual([good.code, good.stderr], [0, '']);
  assert.match(good.stdout, /is valid/);
  const shown = await gateway('show', '--config', path);
  assert.equal(shown.code, 0, shown.stderr);
  const parsed = parseGatewayConfig(await readFile(path, 'utf8'), {}, { path });
  assert.deepEqual(parseGatewayConfig(shown.stdout, {}, { path }), parsed);
  assert.equal(describeConfig(parsed)['drainDelay'], '15000ms');

  await writeFile(path, 'domains: [a.example]\ntls: { certificate: no.pem, key: no.key }\n');
  const files = await gateway('check', path);
  assert.equal(files.code, 1);
  assert.match(files.stderr, /tls: .*no\.pem: TLS certificate: the file does not exist/);
  await writeFile(path, 'domain: a.example\nlistenes: {}\n');
  const keys = await gateway('check', path);
  assert.equal(keys.code, 1);
  assert.match(keys.stderr, /domains\?[^]*listeners\?/);
});
