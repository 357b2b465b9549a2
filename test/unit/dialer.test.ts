/**
 * The dialer against a gateway that asks for anything: the streams come over a real leg, the upstreams are real sockets
 * on loopback. A refusal counts only if nothing arrived at any upstream.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { afterEach, before, describe, it } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { StreamRefusedError, StreamResetError } from '../../shared/src/errors.ts';
import type { TunnelStream } from '../../shared/src/protocol/leg.ts';
import { type Environment, environmentSchema } from '../../shared/src/protocol/messages.ts';
import type { Target } from '../../shared/src/protocol/target.ts';
import { createDialer, type Dialer, DIALER_LIMITS, type DialerDeps } from '../../tunnel-client/src/dialer.ts';
import { machineAddresses } from '../../tunnel-client/src/ip-address.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { createResolver, type Resolver } from '../../tunnel-client/src/resolver.ts';
import { makeTestCertificate } from '../support/certificate.ts';
import { memoryPair } from '../support/connection-pairs.ts';
import { closing, type LegPair, makeLegs, never, readAll, rejection, target } from '../support/legs.ts';
import { until } from '../support/runner.ts';

interface World {
  readonly legs: LegPair;
  readonly dialer: Dialer;
  open(over?: Partial<Target>): TunnelStream;
  /** The code a stream to `over` is refused with. */
  refusal(over?: Partial<Target>): Promise<string>;
}

const worlds: World[] = [];
const servers: Server[] = [];
const atEnd = new Set<Socket>();

const startWorld = async (
  environments: readonly Environment[],
  deps: Partial<DialerDeps> = {},
  limits = DIALER_LIMITS,
): Promise<World> => {
  const dialer = createDialer(
    {
      clock: systemClock,
      log: silentLogger,
      resolver: createResolver({ clock: systemClock }),
      environment: (id) => environments.find((environment) => environment.id === id),
      ownPorts: () => [],
      ...deps,
    },
    limits,
  );
  const legs = await makeLegs(memoryPair, { runnerHandlers: { onStream: (stream) => dialer.handle(stream) } });
  const open = (over: Partial<Target> = {}): TunnelStream => legs.gateway.openStream(target(over), { signal: never });
  const world: World = {
    legs,
    dialer,
    open,
    async refusal(over) {
      const stream = open(over);
      // Early data must not reach anybody either.
      stream.write('early');
      const error = await rejection(stream.connected);
      if (error instanceof StreamRefusedError || error instanceof StreamResetError) return error.code;
      throw error;
    },
  };
  worlds.push(world);
  return world;
};

afterEach(async () => {
  for (const { legs, dialer } of worlds.splice(0)) {
    dialer.abort();
    await legs.close();
  }
  for (const socket of atEnd) socket.destroy();
  atEnd.clear();
  for (const server of servers.splice(0)) {
    if (server.listening) {
      server.close();
      await once(server, 'close');
    }
  }
});

interface Upstream {
  readonly port: number;
  readonly sockets: Socket[];
  /** Bytes that arrived in all. */
  bytes(): number;
}

const startUpstream = async (
  onSocket: (socket: Socket) => void = () => undefined,
  host = '127.0.0.1',
): Promise<Upstream> => {
  const sockets: Socket[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    atEnd.add(socket);
    onSocket(socket);
  });
  servers.push(server);
  server.listen(0, host);
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    sockets,
    bytes: () => sockets.reduce((sum, socket) => sum + socket.bytesRead, 0),
  };
};
const environment = (port: number, over: Partial<Environment> & { protocol?: 'http' | 'https' } = {}): Environment => {
  const { protocol = 'http', ...rest } = over;
  return { ...environmentSchema.parse({ id: 'demo', ports: [{ port, protocol }] }), ...rest };
};
/** Resolves nothing until it is given up. */
const hangingResolver = (onAbort: () => void = () => undefined): Resolver => ({
  resolve: (_host, { signal }) =>
    new Promise((_, reject) => {
      signal.addEventListener('abort', () => {
        onAbort();
        reject(signal.reason as Error);
      });
    }),
  forget: () => undefined,
});
/** A server's socket stays half open after a FIN. */
const isGone = (socket: Socket | undefined): boolean => socket?.destroyed === true || socket?.readableEnded === true;
const echo = (socket: Socket): void => void socket.pipe(socket);

describe('dialer: what is dialled', () => {
  it('joins a stream to the announced host and port, early data included', async () => {
    const { port } = await startUpstream(echo);
    const world = await startWorld([environment(port)]);
    const stream = world.open({ port });
    stream.end('hello');
    assert.equal((await readAll(stream)).toString(), 'hello');
    await until(() => world.dialer.stats().open === 0);
    assert.equal(world.dialer.stats().answered.connected, 1);
  });

  it('refuses what is not announced, not exposed, or no port', async () => {
    const upstream = await startUpstream(echo);
    const { port } = upstream;
    const world = await startWorld([environment(port), environment(port, { id: 'other', ports: [] })]);
    assert.equal(await world.refusal({ environmentId: 'nobody', port }), 'unknown_environment');
    assert.equal(await world.refusal({ environmentId: 'other', port }), 'not_exposed');
    assert.equal(await world.refusal({ port: port === 3_001 ? 3_002 : 3_001 }), 'not_exposed');
    for (const kind of ['logs', 'oauth'] as const)
      assert.equal(await world.refusal({ kind, port }), 'forbidden_target', kind);
    assert.equal(upstream.sockets.length, 0);
  });

  it('refuses the log port, even if an announcement has it', async () => {
    const exposed = environment(3_000);
    const ports = [{ port: 22_999, protocol: 'http', admission: 'everyone', hostHeader: 'preserve' } as const];
    const world = await startWorld([{ ...exposed, ports }]);
    assert.equal(await world.refusal({ port: 22_999 }), 'forbidden_target');
  });

  it('refuses forbidden addresses in any spelling, given or resolved', async () => {
    const hosts = [
      '169.254.169.254',
      '::ffff:169.254.169.254',
      '64:ff9b::a9fe:a9fe',
      'fe80::1',
      'fd00:ec2::254',
      '0.0.0.0',
      '::',
      '255.255.255.255',
      '224.0.0.1',
      // Spellings of the C library, which it turns into addresses.
      '0',
      '0x0',
      '0xa9fea9fe',
      '169.254.43518',
      'metadata.test',
    ];
    const resolver = createResolver({
      clock: systemClock,
      lookup: async (host) => {
        if (host === 'metadata.test') return [{ address: '169.254.169.254', family: 4 }];
        const { lookup } = await import('node:dns/promises');
        return lookup(host, { all: true });
      },
    });
    for (const host of hosts) {
      const world = await startWorld([environment(3_000, { host })], { resolver });
      assert.equal(await world.refusal(), 'forbidden_target', host);
    }
  });

  it('dials the allowed addresses of a name and never asks for it again', async () => {
    const { port } = await startUpstream(echo);
    let asked = 0;
    const resolver: Resolver = {
      resolve: () => {
        asked += 1;
        // A second answer would be another one: DNS rebinding.
        return Promise.resolve([{ address: asked === 1 ? '127.0.0.1' : '169.254.169.254', family: 4 }]);
      },
      forget: () => undefined,
    };
    const world = await startWorld([environment(port, { host: 'app.test' })], { resolver });
    const stream = world.open({ port });
    stream.end('x');
    assert.equal((await readAll(stream)).toString(), 'x');
    assert.equal(asked, 1);
    assert.equal(await world.refusal({ port }), 'forbidden_target');
  });

  it("never reaches the client's own listeners, in any spelling", async () => {
    const own = await startUpstream(echo, '0.0.0.0');
    const machine = machineAddresses().filter((address) => !address.startsWith('fe80'));
    const hosts = [
      '127.0.0.1',
      '127.1',
      '127.9.9.9',
      '0x7f.1',
      '0x7f000001',
      '2130706433',
      '017700000001',
      '::1',
      '::ffff:127.0.0.1',
      '::ffff:7f00:1',
      'localhost',
      'LOCALHOST',
      'a.localhost',
      'localhost.',
      ...machine,
    ];
    for (const host of hosts) {
      const world = await startWorld([environment(own.port, { host })], { ownPorts: () => [own.port] });
      assert.equal(await world.refusal({ port: own.port }), 'forbidden_target', host);
    }
    assert.equal(own.sockets.length, 0);
    // The same port is reached when it is somebody else's.
    const world = await startWorld([environment(own.port)]);
    const stream = world.open({ port: own.port });
    stream.end('x');
    assert.equal((await readAll(stream)).toString(), 'x');
  });

  it('finds its own listener by the connection where no interface shows the address', async () => {
    const own = await startUpstream(echo);
    const world = await startWorld([environment(own.port, { host: 'app.test' })], {
      ownPorts: () => [own.port],
      ownAddresses: () => [],
      resolver: createResolver({
        clock: systemClock,
        lookup: () => Promise.resolve([{ address: '127.0.0.1', family: 4 }]),
      }),
    });
    assert.equal(await world.refusal({ port: own.port }), 'forbidden_target');
    assert.equal(own.bytes(), 0);
  });
});

describe('dialer: failures of upstreams', () => {
  it('says refused where nothing listens', async () => {
    const upstream = await startUpstream();
    const { port } = upstream;
    const server = servers.pop();
    server?.close();
    const world = await startWorld([environment(port), environment(port, { id: 'named', host: 'localhost' })]);
    assert.equal(await world.refusal({ port }), 'refused');
    assert.equal(await world.refusal({ environmentId: 'named', port }), 'refused');
  });

  it('says refused where the name has no address', async () => {
    const world = await startWorld([environment(3_000, { host: 'no-such-host.invalid' })]);
    assert.equal(await world.refusal(), 'refused');
  });

  it('says timeout where nobody answers, and gives the socket up', async () => {
    const world = await startWorld(
      [environment(3_000, { host: 'app.test' })],
      { resolver: hangingResolver() },
      { ...DIALER_LIMITS, connectTimeoutMs: 30 },
    );
    assert.equal(await world.refusal(), 'timeout');
  });

  it('tries the other family when one does not answer', async () => {
    const { port } = await startUpstream(echo, '::1');
    const world = await startWorld([environment(port, { host: 'localhost' })]);
    const stream = world.open({ port });
    stream.end('six');
    assert.equal((await readAll(stream)).toString(), 'six');
  });

  it('refuses with limit when too many connections are being made, and with draining when it drains', async () => {
    const world = await startWorld(
      [environment(3_000, { host: 'app.test' })],
      { resolver: hangingResolver() },
      { ...DIALER_LIMITS, connecting: 2 },
    );
    const held = [world.open(), world.open()];
    assert.equal(await world.refusal(), 'limit');
    world.dialer.drain();
    assert.equal(await world.refusal(), 'draining');
    for (const stream of held) stream.destroy();
    await until(() => world.dialer.stats().answered.cancelled === 2);
  });
});

describe('dialer: TLS to the upstream', () => {
  let identity: { key: string; cert: string };
  before(async () => {
    const made = await makeTestCertificate('app.localhost');
    identity = { key: made.key, cert: made.certificate };
  });
  const startTls = async (onSocket: (socket: Socket) => void = echo) => {
    const names: string[] = [];
    const server = createTlsServer(
      { ...identity, allowHalfOpen: true, ALPNProtocols: ['h2', 'http/1.1'] } as object,
      (socket) => {
        names.push(`${socket.servername === false ? '' : socket.servername} ${socket.alpnProtocol}`);
        socket.on('error', () => undefined);
        atEnd.add(socket);
        onSocket(socket);
      },
    );
    const raw: Socket[] = [];
    server.on('connection', (socket: Socket) => raw.push(socket));
    server.on('tlsClientError', () => undefined);
    servers.push(server);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return { port: (server.address() as AddressInfo).port, names, raw };
  };

  it('speaks TLS where the port is https or the stream asks for it, without verifying, with the host as SNI', async () => {
    const { port, names } = await startTls();
    const world = await startWorld([
      environment(port, { protocol: 'https', host: 'app.localhost' }),
      environment(port, { id: 'plain' }),
    ]);
    for (const over of [{ port }, { port, environmentId: 'plain', tls: true }]) {
      const stream = world.open(over);
      stream.end('secret');
      assert.equal((await readAll(stream)).toString(), 'secret');
    }
    assert.deepEqual(names, ['app.localhost http/1.1', ' http/1.1']);
  });

  it('says that the upstream does not speak TLS', async () => {
    const answers = [
      'HTTP/1.1 400 Bad Request\r\n\r\n',
      '<!DOCTYPE html>',
      'SSH-2.0-OpenSSH\r\n',
      'no',
      '\0\0\x12\x04\0\0\0\0\0',
    ];
    for (const answer of answers) {
      const { port } = await startUpstream((socket) => socket.once('data', () => socket.end(answer)));
      const world = await startWorld([environment(port, { protocol: 'https' })]);
      assert.equal(await world.refusal({ port }), 'upstream_not_tls', JSON.stringify(answer));
    }
  });

  it('tells a handshake that is cut, refused by alert, or never answered', async () => {
    const silent = await startUpstream((socket) => socket.once('data', () => socket.end()));
    const world = await startWorld([environment(silent.port, { protocol: 'https' })]);
    assert.equal(await world.refusal({ port: silent.port }), 'refused');

    const alert = await startUpstream((socket) =>
      socket.once('data', () => socket.end(Buffer.from('15030100020228', 'hex'))),
    );
    const other = await startWorld([environment(alert.port, { protocol: 'https' })]);
    assert.equal(await other.refusal({ port: alert.port }), 'upstream_reset');

    const hanging = await startUpstream((socket) => socket.resume());
    const third = await startWorld(
      [environment(hanging.port, { protocol: 'https' })],
      {},
      { ...DIALER_LIMITS, connectTimeoutMs: 50 },
    );
    assert.equal(await third.refusal({ port: hanging.port }), 'timeout');
    await until(() => hanging.sockets.length === 1 && isGone(hanging.sockets[0]));
  });

  it('passes a reset on through TLS, in both directions', async () => {
    const sockets: Socket[] = [];
    const { port, raw } = await startTls((socket) => sockets.push(socket.resume()));
    const world = await startWorld([environment(port, { protocol: 'https' })]);
    const first = world.open({ port });
    await first.connected;
    first.destroy();
    await until(() => sockets[0]?.destroyed === true);
    assert.equal(sockets[0]?.readableEnded, false, 'it is no clean end');

    const second = world.open({ port });
    await second.connected;
    await until(() => sockets.length === 2);
    raw[1]?.resetAndDestroy();
    const error = await closing(second.resume());
    assert.ok(error instanceof StreamResetError);
    assert.equal(error.code, 'upstream_reset');
  });
});

describe('dialer: the end of a stream', () => {
  it('passes a half-close on in both directions, one at a time', async () => {
    const upstream = await startUpstream();
    const world = await startWorld([environment(upstream.port)]);
    const stream = world.open({ port: upstream.port });
    await stream.connected;
    await until(() => upstream.sockets.length === 1);
    const [socket] = upstream.sockets;
    assert.ok(socket);
    // The upstream ends first; the other direction goes on.
    socket.end('bye');
    assert.equal((await readAll(stream)).toString(), 'bye');
    assert.equal(stream.writable, true);
    stream.end('still here');
    assert.equal((await readAll(socket)).toString(), 'still here');
    await until(() => world.dialer.stats().open === 0);
  });

  it('the client first', async () => {
    const upstream = await startUpstream();
    const world = await startWorld([environment(upstream.port)]);
    const stream = world.open({ port: upstream.port });
    stream.end('question');
    await until(() => upstream.sockets.length === 1);
    const [socket] = upstream.sockets;
    assert.ok(socket);
    assert.equal((await readAll(socket)).toString(), 'question');
    socket.end('answer');
    assert.equal((await readAll(stream)).toString(), 'answer');
  });

  it('resets the upstream within 1 s of a reset by the gateway', async () => {
    const upstream = await startUpstream((socket) => socket.resume());
    const world = await startWorld([environment(upstream.port)]);
    const stream = world.open({ port: upstream.port });
    await stream.connected;
    await until(() => upstream.sockets.length === 1);
    const [socket] = upstream.sockets;
    assert.ok(socket);
    const failed = closing(socket);
    const startedAt = performance.now();
    stream.reset('cancelled');
    await failed;
    assert.ok(performance.now() - startedAt < 1_000);
    assert.equal(socket.readableEnded, false, 'it is no clean end');
    await until(() => world.dialer.stats().open === 0);
  });

  it('resets the upstream when the leg is lost', async () => {
    const upstream = await startUpstream((socket) => socket.resume());
    const world = await startWorld([environment(upstream.port)]);
    const stream = world.open({ port: upstream.port });
    await stream.connected;
    await until(() => upstream.sockets.length === 1);
    world.legs.gateway.abort('lost');
    await until(() => upstream.sockets[0]?.destroyed === true);
    assert.equal(upstream.sockets[0]?.readableEnded, false);
  });

  it('resets the stream when the upstream resets', async () => {
    const upstream = await startUpstream();
    const world = await startWorld([environment(upstream.port)]);
    const stream = world.open({ port: upstream.port });
    await stream.connected;
    await until(() => upstream.sockets.length === 1);
    upstream.sockets[0]?.resetAndDestroy();
    const error = await closing(stream.resume());
    assert.ok(error instanceof StreamResetError);
    assert.equal(error.code, 'upstream_reset');
  });

  it('delivers an answer that is complete although the upstream no longer takes the request', async () => {
    const answer = 'x'.repeat(200_000);
    const upstream = await startUpstream((socket) => {
      socket.once('data', () => {
        socket.pause();
        socket.end(answer, () => setImmediate(() => socket.destroy()));
      });
    });
    const world = await startWorld([environment(upstream.port)]);
    const stream = world.open({ port: upstream.port });
    const chunk = Buffer.alloc(64 << 10);
    const pump = (): void => {
      if (!stream.destroyed && !stream.writableEnded) stream.write(chunk, () => setImmediate(pump));
    };
    stream.write('start', pump);
    const arrived = await readAll(stream).catch((error: unknown) => error);
    stream.end();
    // The kernel may drop what was not read yet when it sends its RST: then it is a reset, never a short clean end.
    if (arrived instanceof Error) assert.ok(arrived instanceof StreamResetError, String(arrived));
    else assert.equal((arrived as Buffer).length, answer.length);
  });

  it('gives up a connection attempt when the gateway resets the stream', async () => {
    let aborted = false;
    const slow = hangingResolver(() => (aborted = true));
    const world = await startWorld([environment(3_000, { host: 'app.test' })], { resolver: slow });
    const stream = world.open();
    await until(() => world.legs.runner.stats().openStreams === 1);
    stream.destroy();
    await until(() => aborted);
  });

  it('holds the upstream back when the gateway does not read', async () => {
    let sent = 0;
    const upstream = await startUpstream((socket) => {
      const chunk = Buffer.alloc(64 << 10);
      const pump = (): void => {
        while (!socket.destroyed && socket.write(chunk)) sent += chunk.length;
        socket.once('drain', pump);
      };
      pump();
    });
    const world = await startWorld([environment(upstream.port)]);
    const stream = world.open({ port: upstream.port });
    await stream.connected;
    let before = -1;
    await until(() => {
      const isStill = sent === before && sent > 0;
      before = sent;
      return isStill;
    });
    // Credit, stream buffers and the kernel's socket buffers; far below what an unbounded pipe would have taken.
    assert.ok(sent < 16 << 20, `${sent} bytes are under way`);
    stream.destroy();
  });
});

describe('a hostile gateway', () => {
  it('reaches nothing by odd ids and ports', async () => {
    const outside = await startUpstream(echo);
    const world = await startWorld([environment(3_000)]);
    const ids = ['', '127.0.0.1', 'demo.', 'DEMO', '../demo', '__proto__', 'constructor', 'localhost', 'demo\0'];
    for (const environmentId of ids) {
      assert.equal(await world.refusal({ environmentId, port: outside.port }), 'unknown_environment', environmentId);
    }
    for (const port of [0, 1, 22, 80, 443, 65_535, outside.port]) {
      assert.equal(await world.refusal({ port }), 'not_exposed', String(port));
    }
    assert.equal(outside.sockets.length, 0);
  });
});
