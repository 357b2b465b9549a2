/** Tunnels over TCP through a whole gateway: what is carried, who is let in, and a proxy that inspects TLS. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2';
import { connect as connectTcp } from 'node:net';
import { pipeline } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { systemClock } from '../../shared/src/clock.ts';
import { RefusedError } from '../../shared/src/errors.ts';
import { createKey, sign } from '../../shared/src/identity/keys.ts';
import { signMembership, verifyMembership } from '../../shared/src/identity/membership.ts';
import { dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Leg, LegHandlers } from '../../shared/src/protocol/leg.ts';
import { dialWebSocket } from '../../shared/src/transport/websocket.ts';
import { dialWebTransport } from '../../shared/src/transport/webtransport.ts';
import { DOMAIN, portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { rejection } from '../support/legs.ts';
import { startUpstream, until, type TestUpstream } from '../support/runner.ts';
import { createTlsEnds, type TlsEnds } from '../support/tcp-pair.ts';

const TUNNEL = `tunnel.${DOMAIN}`;
const never = new AbortController().signal;
const MIB = 1 << 20;
const TRANSPORTS = ['webtransport', 'websocket'] as const;
type Transport = (typeof TRANSPORTS)[number];

const connect = async (port: number, ca: string, options: ConnectionOptions = {}): Promise<TLSSocket> => {
  const socket = connectTls({ host: '127.0.0.1', port, servername: TUNNEL, ca, ALPNProtocols: ['h2'], ...options });
  socket.on('error', () => {});
  await once(socket, 'secureConnect');
  return socket;
};

interface Runner {
  readonly id: string;
  /** A leg through the TLS listener at `port`. */
  dial(transport: Transport, way?: { port: number; ca: string }): Promise<Leg>;
}

const enrol = async ({ gateway, httpsPort, ca }: TestGateway, organization?: string): Promise<Runner> => {
  const { directory } = gateway;
  const { runner, exchangeToken } = await directory.createRunner({
    name: 'tcp',
    ...(organization === undefined ? {} : { organization }),
  });
  const key = createKey();
  await directory.enrol({ runnerId: runner.id, exchangeToken, publicKey: key.publicKey });
  const { current, trust, issuer } = await directory.authority();
  const clock = systemClock;
  const token = await signMembership(
    current,
    { id: runner.id, organization, group: 'runner', publicKey: key.publicKey },
    { clock },
  );
  return {
    id: runner.id,
    async dial(transport, way = { port: httpsPort, ca }) {
      const authority = `${TUNNEL}:${httpsPort}`;
      const connection = await (transport === 'webtransport'
        ? dialWebTransport({ connect: () => connect(way.port, way.ca), authority }, { signal: never })
        : dialWebSocket(
            { connect: () => connect(way.port, way.ca, { ALPNProtocols: ['http/1.1'] }), authority },
            { signal: never },
          ));
      return dialLeg(
        connection,
        {
          clock,
          membership: () => token,
          sign: (message) => sign(key, message),
          verify: (shown, peerKey) => verifyMembership(shown, { trust, issuer, group: 'gateway', peerKey }, { clock }),
          hello: { instance: 'instance-1', instanceStartedAt: 1, agent: 'test' },
        },
        { signal: never },
      );
    },
  };
};

/** Connects every stream to the application at `port`. */
const serving = (port: number): LegHandlers['onStream'] => {
  return (stream) => {
    const upstream = connectTcp({ host: '127.0.0.1', port, allowHalfOpen: true }, () => {
      stream.accept();
      pipeline(upstream, stream, () => {});
      pipeline(stream, upstream, () => {});
    });
    upstream.once('error', () => stream.refuse('refused'));
  };
};

/** Attaches `leg`, announces `environmentId`, and resolves when the gateway has accepted it. */
const announce = async (leg: Leg, environmentId: string, port: number): Promise<void> => {
  const { promise: accepted, resolve } = Promise.withResolvers<void>();
  leg.attach({
    onStream: serving(port)!,
    onMessage: (message) => {
      if (message.type === 'environmentsResult' && message.results.every((each) => each.accepted)) resolve();
    },
  });
  const set = [{ id: environmentId, ports: [{ port, admission: 'everyone' }] }];
  leg.send({ type: 'environments', revision: 1, part: 0, last: true, full: true, set });
  await accepted;
};

/** A proxy with a certificate of its own that speaks TLS to both sides and passes all bytes on. */
const startInspector = async (gateway: TestGateway): Promise<TlsEnds> =>
  createTlsEnds((client) => {
    client.pause();
    const ALPNProtocols = [client.alpnProtocol || 'http/1.1'];
    void connect(gateway.httpsPort, gateway.ca, { ALPNProtocols }).then((server) => {
      pipeline(client, server, () => {});
      pipeline(server, client, () => {});
    });
  });

for (const transport of TRANSPORTS) {
  describe(`tunnels over TCP: ${transport}`, () => {
    let gateway: TestGateway;
    let upstream: TestUpstream;
    let inspector: TlsEnds;
    const body = randomBytes(8 * MIB);

    before(async () => {
      gateway = await startTestGateway({
        config: {
          organizations: {
            strict: { portSharing: true, highestAdmission: 'everyone', allowInspectedTls: false, limits: {} },
          },
        },
      });
      upstream = await startUpstream((request, response) => {
        if (request.url === '/big') return void response.end(body);
        const chunks: Buffer[] = [];
        request.on('data', (chunk: Buffer) => chunks.push(chunk));
        request.on('end', () => response.end(Buffer.concat(chunks)));
      });
      inspector = await startInspector(gateway);
    });
    after(async () => {
      await inspector.close();
      await gateway.close();
      await upstream.close();
    });

    it('carries requests, uploads and downloads', async () => {
      const runner = await enrol(gateway);
      const leg = await runner.dial(transport);
      await announce(leg, 'carried', upstream.port);
      const host = portHost('carried', upstream.port);
      assert.equal((await gateway.request(host, '/', { method: 'POST', payload: 'up' })).body, 'up');
      const big = await gateway.request(host, '/big');
      assert.equal(big.body, body.toString('utf8'));
      const sent = body.toString('latin1');
      const back = await gateway.request(host, '/', { method: 'POST', payload: Buffer.from(sent, 'latin1') });
      assert.equal(back.body, body.toString('utf8'));
      const info = gateway.gateway.registry.legs().find(({ legId }) => legId === leg.id);
      assert.deepEqual([info?.transport, info?.inspected, info?.runnerId], [transport, false, runner.id]);
      assert.equal(leg.inspected, false);
      await leg.close('closed');
      await until(() => gateway.gateway.registry.legs().every(({ legId }) => legId !== leg.id));
    });

    it('is known as inspected at both ends when a proxy inspects TLS, and carries all the same', async () => {
      const leg = await (await enrol(gateway, 'lenient')).dial(transport, inspector);
      await announce(leg, 'inspected', upstream.port);
      assert.equal(leg.inspected, true);
      const info = gateway.gateway.registry.legs().find(({ legId }) => legId === leg.id);
      assert.equal(info?.inspected, true);
      const answer = await gateway.request(portHost('inspected', upstream.port), '/', { method: 'POST', payload: 'x' });
      assert.equal(answer.body, 'x');
      await leg.close('closed');
    });

    it('is refused behind such a proxy where the organization forbids it', async () => {
      const runner = await enrol(gateway, 'strict');
      const refused = await rejection(runner.dial(transport, inspector));
      assert.ok(refused instanceof RefusedError, String(refused));
      assert.deepEqual([refused.code, refused.by], ['inspected_tls', 'remote']);
      const leg = await runner.dial(transport);
      leg.attach({});
      await leg.close('closed');
    });

    it('notices a connection that is cut', async () => {
      const leg = await (await enrol(gateway)).dial(transport);
      leg.attach({});
      await until(() => gateway.gateway.registry.legs().some(({ legId }) => legId === leg.id));
      leg.abort('closed');
      await until(() => gateway.gateway.registry.legs().every(({ legId }) => legId !== leg.id));
    });

    it('hears goodbye from a gateway that ends, which waits for no idle tunnel', async () => {
      const other = await startTestGateway();
      const leg = await (await enrol(other)).dial(transport);
      leg.attach({});
      await until(() => other.gateway.registry.legs().length === 1);
      const closing = other.close({ drainTimeoutMs: 60_000 });
      const end = await leg.closed;
      await closing;
      assert.deepEqual([end.code, end.by], ['draining', 'remote']);
    });
  });
}

describe('the tunnel name', () => {
  let gateway: TestGateway;
  before(async () => {
    gateway = await startTestGateway();
  });
  after(() => gateway.close());

  const ask = async (headers: IncomingHttpHeaders): Promise<number | undefined> => {
    const session = connectHttp2(`https://${TUNNEL}:${gateway.httpsPort}`, {
      createConnection: () =>
        connectTls({
          host: '127.0.0.1',
          port: gateway.httpsPort,
          servername: TUNNEL,
          ca: gateway.ca,
          ALPNProtocols: ['h2'],
        }),
    });
    if (headers[':method'] === 'CONNECT') await once(session, 'remoteSettings');
    const stream = session.request(headers);
    stream.on('error', () => {});
    const [answer] = (await once(stream, 'response')) as [IncomingHttpHeaders];
    session.destroy();
    return Number(answer[':status']);
  };
  const tunnel = { ':method': 'CONNECT', ':protocol': 'webtransport', ':scheme': 'https', ':path': '/v1/wt' };
  const authority = (): string => `${TUNNEL}:${gateway.httpsPort}`;

  it('answers what is not for the tunnel like any other host', async () => {
    assert.equal(await ask({ ':path': '/', ':authority': authority() }), 404);
    assert.equal(await ask({ ':path': '/', ':authority': `api.${DOMAIN}:${gateway.httpsPort}` }), 421);
    assert.equal((await gateway.request(TUNNEL, '/v1/ws')).status, 404);
  });

  it('refuses a WebTransport of a web page, at another path, for another host', async () => {
    const origin = `https://${TUNNEL}`;
    assert.equal(await ask({ ...tunnel, ':authority': authority(), origin }), 403);
    assert.equal(await ask({ ...tunnel, ':authority': authority(), origin: 'null' }), 403);
    assert.equal(await ask({ ...tunnel, ':authority': authority(), ':path': '/v1/other' }), 404);
    assert.equal(await ask({ ...tunnel, ':authority': `api.${DOMAIN}` }), 421);
    assert.equal(await ask({ ...tunnel, ':authority': authority() }), 200);
    assert.equal(await ask({ ...tunnel, ':authority': authority(), origin: TUNNEL }), 200);
  });

  it('refuses a WebSocket of a web page, at another path, for another host', async () => {
    const upgrade = async (host: string, path: string, headers: Record<string, string> = {}): Promise<number> => {
      const answer = await gateway.request(host, path, {
        servername: TUNNEL,
        headers: {
          connection: 'Upgrade',
          upgrade: 'websocket',
          'sec-websocket-version': '13',
          'sec-websocket-key': randomBytes(16).toString('base64'),
          ...headers,
        },
      });
      return answer.status;
    };
    assert.equal(await upgrade(TUNNEL, '/v1/ws', { origin: `https://${TUNNEL}` }), 403);
    assert.equal(await upgrade(TUNNEL, '/v1/ws', { origin: TUNNEL }), 403);
    assert.equal(await upgrade(TUNNEL, '/v1/other'), 404);
    assert.equal(await upgrade(`3000--demo.${DOMAIN}`, '/v1/ws'), 421);
  });

  it('counts those who have not shown who they are', async () => {
    const limited = await startTestGateway({ limits: { unauthenticatedLegsPerAddress: 2 } });
    const dials = Array.from({ length: 3 }, () =>
      dialWebSocket(
        {
          connect: () => connect(limited.httpsPort, limited.ca, { ALPNProtocols: ['http/1.1'] }),
          authority: `${TUNNEL}:${limited.httpsPort}`,
        },
        { signal: never },
      ),
    );
    const connections = await Promise.all(dials);
    await limited.waitFor(({ cap }) => cap === 'unauthenticatedLegsPerAddress');
    const ends = await Promise.race(connections.map(({ closed }) => closed));
    assert.equal(ends.by, 'remote');
    for (const connection of connections) connection.close();
    await limited.close();
  });
});
