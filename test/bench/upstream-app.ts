/**
 * An application for measurements, as a program of its own: `node upstream-app.ts`. Prints its port.
 *
 *     /              1 KiB
 *     /bytes/<n>     n bytes, as fast as they are taken
 *     /sink          reads the request to its end and answers how many bytes came
 *     /stall         begins no answer and stops reading the request once `?after=` bytes of it have come
 *     /progress      what was moved per request named by `?id=`, as JSON
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What has been handed to the kernel, and read from it, for one request. */
export interface Progress {
  written: number;
  read: number;
  /** Port of the other end. */
  peerPort: number;
}

const SMALL = Buffer.alloc(1_024, 'x');
/** Large enough that the application is not what is measured. */
const PIECE = Buffer.alloc(256 << 10, 'y');

const progress = new Map<string, () => Progress>();

const send = (request: IncomingMessage, response: ServerResponse, bytes: number, id: string): void => {
  const { socket } = request;
  const before = socket.bytesWritten;
  // What waits in this process has not left it.
  const written = (): number => Math.max(0, socket.bytesWritten - before - socket.writableLength);
  let last: number | undefined;
  response.once('close', () => (last = written()));
  const peerPort = socket.remotePort ?? 0;
  progress.set(id, () => ({ written: last ?? written(), read: 0, peerPort }));
  response.writeHead(200, { 'content-length': bytes });
  let left = bytes;
  const more = (): void => {
    while (left > 0) {
      const piece = left < PIECE.length ? PIECE.subarray(0, left) : PIECE;
      left -= piece.length;
      if (!response.write(piece)) return void response.once('drain', more);
    }
    response.end();
  };
  more();
};

const sink = (request: IncomingMessage, response: ServerResponse): void => {
  let bytes = 0;
  request.on('data', (chunk: Buffer) => (bytes += chunk.length));
  request.on('end', () => response.end(String(bytes)));
};

const stall = (request: IncomingMessage, after: number, id: string): void => {
  let read = 0;
  const peerPort = request.socket.remotePort ?? 0;
  progress.set(id, () => ({ written: 0, read, peerPort }));
  request.on('data', (chunk: Buffer) => {
    read += chunk.length;
    if (read >= after) request.pause();
  });
};

const server = createServer((request, response) => {
  const url = new URL(request.url ?? '/', 'http://upstream.invalid');
  const id = url.searchParams.get('id') ?? '';
  if (url.pathname === '/') return void response.end(SMALL);
  if (url.pathname.startsWith('/bytes/')) return send(request, response, Number(url.pathname.slice(7)), id);
  if (url.pathname === '/sink') return sink(request, response);
  if (url.pathname === '/stall') return stall(request, Number(url.searchParams.get('after')), id);
  if (url.pathname === '/progress') {
    const all = [...progress].map(([name, read]) => [name, read()] as const);
    return void response.end(JSON.stringify(Object.fromEntries(all)));
  }
  response.statusCode = 404;
  response.end();
});
// Uploads stand still for as long as the measurement takes.
server.requestTimeout = 0;
server.listen(0, '127.0.0.1', () => console.log(`listening on ${(server.address() as AddressInfo).port}`));
