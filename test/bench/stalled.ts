/** Clients that stop reading, and applications that stop reading, and what that costs everybody else. */
import { readFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { connect, type TLSSocket } from 'node:tls';
import { setTimeout as delay } from 'node:timers/promises';
import type { Progress } from './upstream-app.ts';
import { download, smallRequest } from './transfer.ts';
import type { World } from './world.ts';

/** Downloads of which the fastest counts: what else runs on the machine only makes them slower. */
const SPEED_ROUNDS = 5;
/** A stream on which nothing moved for so long stands still, ms. */
const STILL_MS = 1_500;
const STILL_TIMEOUT_MS = 60_000;
/** What a client reads before it stops, bytes: past everything that is sent ahead. */
const READ_FIRST_BYTES = 256 << 10;

export interface StallResult {
  /** Growth of the resident memory over that after the warm-up round, bytes. */
  readonly gatewayGrowth: number;
  readonly tunnelClientGrowth: number;
  /** Of one body: what its sender has handed to the kernel and its receiver has not read, bytes. */
  readonly mostInFlight: number;
  /** Of one body: what gateway, tunnel and tunnel client hold, that is without the buffers of the sockets, bytes. */
  readonly mostHeld: number;
  /** Of a small request to another environment while the others stand still, ms. */
  readonly slowestRequestMs: number;
  /** Of a download beside them, against one on an idle leg in the same run. */
  readonly speedRatio: number;
  readonly legsLost: number;
}

export interface StallOptions {
  readonly direction: 'download' | 'upload';
  readonly streams: number;
  readonly bytes: number;
  /** Of the transfer whose speed is measured. */
  readonly speedBytes: number;
}

interface Stalled {
  readonly id: string;
  /** Local port of the client. */
  readonly port: number;
  /** Bytes of the body that this end has read, or handed to the kernel. */
  moved(): number;
  close(): void;
}

const connectTls = (world: World): Promise<TLSSocket> =>
  new Promise((resolve, reject) => {
    const socket = connect(
      {
        host: '127.0.0.1',
        port: world.httpsPort,
        servername: world.host(),
        ca: world.ca,
        checkServerIdentity: () => undefined,
        ALPNProtocols: ['http/1.1'],
      },
      () => resolve(socket),
    );
    socket.on('error', reject);
  });

const stalledDownload = async (world: World, bytes: number, id: string): Promise<Stalled> => {
  const socket = await connectTls(world);
  let got = 0;
  socket.on('data', (chunk: Buffer) => {
    got += chunk.length;
    if (got >= READ_FIRST_BYTES) socket.pause();
  });
  socket.write(`GET /bytes/${bytes}?id=${id} HTTP/1.1\r\nHost: ${world.host()}:${world.httpsPort}\r\n\r\n`);
  return { id, port: socket.localPort ?? 0, moved: () => got, close: () => socket.destroy() };
};

const stalledUpload = async (world: World, bytes: number, id: string): Promise<Stalled> => {
  const socket = await connectTls(world);
  const piece = Buffer.alloc(64 << 10, 'u');
  const path = `/stall?id=${id}&after=${READ_FIRST_BYTES}`;
  socket.write(`POST ${path} HTTP/1.1\r\nHost: ${world.host()}:${world.httpsPort}\r\nContent-Length: ${bytes}\r\n\r\n`);
  let left = bytes;
  const more = (): void => {
    while (left > 0) {
      left -= piece.length;
      if (!socket.write(piece)) return void socket.once('drain', more);
    }
  };
  more();
  return {
    id,
    port: socket.localPort ?? 0,
    moved: () => bytes - left - socket.writableLength,
    close: () => socket.destroy(),
  };
};

/** What the application says of each stream, asked directly. */
const applicationProgress = (world: World): Promise<Record<string, Progress>> =>
  new Promise((resolve, reject) => {
    const request = httpRequest(
      { host: '127.0.0.1', port: world.applicationPort, path: '/progress', agent: false },
      (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
        response.on('end', () => resolve(JSON.parse(text) as Record<string, Progress>));
        response.on('error', reject);
      },
    );
    request.on('error', reject);
    request.end();
  });

/**
 * What the kernel holds for each TCP connection of 127.0.0.1, both ends, by `<port>-<port>` with the smaller port first.
 * A sender of Linux keeps up to 4 MiB, which nobody above it can tell from delivered bytes.
 */
const kernelQueues = async (): Promise<Map<string, number>> => {
  const queues = new Map<string, number>();
  for (const line of (await readFile('/proc/net/tcp', 'utf8')).split('\n').slice(1)) {
    const [, local, remote, , sizes] = line.trim().split(/\s+/);
    const [sending, receiving] = (sizes ?? '').split(':').map((hex) => parseInt(hex, 16));
    if (local === undefined || remote === undefined || sending === undefined || receiving === undefined) continue;
    const key = connectionKey(...([local, remote].map((end) => parseInt(end.slice(-4), 16)) as [number, number]));
    queues.set(key, (queues.get(key) ?? 0) + sending + receiving);
  }
  return queues;
};
const connectionKey = (one: number, other: number): string => `${Math.min(one, other)}-${Math.max(one, other)}`;

/** Bytes of each body between its two ends, and those of them that no kernel holds, once nothing moves any more. */
const untilStill = async (world: World, streams: readonly Stalled[]): Promise<{ inFlight: number; held: number }[]> => {
  let before = '';
  let since = performance.now();
  for (const end = since + STILL_TIMEOUT_MS; performance.now() < end; await delay(100)) {
    const progress = await applicationProgress(world);
    const now = JSON.stringify(streams.map((stream) => [stream.moved(), progress[stream.id]]));
    if (now !== before || streams.some(({ id }) => !progress[id])) since = performance.now();
    before = now;
    if (performance.now() - since < STILL_MS) continue;
    const queues = await kernelQueues();
    return streams.map((stream) => {
      const { written, read, peerPort } = progress[stream.id] ?? { written: NaN, read: NaN, peerPort: 0 };
      const inFlight = Math.abs(stream.moved() - (written || read));
      const outside = queues.get(connectionKey(stream.port, world.httpsPort)) ?? 0;
      const inside = queues.get(connectionKey(peerPort, world.applicationPort)) ?? 0;
      return { inFlight, held: inFlight - outside - inside };
    });
  }
  throw new Error('the streams do not come to a standstill');
};

const open = (world: World, { direction, streams, bytes }: StallOptions, round: string): Promise<Stalled[]> =>
  Promise.all(
    Array.from({ length: streams }, (_, index) =>
      (direction === 'download' ? stalledDownload : stalledUpload)(world, bytes, `${round}-${index}`),
    ),
  );

/** `world` has two environments: one is stalled, the other must not notice. */
export const measureStall = async (world: World, options: StallOptions): Promise<StallResult> => {
  const other = world.environments[1];
  const speed = async (): Promise<number> => {
    let best = 0;
    for (let round = 0; round < SPEED_ROUNDS; round++)
      best = Math.max(best, await download(world, options.speedBytes, other));
    return best;
  };
  const memory = (): Promise<[number, number]> => Promise.all([world.gateway.rss(), world.tunnelClient.rss()]);
  const warmUp = await open(world, options, 'warm-up');
  await untilStill(world, warmUp);
  await speed();
  for (const stream of warmUp) stream.close();
  const idleBefore = await speed();
  const before = await memory();

  const stalled = await open(world, options, 'stalled');
  const bodies = await untilStill(world, stalled);
  const after = await memory();
  const times: number[] = [];
  for (let round = 0; round < 10; round++) times.push(await smallRequest(world, other));
  const busySpeed = await speed();
  for (const stream of stalled) stream.close();
  const idleSpeed = Math.min(idleBefore, await speed());
  return {
    gatewayGrowth: after[0] - before[0],
    tunnelClientGrowth: after[1] - before[1],
    mostInFlight: Math.max(...bodies.map(({ inFlight }) => inFlight)),
    mostHeld: Math.max(...bodies.map(({ held }) => held)),
    slowestRequestMs: Math.max(...times),
    speedRatio: busySpeed / idleSpeed,
    legsLost: world.logged('leg down'),
  };
};
