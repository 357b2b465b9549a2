import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdir, mkdtemp, readlink, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import type { CertificatePair } from '../../gateway/src/edge/certificates.ts';
import { CERTIFICATE_CHECK_MS, openCertificates } from '../../gateway/src/edge/live-certificates.ts';
import { createTlsServer } from '../../gateway/src/edge/tls-server.ts';
import { makeTestCertificate } from '../support/certificate.ts';
import { keepLog } from '../support/gateway.ts';
import { createManualClock } from '../support/manual-clock.ts';

const makePair = (name: string) => makeTestCertificate(name);

const open = async (t: TestContext, names: readonly string[]) => {
  const directory = await mkdtemp(join(tmpdir(), 'live-certificates-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const tls: CertificatePair[] = [];
  const write = async (index: number, name: string): Promise<void> => {
    const made = await makePair(name);
    await writeFile(tls[index]!.certificate, made.certificate);
    await writeFile(tls[index]!.key, made.key);
  };
  for (const [index, name] of names.entries()) {
    tls.push({ certificate: join(directory, `${index}.pem`), key: join(directory, `${index}.key`) });
    await write(index, name);
  }
  const clock = createManualClock(Date.now());
  const kept = keepLog();
  const certificates = await openCertificates({ clock, log: kept.log }, { tls, stateDir: directory, domains: names });
  t.after(() => certificates.close());
  return { clock, certificates, tls, write, ...kept };
};

/** A TLS server with these certificates; `dial` ends its handshake and gives the socket. */
const serve = async (t: TestContext, { certificates, log }: Awaited<ReturnType<typeof open>>) => {
  const tls = createTlsServer({
    log,
    limits: { tlsHandshakeTimeoutMs: 10_000 },
    certificates,
    ticketKeys: undefined,
    peerOf: () => ({ address: '127.0.0.1', port: 0, isProxy: false }),
    onSecure: (socket) => void socket.pipe(socket),
  });
  const server = createServer((socket) => tls.accept(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const sockets = new Set<TLSSocket>();
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    tls.close();
    server.close();
  });
  return async (servername?: string): Promise<TLSSocket> => {
    const { port } = server.address() as AddressInfo;
    const socket = connect({
      host: '127.0.0.1',
      port,
      rejectUnauthorized: false,
      ...(servername === undefined ? {} : { servername }),
    });
    sockets.add(socket);
    await once(socket, 'secureConnect');
    return socket;
  };
};
const subjectOf = (socket: TLSSocket): string => socket.getPeerCertificate().subjectaltname ?? '';

test('a replaced certificate serves new handshakes within a minute, and connections that are up go on', async (t) => {
  const world = await open(t, ['a.example', 'b.example']);
  const dial = await serve(t, world);
  const before = await dial('b.example');
  assert.equal(subjectOf(before), 'DNS:b.example');
  assert.equal(subjectOf(await dial()), 'DNS:a.example');

  await world.write(1, 'new.b.example');
  await world.write(0, 'new.a.example');
  const changed = new Promise<void>((resolve) => void world.certificates.onChange(resolve));
  assert.ok(CERTIFICATE_CHECK_MS <= 60_000);
  await world.clock.advance(CERTIFICATE_CHECK_MS);
  await changed;
  assert.equal(subjectOf(await dial('new.b.example')), 'DNS:new.b.example');
  assert.equal(subjectOf(await dial()), 'DNS:new.a.example', 'also for clients without a server name');
  assert.equal(world.lines.filter(({ msg }) => msg === 'certificate replaced').length, 2);

  before.write('still here');
  assert.equal(String(await once(before, 'data')), 'still here');
});

test('a bad replacement keeps the old certificate, is reported once, and a good one ends it', async (t) => {
  const world = await open(t, ['a.example', 'b.example']);
  const dial = await serve(t, world);
  const [pair] = world.tls;
  const other = await makePair('a.example');
  await writeFile(pair!.key, other.key);
  await world.write(1, 'new.b.example');
  assert.deepEqual(world.certificates.faults(), []);

  const replaced = world.waitFor(({ msg }) => msg === 'certificate replaced');
  await world.clock.advance(CERTIFICATE_CHECK_MS);
  await replaced;
  assert.deepEqual(world.certificates.faults(), [], 'a pair that is caught half written is no fault yet');
  assert.equal(subjectOf(await dial('new.b.example')), 'DNS:new.b.example', 'the others are replaced all the same');

  const { replaced: none, faults } = await world.certificates.check();
  assert.deepEqual(none, []);
  assert.match(faults.join(), /0\.key: TLS key: the key does not belong/);
  await world.certificates.check();
  const reports = world.lines.filter(({ msg }) => msg.startsWith('a certificate cannot be replaced'));
  assert.deepEqual(
    reports.map(({ code }) => code),
    ['key_mismatch'],
    'once, not at each check',
  );
  assert.equal(subjectOf(await dial('a.example')), 'DNS:a.example');

  await rm(pair!.certificate);
  const missing = await world.certificates.check();
  assert.match(missing.faults.join(), /does not exist/);
  assert.equal(subjectOf(await dial('a.example')), 'DNS:a.example');

  await world.write(0, 'good.a.example');
  const last = await world.certificates.check();
  assert.deepEqual(last, { replaced: [pair!.certificate], faults: [] });
  assert.equal(subjectOf(await dial('good.a.example')), 'DNS:good.a.example');
});

test('without being asked, a fault is reported at the second check in a row', async (t) => {
  const world = await open(t, ['a.example']);
  await writeFile(world.tls[0]!.certificate, 'junk');
  const reported = world.waitFor(({ level, code }) => level === 'error' && code === 'not_pem');
  let checks = 0;
  const step = async (): Promise<void> => {
    for (; world.certificates.faults().length === 0; checks += 1) await world.clock.advance(CERTIFICATE_CHECK_MS);
  };
  await step();
  await reported;
  assert.ok(checks >= 2, `${checks} checks`);
});

/**
 * A directory as the kubelet keeps a secret's (`AtomicWriter`): the names are links to `..data/<name>`, `..data` is a link
 * to a directory with a time in its name, and a new version comes with one rename of that link.
 */
const mountSecret = async (directory: string) => {
  let version = 0;
  const update = async (files: Readonly<Record<string, string>>): Promise<void> => {
    version += 1;
    const next = `..2026_11_21_00_00_${String(version).padStart(2, '0')}`;
    await mkdir(join(directory, next));
    for (const [name, text] of Object.entries(files)) await writeFile(join(directory, next, name), text);
    const data = join(directory, '..data');
    const before = version === 1 ? undefined : await readlink(data);
    await symlink(next, `${data}_tmp`);
    await rename(`${data}_tmp`, data);
    if (before !== undefined) return rm(join(directory, before), { recursive: true });
    for (const name of Object.keys(files)) await symlink(join('..data', name), join(directory, name));
  };
  return update;
};

test('a secret that Kubernetes replaces is followed through its links, and a bad one is not taken', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'live-certificates-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const update = await mountSecret(directory);
  const secretOf = async (name: string) => {
    const { certificate, key } = await makePair(name);
    return { 'tls.crt': certificate, 'tls.key': key };
  };
  await update(await secretOf('first.example'));
  const clock = createManualClock(Date.now());
  const kept = keepLog();
  const tls = [{ certificate: join(directory, 'tls.crt'), key: join(directory, 'tls.key') }];
  const certificates = await openCertificates({ clock, log: kept.log }, { tls, stateDir: directory, domains: [] });
  t.after(() => certificates.close());
  const world = { clock, certificates, tls, write: () => Promise.resolve(), ...kept };
  const dial = await serve(t, world);
  const before = await dial('first.example');

  for (const name of ['second.example', 'third.example']) {
    const changed = new Promise<void>((resolve) => void certificates.onChange(resolve));
    await update(await secretOf(name));
    await clock.advance(CERTIFICATE_CHECK_MS);
    await changed;
    assert.equal(subjectOf(await dial(name)), `DNS:${name}`);
  }
  before.write('still here');
  assert.equal(String(await once(before, 'data')), 'still here');

  // A secret whose key belongs to another certificate.
  await update({ ...(await secretOf('bad.example')), 'tls.key': (await makePair('other.example')).key });
  assert.match((await certificates.check()).faults.join(), /does not belong/);
  assert.equal(subjectOf(await dial('third.example')), 'DNS:third.example');
  await update(await secretOf('fourth.example'));
  assert.deepEqual((await certificates.check()).faults, []);
  assert.equal(subjectOf(await dial('fourth.example')), 'DNS:fourth.example');
});
