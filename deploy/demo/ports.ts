/** Looks whether the ports of the demo are free before anything starts: one clear sentence instead of a child's log. */
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';

export interface WantedPort {
  readonly protocol: 'tcp' | 'udp';
  readonly host: string;
  readonly port: number;
  readonly purpose: string;
  /** The option of this command, and the option of the program it is for. */
  readonly option: string;
  readonly setting: string;
}

const listenError = ({ protocol, host, port }: WantedPort): Promise<NodeJS.ErrnoException | undefined> =>
  new Promise((resolve) => {
    if (protocol === 'udp') {
      const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4');
      socket.once('error', (error) => {
        socket.close();
        resolve(error);
      });
      socket.bind(port, host, () => socket.close(() => resolve(undefined)));
    } else {
      const server = createServer();
      server.once('error', resolve);
      server.listen(port, host, () => server.close(() => resolve(undefined)));
    }
  });

/** Faults that have nothing to do with this port: the program itself knows better what to do about them. */
const UNRELATED = new Set(['EAFNOSUPPORT', 'EADDRNOTAVAIL', 'EINVAL']);

/** One line for each port that cannot be had. */
export const busyPorts = async (ports: readonly WantedPort[]): Promise<string[]> => {
  const lines = await Promise.all(
    ports.map(async (wanted) => {
      const code = (await listenError(wanted))?.code;
      if (code === undefined || UNRELATED.has(code)) return undefined;
      const what =
        code === 'EADDRINUSE' ? 'is in use' : code === 'EACCES' ? 'may not be used' : `cannot be had (${code})`;
      return (
        `${wanted.protocol.toUpperCase()} port ${wanted.port} ${what}, but ${wanted.purpose} needs it.\n` +
        `    Free it, or choose another: npm start -- ${wanted.option} PORT   (${wanted.setting})`
      );
    }),
  );
  return lines.filter((line) => line !== undefined);
};
