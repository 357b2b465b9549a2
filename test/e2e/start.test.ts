// needs: curl
/** `npm start`: the first thing that anybody does with the project. */
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { freePorts, startDemo, urlOf } from '../support/demo.ts';
import { runProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';

const runnerOf = async (directory: string): Promise<string> =>
  (JSON.parse(await readFile(join(directory, 'demo-state/runner.json'), 'utf8')) as { id: string }).id;

/** Process ids of the children of a process. */
const childrenOf = async (pid: number | undefined): Promise<number[]> =>
  (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).split(' ').filter(Boolean).map(Number);

const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false; // ESRCH
  }
};

test('npm start prints a URL that works, keeps its runner, and ends all that it started', async (t) => {
  const directory = await temporaryDirectory(t);
  const ports = await freePorts();
  const demo = startDemo(t, directory, ports);
  const url = await urlOf(demo);
  assert.equal(url, `https://${ports.app}--demo.gateway.localhost:${ports.https}/`);

  // The very line that is printed, and the one with the certificate instead of -k.
  assert.ok(demo.output().includes(`curl -k ${url}`));
  const certificate = join(directory, 'state/self-signed/certificate.pem');
  for (const trust of [['-k'], ['--cacert', certificate]]) {
    const { stdout, stderr } = await runProcess('curl', ['-sS', ...trust, url]);
    assert.match(stdout, new RegExp(`Host: ${new URL(url).host}`), stderr);
    assert.match(stdout, /x-forwarded-proto: https/i);
  }

  const runner = await runnerOf(directory);
  const children = await childrenOf(demo.child.pid);
  assert.equal(children.length, 3);
  demo.child.kill('SIGINT');
  assert.deepEqual(await demo.exited, { code: 130, signal: null });
  assert.deepEqual(children.filter(isAlive), []);

  await t.test('a second start finds the same runner', async (t) => {
    const again = startDemo(t, directory, ports);
    assert.equal(await urlOf(again), url);
    assert.equal(await runnerOf(directory), runner);
    again.child.kill('SIGTERM');
    assert.deepEqual(await again.exited, { code: 143, signal: null });
  });
});

test('when one part dies, all ends, and its last log lines are shown', async (t) => {
  const directory = await temporaryDirectory(t);
  const demo = startDemo(t, directory, await freePorts());
  await urlOf(demo);
  const children = await childrenOf(demo.child.pid);
  process.kill(children[0] ?? 0, 'SIGKILL');
  assert.deepEqual(await demo.exited, { code: 1, signal: null });
  assert.match(demo.output(), /The gateway was ended by SIGKILL\.\n {2}The last lines of .*gateway\.log:\n {4}\S/);
  assert.deepEqual(children.filter(isAlive), []);
});

test('each busy port is named with the option that changes it, before anything starts', async (t) => {
  const directory = await temporaryDirectory(t);
  const ports = await freePorts();
  const server = createServer().listen(ports.https, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  const socket = createSocket('udp4').bind(ports.quic, '0.0.0.0');
  t.after(() => socket.close());
  await once(socket, 'listening');

  const demo = startDemo(t, directory, ports);
  assert.deepEqual(await demo.exited, { code: 1, signal: null });
  assert.match(demo.output(), new RegExp(`TCP port ${ports.https} is in use.*\\n.*--https-port.*listeners\\.https`));
  assert.match(demo.output(), new RegExp(`UDP port ${ports.quic} is in use.*\\n.*--quic-port.*listeners\\.quic`));
  assert.doesNotMatch(demo.output(), /Starting/);
});
