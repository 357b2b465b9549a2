/** Where TCP connects and nobody answers the TLS handshake: what is told, and when. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { test, type TestContext } from 'node:test';
import { createOutbound, OutboundError, TLS_SILENCE_MS } from '../../tunnel-client/src/outbound.ts';
import { NO_PROXY_SETTINGS } from '../../tunnel-client/src/proxy-settings.ts';
import { createResolver } from '../../tunnel-client/src/resolver.ts';
import { createManualClock, settle } from '../support/manual-clock.ts';

/** A server that takes what comes, and the client's attempt to speak TLS with it. */
const start = async (t: TestContext) => {
  const clock = createManualClock();
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const stop = new AbortController();
  const outbound = createOutbound({ clock, resolver: createResolver({ clock }) }, { proxy: NO_PROXY_SETTINGS });
  const target = { host: '127.0.0.1', port, servername: 'localhost', alpn: ['http/1.1'] };
  let ended: unknown;
  const attempt = outbound.connectTls(target, { signal: stop.signal }).catch((error: unknown) => (ended = error));
  const [socket] = await accepted;
  socket.on('error', () => undefined);
  t.after(async () => {
    stop.abort();
    await attempt;
    socket.destroy();
    server.close();
    await once(server, 'close');
  });
  await once(socket, 'data');
  await settle();
  return { clock, socket, attempt, ended: () => ended };
};

test('no byte of an answer within the limit: the handshake is given up, and the MTU is named', async (t) => {
  const { clock, attempt, ended } = await start(t);
  await clock.advance(TLS_SILENCE_MS - 1);
  assert.equal(ended(), undefined);
  await clock.advance(1);
  await attempt;
  const error = ended();
  assert.ok(error instanceof OutboundError);
  assert.equal(error.code, 'tls_silent');
  assert.match(
    error.message,
    /^127\.0\.0\.1:\d+ \(tried .*\): TCP connects, and the TLS handshake gets no answer; .*MTU/,
  );
});

test('an answer that comes slowly is waited for, as long as the caller likes', async (t) => {
  const { clock, socket, ended } = await start(t);
  // The beginning of a record of TLS (RFC 8446 section 5.1).
  socket.write(Buffer.from([22, 3, 3]));
  // It comes to the same process, within a few turns of the loop.
  await settle(200);
  await clock.advance(10 * TLS_SILENCE_MS);
  assert.equal(ended(), undefined);
});
