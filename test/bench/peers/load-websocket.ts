/**
 * Messages there and back: `node load-websocket.ts URL SECONDS`. 64 sockets with a message of 256 bytes under way on
 * each. Prints `{"rate"}`, echoed messages a second.
 */
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { WebSocket } from 'ws';

const SOCKETS = 64;
const MESSAGE = Buffer.alloc(256, 'm');
/** Not counted: programs are still being compiled. */
const WARM_UP_MS = 500;

const [url = '', seconds] = process.argv.slice(2);
let count = 0;
const sockets = Array.from(
  { length: SOCKETS },
  () => new WebSocket(url, { rejectUnauthorized: false, ecdhCurve: 'X25519', perMessageDeflate: false }),
);
await Promise.all(sockets.map((socket) => once(socket, 'open')));
for (const socket of sockets) {
  socket.on('message', (data: Buffer) => {
    if (data.length !== MESSAGE.length) throw new Error(`${data.length} bytes came back`);
    count += 1;
    socket.send(MESSAGE);
  });
  socket.on('close', () => {
    throw new Error('a socket was closed');
  });
  socket.send(MESSAGE);
}
await delay(WARM_UP_MS);
count = 0;
const startedAt = performance.now();
await delay(Number(seconds) * 1_000);
console.log(JSON.stringify({ rate: (count * 1_000) / (performance.now() - startedAt) }));
process.exit();
