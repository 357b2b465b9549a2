/**
 * What the inspector costs while it is on: processor time for a small request with its response, and for a MiB of a
 * body, of the observer and the store alone; forwarding comes on top either way.
 *
 *     node test/bench/inspector.ts
 */
import { systemClock } from '../../shared/src/clock.ts';
import { createExchangeObserver } from '../../tunnel-client/src/inspector/exchange-observer.ts';
import { createRequestStore } from '../../tunnel-client/src/inspector/request-store.ts';

const REQUESTS = 200_000;
const CHUNK_BYTES = 64 << 10;
const MEBIBYTES = 1_024;

const store = createRequestStore({ clock: systemClock, onChange: () => undefined });
const sink = store.sink({
  kind: 'port',
  environmentId: 'demo',
  port: 3000,
  tls: false,
  hops: 0,
  requestId: '',
  traceParent: '',
});
const onFault = (error: unknown): never => {
  throw error;
};
const cpuOf = (act: () => void): number => {
  act();
  const before = process.cpuUsage();
  act();
  const { user, system } = process.cpuUsage(before);
  return user + system;
};

const request = Buffer.from(
  `GET /api/orders?page=1 HTTP/1.1\r\n${Array.from({ length: 14 }, (_, index) => `X-Header-${index}: ${'v'.repeat(24)}\r\n`).join('')}\r\n`,
);
const response = Buffer.from(
  `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: sid=1\r\nContent-Length: 1000\r\n\r\n${'x'.repeat(1_000)}`,
);
const small = cpuOf(() => {
  const observer = createExchangeObserver(sink, onFault);
  for (let index = 0; index < REQUESTS; index++) {
    observer.push('request', request);
    observer.push('response', response);
  }
});
const chunk = Buffer.alloc(CHUNK_BYTES);
const large = cpuOf(() => {
  const observer = createExchangeObserver(sink, onFault);
  observer.push('request', request);
  observer.push('response', Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${MEBIBYTES << 20}\r\n\r\n`));
  for (let sent = 0; sent < MEBIBYTES << 20; sent += CHUNK_BYTES) observer.push('response', chunk);
});

console.log(`a request of ${request.length} bytes with its response: ${(small / REQUESTS).toFixed(1)} µs`);
console.log(`a MiB of a body in pieces of 64 KiB: ${(large / MEBIBYTES).toFixed(2)} µs`);
