/**
 * Requests at a constant rate: `node load-latency.ts URL RATE SECONDS`. Prints `{"p50", "p99", "count"}` in ms.
 *
 * The time of a request begins when it was due, not when there was a free connection for it or this program came round
 * to it: a system that stands still for a second makes all requests of that second late.
 */
import { once } from 'node:events';
import { connect, type TLSSocket } from 'node:tls';
import { quantile } from './statistics.ts';

/** More than are needed at once by any system that keeps up. */
const CONNECTIONS = 16;
/** Not counted: programs are still being compiled. */
const WARM_UP_SECONDS = 0.5;
/** After the last request, ms. */
const ANSWER_TIMEOUT_MS = 10_000;
/** The curve that all edges have, so that the handshake is the same. */
const CURVE = 'X25519';

const [address = '', rateText, secondsText] = process.argv.slice(2);
const url = new URL(address);
const rate = Number(rateText);
const total = Math.round(rate * (Number(secondsText) + WARM_UP_SECONDS));
const head = `GET ${url.pathname} HTTP/1.1\r\nhost: ${url.host}\r\n\r\n`;

const fail = (why: string): never => {
  console.error(why);
  process.exit(1);
};

const times: number[] = [];
const idle: TLSSocket[] = [];
const due: number[] = [];
const beganAt = new Map<TLSSocket, number>();
let done = (): void => {};

/** The answers have a length and no more than one is under way on a connection. */
const read = (socket: TLSSocket): void => {
  let got = '';
  socket.setEncoding('latin1').on('data', (chunk: string) => {
    got += chunk;
    const end = got.indexOf('\r\n\r\n');
    if (end < 0) return;
    if (!got.startsWith('HTTP/1.1 200')) fail(got);
    const length = Number(/\r\ncontent-length: *(\d+)/i.exec(got)?.[1] ?? fail(got));
    if (got.length < end + 4 + length) return;
    got = '';
    times.push(performance.now() - (beganAt.get(socket) ?? NaN));
    beganAt.delete(socket);
    idle.push(socket);
    send();
    if (times.length === total) done();
  });
};

const send = (): void => {
  while (idle.length > 0 && due.length > 0) {
    const socket = idle.pop()!;
    beganAt.set(socket, due.shift()!);
    socket.write(head);
  }
};

for (let index = 0; index < CONNECTIONS; index++) {
  const socket = connect({
    host: url.hostname,
    port: Number(url.port),
    servername: url.hostname,
    rejectUnauthorized: false,
    ecdhCurve: CURVE,
    ALPNProtocols: ['http/1.1'],
  });
  socket.setNoDelay();
  await once(socket, 'secureConnect');
  socket.on('close', () => fail('a connection was closed'));
  socket.on('error', (error) => fail(error.message));
  read(socket);
  idle.push(socket);
}

const finished = new Promise<void>((resolve) => (done = resolve));
const startedAt = performance.now();
let issued = 0;
const tick = (): void => {
  for (const now = performance.now(); issued < total && startedAt + (issued * 1_000) / rate <= now; issued++) {
    due.push(startedAt + (issued * 1_000) / rate);
  }
  send();
  if (issued < total) setTimeout(tick, Math.max(0, startedAt + (issued * 1_000) / rate - performance.now()));
  else setTimeout(() => fail(`${total - times.length} requests were not answered`), ANSWER_TIMEOUT_MS);
};
tick();
await finished;
const counted = times.slice(Math.round(rate * WARM_UP_SECONDS));
const [p50, p99] = [quantile(counted, 0.5), quantile(counted, 0.99)];
console.log(JSON.stringify({ p50, p99, count: counted.length }));
process.exit();
