/** What is between a runner and its gateway: UDP that can be cut off and come back; TCP passes all along. */
import { createSocket } from 'node:dgram';
import { startTestGateway, type GatewayOptions, type TestGateway } from './gateway.ts';

export interface UdpPath {
  readonly port: number;
  /** Whether datagrams pass. */
  setOpen(open: boolean): void;
  close(): Promise<void>;
}

/** A relay on loopback. Its address is known before that of the server. */
export const createUdpPath = async (): Promise<UdpPath & { setServer(port: number): void }> => {
  const front = createSocket('udp4');
  const flows = new Map<number, ReturnType<typeof createSocket>>();
  let serverPort: number | undefined;
  let isOpen = true;
  await new Promise<void>((resolve, reject) => {
    front.once('error', reject);
    front.bind(0, '127.0.0.1', resolve);
  });
  front.on('message', (bytes, from) => {
    if (!isOpen || serverPort === undefined) return;
    let back = flows.get(from.port);
    if (!back) {
      back = createSocket('udp4');
      back.on('message', (answer) => {
        if (isOpen) front.send(answer, from.port, from.address);
      });
      flows.set(from.port, back);
    }
    back.send(bytes, serverPort, '127.0.0.1');
  });
  return {
    port: front.address().port,
    setServer: (port) => (serverPort = port),
    setOpen: (open) => (isOpen = open),
    async close() {
      await Promise.all(
        [front, ...flows.values()].map((socket) => new Promise<void>((resolve) => socket.close(() => resolve()))),
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
