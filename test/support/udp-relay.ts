/** A UDP relay on loopback between one dialer and a server, which sees, holds back and forges datagrams. */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';

export type Direction = 'toServer' | 'toDialler';

export interface UdpRelay {
  readonly port: number;
  /** Every datagram that came in, in order. */
  readonly seen: readonly { readonly direction: Direction; readonly bytes: Buffer }[];
  /** Datagrams of a held direction wait, in order, until `release`. */
  hold(direction: Direction): void;
  release(direction: Direction): void;
  /** From now on nothing passes either way. */
  cut(): void;
  /** Sends `bytes` as if they came from the other side. */
  forge(direction: Direction, bytes: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

const bind = (socket: Socket): Promise<number> =>
  new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(0, '127.0.0.1', () => resolve(socket.address().port));
  });

/** Relays to `serverPort`; without one it swallows everything. */
export const createUdpRelay = async (serverPort: number | undefined): Promise<UdpRelay> => {
  const front = createSocket('udp4');
  const back = createSocket('udp4');
  const port = await bind(front);
  await bind(back);
  const seen: { direction: Direction; bytes: Buffer }[] = [];
  const held: Record<Direction, Buffer[] | undefined> = { toServer: undefined, toDialler: undefined };
  let dialler: RemoteInfo | undefined;
  let isCut = false;

  const send = (direction: Direction, bytes: Uint8Array): Promise<void> =>
    new Promise((resolve) => {
      const done = (): void => resolve();
      if (direction === 'toDialler' && dialler !== undefined) front.send(bytes, dialler.port, '127.0.0.1', done);
      else if (direction === 'toServer' && serverPort !== undefined) back.send(bytes, serverPort, '127.0.0.1', done);
      else resolve();
    });
  const pass = (direction: Direction, bytes: Buffer): void => {
    seen.push({ direction, bytes });
    if (isCut) return;
    const queue = held[direction];
    if (queue === undefined) void send(direction, bytes);
    else queue.push(bytes);
  };
  front.on('message', (bytes, from) => {
    dialler = from;
    pass('toServer', bytes);
  });
  back.on('message', (bytes) => pass('toDialler', bytes));

  return {
    port,
    seen,
    hold: (direction) => void (held[direction] ??= []),
    release: (direction) => {
      const queue = held[direction] ?? [];
      held[direction] = undefined;
      for (const bytes of queue) void send(direction, bytes);
    },
    cut: () => void (isCut = true),
    forge: send,
    close: async () => {
      await Promise.all([front, back].map((socket) => new Promise<void>((resolve) => socket.close(() => resolve()))));
    },
  };
};
