/**
 * What the upstream has beside nginx, as a program of its own: where uploads end, and an echo of WebSocket messages.
 * Both with and without TLS.
 *
 *     node upstream-programs.ts CERTIFICATE KEY
 *
 * Uploads go through Node's plain sockets, not through an HTTP server: of a body only the length is looked at, so that
 * counting costs less than any of the tunnels. A line on standard input begins a new count; every line is answered with
 * what the last count was: `{"bytes", "ms"}` between the first and the last piece of a body.
 */
import { readFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { createServer as createTlsServer } from 'node:tls';
import { WebSocketServer } from 'ws';
import { SERVICES, TLS_PORT_DISTANCE } from './topology.ts';

const HEAD_END = '\r\n\r\n';
const ANSWER = 'HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n';

let bytes = 0;
let firstAt: number | undefined;
let lastAt = 0;

const count = (length: number): void => {
  lastAt = performance.now();
  // What came with the first piece came before the clock ran.
  if (firstAt === undefined) firstAt = lastAt;
  else bytes += length;
};

const sink = (socket: Socket): void => {
  let head = '';
  let left = 0;
  socket.on('error', () => socket.destroy()); // the load tool ends in the middle of bodies
  socket.on('data', (chunk: Buffer) => {
    for (let rest = chunk; rest.length > 0;) {
      if (left === 0) {
        head += rest.toString('latin1');
        const end = head.indexOf(HEAD_END);
        if (end < 0) return;
        const inHead = end + HEAD_END.length - (head.length - rest.length);
        const length = /\r\ncontent-length: *(\d+)\r\n/i.exec(head.slice(0, end + 2))?.[1];
        if (length === undefined && !/^(?:GET|HEAD) /.test(head)) {
          return void socket.end('HTTP/1.1 411 Length Required\r\n\r\n');
        }
        head = '';
        left = Number(length ?? 0);
        rest = rest.subarray(inHead);
        if (left === 0) socket.write(ANSWER);
        continue;
      }
      const taken = Math.min(left, rest.length);
      count(taken);
      left -= taken;
      rest = rest.subarray(taken);
      if (left === 0) socket.write(ANSWER);
    }
  });
};

const [certificate = '', key = ''] = process.argv.slice(2);
const tls = { cert: readFileSync(certificate), key: readFileSync(key) };
const echo = (server: Server): Server => {
  new WebSocketServer({ server: server as never, perMessageDeflate: false }).on('connection', (socket) => {
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
    socket.on('error', () => socket.terminate());
  });
  return server;
};
const servers: readonly [Server, number][] = [
  [createServer(sink), SERVICES.sink],
  [createTlsServer(tls, sink), SERVICES.sink + TLS_PORT_DISTANCE],
  [echo(createHttpServer()), SERVICES.echo],
  [echo(createHttpsServer(tls)), SERVICES.echo + TLS_PORT_DISTANCE],
];
await Promise.all(servers.map(([server, port]) => new Promise<void>((resolve) => server.listen(port, resolve))));
createInterface(process.stdin).on('line', () => {
  console.log(`counted ${JSON.stringify({ bytes, ms: firstAt === undefined ? 0 : lastAt - firstAt })}`);
  bytes = 0;
  firstAt = undefined;
});
console.log('the upstream listens');
