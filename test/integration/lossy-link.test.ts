// needs: root, netns, python3, tun
/** The link that other tests lose packets on does what it is told. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test, type TestContext } from 'node:test';
import { createNamespace, type Namespace } from '../support/namespaces.ts';
import { type LossyLink, startLossyLink, type LinkSettings } from '../support/lossy-link.ts';

const PINGS = 20;

interface Pinged {
  readonly received: number;
  readonly duplicates: number;
  /** Smallest round trip, ms. */
  readonly minMs: number;
}

const ECHO = `
const { createSocket } = require('node:dgram');
const socket = createSocket('udp4');
socket.on('message', (message, { port, address }) => socket.send(message, port, address));
socket.bind(7007, () => console.log('ready'));
process.stdin.resume().on('end', () => process.exit());
`;
const PING = `
const { createSocket } = require('node:dgram');
const [, address, count, waitMs] = process.argv;
const socket = createSocket('udp4');
const sent = new Map(), got = new Map();
let duplicates = 0;
socket.on('message', (message) => {
  const text = String(message);
  if (!sent.has(text)) return;
  if (got.has(text)) duplicates += 1;
  else got.set(text, performance.now() - sent.get(text));
});
for (let index = 0; index < Number(count); index++) {
  sent.set('ping-' + index, performance.now());
  socket.send('ping-' + index, 7007, address);
}
setTimeout(() => {
  console.log(JSON.stringify({ received: got.size, duplicates, minMs: Math.min(...got.values()) }));
  process.exit();
}, Number(waitMs));
`;

const open = async (t: TestContext, settings: Partial<LinkSettings>): Promise<[Namespace, LossyLink]> => {
  const a = await createNamespace();
  t.after(() => a.close());
  const b = await createNamespace();
  t.after(() => b.close());
  const link = await startLossyLink([a, b], settings);
  t.after(() => link.close());
  const [program = '', ...args] = [...b.prefix, process.execPath, '-e', ECHO];
  const echo = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = once(echo, 'exit');
  t.after(async () => {
    echo.stdin.end();
    await exited;
  });
  await once(echo.stdout, 'data');
  return [a, link];
};
const ping = async (from: Namespace, waitMs: number): Promise<Pinged> =>
  JSON.parse(await from.run(process.execPath, '-e', PING, '10.77.0.2', String(PINGS), String(waitMs))) as Pinged;

test('delay, both ways together', async (t) => {
  const [a] = await open(t, { delayMs: 50 });
  const { received, minMs } = await ping(a, 2_000);
  assert.equal(received, PINGS);
  assert.ok(minMs >= 100, `${minMs} ms`);
});

test('loss, a black hole, duplicates and damage, changed while it runs', async (t) => {
  const [a, link] = await open(t, {});
  assert.equal((await ping(a, 1_000)).received, PINGS);

  await link.set({ blackhole: true }, 'a-to-b');
  assert.equal((await ping(a, 300)).received, 0);

  await link.set({ blackhole: false, duplicate: 1 }, 'a-to-b');
  const doubled = await ping(a, 1_000);
  assert.deepEqual([doubled.received, doubled.duplicates], [PINGS, PINGS]);

  await link.set({ duplicate: 0, corrupt: 1 });
  assert.equal((await ping(a, 300)).received, 0, 'the kernel drops what fails its checksum');

  await link.set({ corrupt: 0, loss: 1 }, 'b-to-a');
  assert.equal((await ping(a, 300)).received, 0);
  const { settings, counters } = await link.state();
  assert.equal(settings['b-to-a'].loss, 1);
  assert.ok(counters['a-to-b'].packets >= 4 * PINGS && counters['a-to-b'].corrupted >= PINGS);
  await assert.rejects(link.set({ los: 1 } as Partial<LinkSettings>), RangeError);
});
