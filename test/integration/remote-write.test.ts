// needs: prometheus
/** Remote write of the tunnel client into a real Prometheus, over a receiver that is away at first and wants a password. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { collectMetrics } from '../../tunnel-client/src/metrics.ts';
import { createOutbound } from '../../tunnel-client/src/outbound.ts';
import { NO_PROXY_SETTINGS } from '../../tunnel-client/src/proxy-settings.ts';
import { snappyLiterals, startRemoteWrite } from '../../tunnel-client/src/remote-write.ts';
import { createResolver } from '../../tunnel-client/src/resolver.ts';
import { type Prometheus, startPrometheus } from '../support/prometheus.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';
import { startTestRunner, until, type TestRunner } from '../support/runner.ts';

describe('remote write', () => {
  let directory: string;
  let prometheus: Prometheus;
  let url: string;
  let gateway: TestGateway;
  let runner: TestRunner;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'remote-write-'));
    await writeFile(join(directory, 'password'), 'canary-password\n');
    prometheus = await startPrometheus();
    url = `http://127.0.0.1:${prometheus.port}`;
    gateway = await startTestGateway();
    runner = await startTestRunner(gateway);
  });
  after(async () => {
    await runner.close();
    await gateway.close();
    await prometheus.close();
    await rm(directory, { recursive: true });
  });

  const query = (text: string) => prometheus.query(text);
  const clock = systemClock;
  const outbound = createOutbound({ clock, resolver: createResolver({ clock }) }, { proxy: NO_PROXY_SETTINGS });

  it('brings every series with its labels, sends again what was not taken, and shows the password to the receiver alone', async () => {
    let asked = 0;
    const seen = new Set<string | undefined>();
    const receiver = createServer((request: IncomingMessage, response) => {
      asked += 1;
      seen.add(request.headers.authorization);
      const isAway = asked <= 2;
      void (async () => {
        const parts: Buffer[] = [];
        for await (const part of request as AsyncIterable<Buffer>) parts.push(part);
        if (isAway) return response.writeHead(503).end();
        const headers = Object.entries(request.headers).filter(([name]) =>
          /^(?:content-(?:type|encoding)|x-prom)/.test(name),
        );
        const answer = await fetch(`${url}/api/v1/write`, {
          method: 'POST',
          headers: Object.fromEntries(headers) as Record<string, string>,
          body: Buffer.concat(parts),
        });
        response.writeHead(answer.status).end(await answer.text());
      })();
    });
    receiver.listen(0, '127.0.0.1');
    await once(receiver, 'listening');
    const logged: string[] = [];
    const keep = (fields: object, message: string): void => void logged.push(JSON.stringify({ ...fields, message }));
    const writing = startRemoteWrite(
      {
        collect: () => collectMetrics(runner.client.status()),
        ...{ clock, outbound },
        log: { debug: keep, info: keep, warn: keep, error: keep },
      },
      {
        target: {
          url: `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/api/v1/write`,
          username: 'runners',
          passwordFile: join(directory, 'password'),
        },
        labels: { job: 'tunnel-client', instance: runner.id },
        intervalMs: 100,
      },
    );
    try {
      await until(async () => (await query('gitpod_tunnel_client_online == 1')).length === 1);
      const [online] = await query('gitpod_tunnel_client_online');
      const labels = { __name__: 'gitpod_tunnel_client_online', job: 'tunnel-client', instance: runner.id };
      assert.deepEqual(online?.metric, labels);
      const sent = collectMetrics(runner.client.status()).flatMap(({ name, samples }) => samples.map(() => name));
      const found = await query(`{instance="${runner.id}"}`);
      assert.deepEqual(found.map(({ metric }) => metric['__name__']).sort(), sent.sort());
      const [expiry] = await query('gitpod_tunnel_client_membership_expiry_timestamp_seconds');
      assert.equal(Number(expiry?.value[1]), (runner.client.status().membershipExpiresAt ?? 0) / 1_000);
      // What was read while the receiver was away is there too.
      await until(
        async () => Number((await query('count_over_time(gitpod_tunnel_client_online[5m])'))[0]?.value[1]) >= 4,
      );
      assert.deepEqual([...seen], [`Basic ${Buffer.from('runners:canary-password').toString('base64')}`]);
      assert.match(logged.join('\n'), /metrics cannot be sent.*\n.*takes them again/);
      assert.ok(!logged.join('').includes('canary'));
    } finally {
      await writing.close();
      receiver.closeAllConnections();
      receiver.close();
    }
    const before = asked;
    await writing.close();
    assert.equal(asked, before);
  });

  it('keeps a bounded number of readings while the receiver is away, the newest ones', async () => {
    const bodies: string[] = [];
    let isAway = true;
    const receiver = createServer((request, response) => {
      void (async () => {
        const parts: Buffer[] = [];
        for await (const part of request as AsyncIterable<Buffer>) parts.push(part);
        if (!isAway) bodies.push(/reading-\d+/.exec(Buffer.concat(parts).toString('latin1'))?.[0] ?? '');
        response.writeHead(isAway ? 503 : 204).end();
      })();
    });
    receiver.listen(0, '127.0.0.1');
    await once(receiver, 'listening');
    let readings = 0;
    const writing = startRemoteWrite(
      {
        collect() {
          readings += 1;
          if (readings === 60) isAway = false;
          return [{ name: `reading-${readings}`, type: 'gauge', help: '', samples: [[{}, 1]] }];
        },
        ...{ clock, outbound },
        log: { debug() {}, info() {}, warn() {}, error() {} },
      },
      {
        target: {
          url: `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`,
          username: undefined,
          passwordFile: undefined,
        },
        labels: {},
        intervalMs: 5,
      },
    );
    try {
      await until(() => bodies.includes('reading-60'));
    } finally {
      await writing.close();
      receiver.closeAllConnections();
      receiver.close();
    }
    const first = Number(bodies[0]?.slice('reading-'.length));
    assert.ok(first >= 38, `the first that came was ${first}`);
    assert.deepEqual(
      bodies.slice(0, 61 - first),
      Array.from({ length: 61 - first }, (_, index) => `reading-${first + index}`),
    );
  });

  it('makes snappy blocks of any length', () => {
    for (const length of [0, 1, 60, 65_535, 65_536, 65_537, 200_000]) {
      const input = Buffer.alloc(length, 'abc');
      const block = snappyLiterals(input);
      // A decoder for literals: the length, then tag, two bytes of length and bytes, over and over.
      let at = 0;
      let total = 0;
      for (let shift = 0; ; shift += 7) {
        const byte = block[at++] ?? 0;
        total |= (byte & 0x7f) << shift;
        if (byte < 0x80) break;
      }
      const parts: Buffer[] = [];
      while (at < block.length) {
        assert.equal(block[at], 0xf4);
        const size = block.readUInt16LE(at + 1) + 1;
        parts.push(block.subarray(at + 3, at + 3 + size));
        at += 3 + size;
      }
      assert.equal(total, length);
      assert.ok(Buffer.concat(parts).equals(input));
    }
  });
});
