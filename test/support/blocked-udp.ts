/**
 * What is between a runner and its gateway: UDP that can be cut off and come back, be late, lost, out of order, doubled
 * and damaged, and get other ports; TCP passes all along.
 */
import { createSocket } from 'node:dgram';
import { startTestGateway, type GatewayOptions, type TestGateway } from './gateway.ts';

export interface UdpWeather {
  /** One way, ms. */
  readonly delayMs: number;
  /** Shares of the datagrams, 0 to 1, each way. */
  readonly loss: number;
  /** These go ahead of those that were sent before them. */
  readonly reorder: number;
  readonly duplicate: number;
  readonly corrupt: number;
}
const CALM: UdpWeather = { delayMs: 0, loss: 0, reorder: 0, duplicate: 0, corrupt: 0 };

export interface UdpPath {
  readonly port: number;
  /** In force for every datagram from now on. */
  setWeather(weather: Partial<UdpWeather>): void;
  /** Ports that datagrams came from so far, in order of arrival. */
  flows(): readonly number[];
  /** What comes from these ports reaches the server from new ones; what is sent to the old ones is lost. */
  rebind(flows: readonly number[]): void;
  /** Whether datagrams pass. */
  setOpen(open: boolean): void;
  close(): Promise<void>;
}

const WEATHER_SEED = 7;
/** Numbers from 0 to 1, the same in each run (mulberry32). */
const createRandom = (seed: number): (() => number) => {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
};

/** A relay on loopback. Its address is known before that of the server. */
export const createUdpPath = async (): Promise<UdpPath & { setServer(port: number): void }> => {
  const front = createSocket('udp4');
  const flows = new Map<number, ReturnType<typeof createSocket>>();
  const left: ReturnType<typeof createSocket>[] = [];
  const timers = new Set<NodeJS.Timeout>();
  let serverPort: number | undefined;
  let isOpen = true;
  let weather = CALM;
  const random = createRandom(WEATHER_SEED);
  await new Promise<void>((resolve, reject) => {
    front.once('error', reject);
    front.bind(0, '127.0.0.1', resolve);
  });
  const after = (delayMs: number, send: () => void): void => {
    if (delayMs === 0) return send();
    const timer = setTimeout(() => {
      timers.delete(timer);
      send();
    }, delayMs);
    timers.add(timer);
  };
  const pass = (bytes: Buffer, send: (bytes: Buffer) => void): void => {
    const { delayMs, loss, reorder, duplicate, corrupt } = weather;
    if (!isOpen || random() < loss) return;
    const damaged = random() < corrupt;
    if (damaged) {
      const at = Math.floor(random() * bytes.length);
      bytes[at] = (bytes[at] ?? 0) ^ (1 << Math.floor(random() * 8));
    }
    after(random() < reorder ? 0 : delayMs, () => send(bytes));
    if (random() < duplicate) after(delayMs, () => send(bytes));
  };
  front.on('message', (bytes, from) => {
    const port = serverPort;
    if (!isOpen || port === undefined) return;
    let back = flows.get(from.port);
    if (!back) {
      const made = createSocket('udp4');
      made.on('message', (answer) => {
        if (flows.get(from.port) === made) pass(answer, (each) => front.send(each, from.port, from.address));
      });
      flows.set(from.port, made);
      back = made;
    }
    const socket = back;
    pass(bytes, (each) => socket.send(each, port, '127.0.0.1'));
  });
  return {
    port: front.address().port,
    setServer: (port) => (serverPort = port),
    setOpen: (open) => (isOpen = open),
    setWeather: (change) => (weather = { ...weather, ...change }),
    flows: () => [...flows.keys()],
    rebind(ports) {
      for (const port of ports) {
        const socket = flows.get(port);
        if (socket) left.push(socket);
        flows.delete(port);
      }
    },
    async close() {
      for (const timer of timers) clearTimeout(timer);
      await Promise.all(
        [front, ...left, ...flows.values()].map(
          (socket) => new Promise<void>((resolve) => socket.close(() => resolve())),
        ),
      );
    },
  };
};

/** A gateway whose runners come over such a path, where they come over UDP. */
export const startGatewayBehindUdpPath = async (
  options: GatewayOptions = {},
): Promise<{ readonly gateway: TestGateway; readonly udp: UdpPath; close(): Promise<void> }> => {
  const udp = await createUdpPath();
  const gateway = await startTestGateway({
    ...options,
    config: { ...options.config, advertise: { quic: [`127.0.0.1:${udp.port}`], tcp: [] } },
  });
  udp.setServer(gateway.quicPort);
  return {
    gateway,
    udp,
    async close() {
      await gateway.close();
      await udp.close();
    },
  };
};
