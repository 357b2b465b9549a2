/** `npm start` as a program of its own, on ports that are free. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { resolve } from 'node:path';
import type { TestContext } from 'node:test';
import { startProcess, type StartedProcess } from './processes.ts';

const START = resolve(import.meta.dirname, '../../deploy/demo/start.ts');
/** Two programs start, keys and a certificate are made: ms. */
const START_TIMEOUT_MS = 60_000;

/** Ports that were free a moment ago: the demo needs them by number, since they stand in its URLs. */
export const freePorts = async (): Promise<
  Record<'https' | 'quic' | 'internal' | 'client-internal' | 'app' | 'scm', number>
> => {
  const servers = await Promise.all(
    Array.from({ length: 5 }, async () => {
      const server = createServer().listen(0, '::');
      await once(server, 'listening');
      return server;
    }),
  );
  const socket = createSocket('udp6').bind(0);
  await once(socket, 'listening');
  const [https, internal, clientInternal, app, scm] = servers.map((server) => (server.address() as AddressInfo).port);
  const ports = { https, internal, 'client-internal': clientInternal, app, scm, quic: socket.address().port };
  for (const server of servers) server.close();
  socket.close();
  return ports as Record<keyof typeof ports, number>;
};

export type Ports = Awaited<ReturnType<typeof freePorts>>;

export const startDemo = (t: TestContext, directory: string, ports: Ports): StartedProcess => {
  const options = Object.entries(ports).flatMap(([name, port]) => [`--${name}-port`, String(port)]);
  return startProcess(t, process.execPath, [START, '--dir', directory, ...options], { cwd: directory });
};

export const urlOf = async (demo: StartedProcess): Promise<string> => {
  const [, url] = await demo.waitForOutput(/Open +(https:\S+)/, { timeoutMs: START_TIMEOUT_MS });
  return url ?? '';
};
