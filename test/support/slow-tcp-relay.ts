/** The relay of slow-tcp.ts, in a thread of its own: it must not share a core with what it is measured with. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';

/** What may be under way in one direction, bytes; beyond it the sender waits. 64 MiB are 640 MB/s at 100 ms. */
const MAX_UNDER_WAY_BYTES = 64 << 20;

/** Hands on what `from` sends, `delayMs` later and in order. */
const passLate = (from: Socket, to: Socket, delayMs: number): void => {
  let underWay = 0;
  const later = (act: () => void): void => void setTimeout(act, delayMs);
  from.on('data', (chunk: Buffer) => {
    underWay += chunk.length;
    if (underWay > MAX_UNDER_WAY_BYTES) from.pause();
    later(() => {
      to.write(chunk, () => {
        underWay -= chunk.length;
        if (underWay <= MAX_UNDER_WAY_BYTES) from.resume();
      });
    });
  });
  from.on('end', () => later(() => to.end()));
  from.on('close', () => later(() => to.destroy()));
  from.on('error', () => undefined);
};

const { targetPort, delayMs } = workerData as { targetPort: number; delayMs: number };
const server = createServer({ noDelay: true, allowHalfOpen: true }, (front) => {
  const back = connect({ host: '127.0.0.1', port: targetPort, noDelay: true, allowHalfOpen: true });
  passLate(front, back, delayMs);
  passLate(back, front, delayMs);
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');
parentPort?.postMessage((server.address() as AddressInfo).port);
