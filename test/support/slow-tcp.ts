/** A TCP relay on loopback that delivers everything late, as a long path does: no loss, no limit of bandwidth. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

export interface SlowTcp {
  readonly port: number;
  close(): Promise<void>;
}

/** What may be under way in one direction, bytes; beyond it the sender waits. 64 MiB are 640 MB/s at 100 ms. */
const MAX_UNDER_WAY_BYTES = 64 << 20;

/** Hands on what `from` sends, `delayMs` later and in order. */
const passLate = (from: Socket, to: Socket, delayMs: number): void => {
  let underWay = 0;
  const later = (act: () => void): void => void setTimeout(act, delayMs).unref();
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

/** `delayMs` one way: a round trip takes twice as long. */
export const startSlowTcp = async (targetPort: number, delayMs: number): Promise<SlowTcp> => {
  const sockets = new Set<Socket>();
  const keep = (socket: Socket): Socket => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    return socket;
  };
  const server = createServer({ noDelay: true, allowHalfOpen: true }, (front) => {
    const back = keep(connect({ host: '127.0.0.1', port: targetPort, noDelay: true, allowHalfOpen: true }));
    passLate(keep(front), back, delayMs);
    passLate(back, front, delayMs);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
};
