/** What every leg does, whatever connection carries it. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { afterEach, describe, it } from 'node:test';
import { pipeline } from 'node:stream/promises';
import { Readable } from 'node:stream';
import {
  LegClosedError,
  StreamRefusedError,
  StreamResetError,
  STREAM_STATUS,
  type StreamRefusal,
} from '../../shared/src/errors.ts';
import type { IncomingTunnelStream, TunnelStream } from '../../shared/src/protocol/leg.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import {
  closing,
  echoing,
  makeLegs,
  never,
  readAll,
  rejection,
  serving,
  target,
  type LegPair,
  type MakePair,
} from '../support/legs.ts';

const MIB = 1 << 20;
const open = (legs: LegPair, over = {}): TunnelStream => legs.gateway.openStream(target(over), { signal: never });

export const legCompliance = (name: string, makePair: MakePair): void => {
  describe(`a leg over ${name}`, { timeout: 60_000 }, () => {
    const opened: LegPair[] = [];
    const legs = async (options: Parameters<typeof makeLegs>[1] = {}): Promise<LegPair> => {
      const pair = await makeLegs(makePair, options);
      opened.push(pair);
      return pair;
    };
    afterEach(() => Promise.all(opened.splice(0).map((pair) => pair.close())));

    it('knows who is at the other end', async () => {
      const { gateway, runner } = await legs();
      assert.equal(gateway.id, runner.id);
      assert.deepEqual(
        [gateway.peer.id, gateway.peer.group, gateway.peer.organization],
        ['runner-1', 'runner', 'acme'],
      );
      assert.deepEqual([runner.peer.id, runner.peer.group], ['gateway-1', 'gateway']);
      assert.deepEqual([gateway.role, runner.role], ['acceptor', 'dialler']);
    });

    it('carries the target, and bytes both ways with half-close', async () => {
      const seen: IncomingTunnelStream['target'][] = [];
      const pair = await legs({
        runnerHandlers: serving((stream) => {
          seen.push(stream.target);
          void readAll(stream).then((bytes) => stream.end(`got ${bytes.toString()}`));
        }),
      });
      const wanted = { environmentId: 'env-7', port: 8080, tls: true, requestId: 'abc', traceParent: '00-1-2-01' };
      const stream = open(pair, wanted);
      stream.end('hello');
      assert.equal((await readAll(stream)).toString(), 'got hello');
      assert.deepEqual(seen, [target(wanted)]);
      assert.deepEqual([stream.bytesSent, stream.bytesReceived], [5, 9]);
      assert.equal(pair.gateway.stats().openStreams, 0);
    });

    it('carries payload that was written before the other side answered', async () => {
      let incoming: IncomingTunnelStream | undefined;
      const arrived = Promise.withResolvers<void>();
      const pair = await legs({
        runnerHandlers: {
          onStream(stream) {
            incoming = stream;
            stream.once('readable', () => arrived.resolve());
          },
        },
      });
      const stream = open(pair);
      stream.write('early');
      await arrived.promise;
      assert.equal(String(incoming?.read()), 'early');
      incoming?.accept();
      await stream.connected;
    });

    for (const code of Object.keys(STREAM_STATUS).filter((each) => each !== 'connected') as StreamRefusal[]) {
      it(`tells why a stream was refused: ${code}`, async () => {
        const pair = await legs({ runnerHandlers: { onStream: (stream) => stream.refuse(code) } });
        const stream = open(pair);
        const error = await rejection(stream.connected);
        assert.ok(error instanceof StreamRefusedError);
        assert.equal(error.code, code);
        await closing(stream);
        assert.equal(stream.errored, error);
      });
    }

    it('passes a reset on, from either side, and nothing else is hurt', async () => {
      const incoming: IncomingTunnelStream[] = [];
      const pair = await legs({ runnerHandlers: serving((stream) => incoming.push(stream)) });
      const bystander = open(pair);
      const [first, second] = [open(pair), open(pair)];
      await Promise.all([bystander.connected, first.connected, second.connected]);
      first.reset('idle');
      incoming[2]?.reset('upstream_reset');
      await closing(second);
      assert.ok(second.errored instanceof StreamResetError);
      assert.deepEqual([second.errored.code, second.errored.by], ['upstream_reset', 'remote']);
      const other = incoming[1];
      assert.ok(other);
      await closing(other);
      assert.ok(other.errored instanceof StreamResetError);
      assert.deepEqual([other.errored.code, other.errored.by], ['idle', 'remote']);
      bystander.write('still here');
      const [bytes] = (await once(incoming[0] ?? assert.fail(), 'data')) as [Buffer];
      assert.equal(bytes.toString(), 'still here');
    });

    it('resets a stream whose signal is aborted', async () => {
      const arrived = Promise.withResolvers<IncomingTunnelStream>();
      const pair = await legs({ runnerHandlers: serving((stream) => arrived.resolve(stream)) });
      const abort = new AbortController();
      const stream = pair.gateway.openStream(target(), { signal: abort.signal });
      const incoming = await arrived.promise;
      abort.abort();
      await closing(incoming);
      assert.ok(incoming.errored instanceof StreamResetError);
      assert.equal(stream.destroyed, true);
    });

    it('answers an echo by itself', async () => {
      const pair = await legs();
      const stream = open(pair, { kind: 'echo', environmentId: '', port: 0 });
      const bytes = randomBytes(100_000);
      stream.end(bytes);
      assert.ok(bytes.equals(await readAll(stream)));
    });

    it('refuses streams that the dialling side opens where nobody serves them', async () => {
      const pair = await legs();
      // The dialler may open once it has seen a lane.
      await readAll(open(pair, { kind: 'echo', environmentId: '', port: 0 }).end());
      const stream = pair.runner.openStream(target(), { signal: never });
      const error = await rejection(stream.connected);
      assert.ok(error instanceof StreamResetError);
      assert.deepEqual([error.code, error.by], ['forbidden', 'remote']);
    });

    it('carries 64 MiB each way at once, unchanged', async () => {
      const pair = await legs({ runnerHandlers: echoing });
      const sent = createHash('sha256');
      const got = createHash('sha256');
      const block = randomBytes(MIB);
      const stream = open(pair);
      const blocks = function* (): Generator<Buffer> {
        for (let each = 0; each < 64; each++) {
          block.writeUInt32BE(each);
          const copy = Buffer.from(block);
          sent.update(copy);
          yield copy;
        }
      };
      await Promise.all([
        pipeline(Readable.from(blocks()), stream, { end: true }),
        (async () => {
          for await (const chunk of stream) got.update(chunk as Buffer);
        })(),
      ]);
      assert.equal(got.digest('hex'), sent.digest('hex'));
    });

    it('stops the sender of a stream that nobody reads, and only that one', async () => {
      const incoming: IncomingTunnelStream[] = [];
      const pair = await legs({
        runnerHandlers: serving((stream) => {
          if (stream.target.port === 1111) incoming.push(stream);
          else stream.pipe(stream);
        }),
      });
      const stuck = Array.from({ length: 100 }, () => open(pair, { port: 1111 }));
      await Promise.all(stuck.map((stream) => stream.connected));
      for (const stream of stuck) {
        // Writes until the stream takes no more.
        while (stream.write(Buffer.alloc(64 << 10)));
      }
      const quick = open(pair);
      quick.end(randomBytes(4 * MIB));
      assert.equal((await readAll(quick)).length, 4 * MIB);
      const before = performance.now();
      await readAll(open(pair, { kind: 'echo', environmentId: '', port: 0 }).end());
      assert.ok(performance.now() - before < 1_000, 'an echo waits for streams that nobody reads');
      for (const stream of stuck) assert.ok(stream.bytesSent <= 512 << 10, `${stream.bytesSent} bytes went out`);
      // Whoever reads again gets on.
      const [first] = stuck;
      incoming[0]?.resume();
      if (first?.writableNeedDrain) await once(first, 'drain');
    });

    it('lets credit grow while the reader keeps pace', async () => {
      const slow = (connection: Connection): Connection => ({
        ...connection,
        transport: connection.transport,
        openStream: (options) => connection.openStream(options),
        acceptStream: (options) => connection.acceptStream(options),
        close: (error) => connection.close(error),
        stats: () => ({ ...connection.stats(), rttMs: 1_000 }),
      });
      let most = 0;
      const pair = await legs({
        wrapDialler: slow,
        runnerHandlers: serving((stream) => {
          stream.on('data', () => {
            most = Math.max(most, (stream as unknown as { window: number }).window);
          });
        }),
      });
      const stream = open(pair);
      stream.end(Buffer.alloc(16 * MIB));
      await once(stream, 'finish');
      await readAll(open(pair, { kind: 'echo', environmentId: '', port: 0 }).end());
      assert.ok(most > 256 << 10, `the window stayed at ${most}`);
      assert.ok(most <= 4 * MIB);
    });

    it('opens more lanes as streams grow, at most four', async () => {
      let lanes = 0;
      const pair = await legs({
        runnerHandlers: echoing,
        wrapDialler: (connection) => ({
          ...connection,
          openStream: (options) => connection.openStream(options),
          async acceptStream(options) {
            const stream = await connection.acceptStream(options);
            lanes += 1;
            return stream;
          },
          close: (error) => connection.close(error),
          stats: () => connection.stats(),
        }),
      });
      await open(pair).connected;
      assert.equal(lanes, 1);
      for (let each = 0; each < 400; each++) await open(pair).connected;
      assert.equal(lanes, 4);
    });

    it('moves a direction with bulk to a bulk lane, and back when it was idle', async () => {
      const lane = (stream: TunnelStream): number =>
        (stream as unknown as { sendLane: { name: number } }).sendLane.name;
      const pair = await legs({ limits: { bulkIdleMs: 0 }, runnerHandlers: echoing });
      const stream = open(pair);
      const home = lane(stream);
      const seen = new Set<number>();
      const sent = createHash('sha256');
      const got = createHash('sha256');
      let echoed = 0;
      let whole = Promise.withResolvers<void>();
      const reading = (async () => {
        for await (const chunk of stream.iterator({ destroyOnReturn: false })) {
          got.update(chunk as Buffer);
          echoed += (chunk as Buffer).length;
          if (echoed % MIB === 0) whole.resolve();
        }
      })();
      for (let each = 0; each < 64; each++) {
        const block = randomBytes(MIB);
        sent.update(block);
        whole = Promise.withResolvers<void>();
        // The idle time is 0 here: each write begins on the small lane again. One after the other, because a peer that
        // moves more often than its lanes progress is cut off.
        stream.write(block, () => seen.add(lane(stream)));
        await whole.promise;
      }
      stream.end();
      await reading;
      assert.equal(got.digest('hex'), sent.digest('hex'));
      assert.ok(
        [...seen].some((each) => each >> 4 === 2),
        `lanes ${[...seen].join(' ')}`,
      );
      const small = open(pair);
      small.end('small');
      assert.equal((await readAll(small)).toString(), 'small');
      assert.equal(lane(small) >> 4, home >> 4);
    });

    it('carries 40 bulky streams at once, each unchanged', async () => {
      const pair = await legs({ runnerHandlers: echoing });
      await Promise.all(
        Array.from({ length: 40 }, async (_, each) => {
          const bytes = Buffer.alloc(2 * MIB + each, each);
          const stream = open(pair, { environmentId: `env-${each % 7}` });
          stream.end(bytes);
          assert.ok(bytes.equals(await readAll(stream)));
        }),
      );
    });

    it('refuses streams above its limit with `limit`, and takes new ones when old ones end', async () => {
      const pair = await legs({ limits: { streamsPerLeg: 3 }, runnerHandlers: echoing });
      const streams = [open(pair), open(pair), open(pair)];
      assert.throws(
        () => open(pair),
        (error) => error instanceof StreamRefusedError && error.code === 'limit',
      );
      streams[0]?.end();
      await readAll(streams[0] ?? assert.fail());
      assert.equal((await readAll(open(pair).end('x'))).toString(), 'x');
    });

    it('opens and ends 3,000 streams without keeping anything', async () => {
      const pair = await legs({ runnerHandlers: echoing });
      for (let round = 0; round < 30; round++) {
        await Promise.all(
          Array.from({ length: 100 }, async (_, each) => {
            const text = `${round}-${each}`;
            assert.equal((await readAll(open(pair).end(text))).toString(), text);
          }),
        );
      }
      assert.equal(pair.gateway.stats().openStreams, 0);
      assert.equal(pair.runner.stats().openStreams, 0);
    });

    it('says goodbye with its code, and cuts what is open with an error', async () => {
      const incoming = Promise.withResolvers<IncomingTunnelStream>();
      const pair = await legs({ runnerHandlers: serving((stream) => incoming.resolve(stream)) });
      const stream = open(pair);
      const other = await incoming.promise;
      await pair.gateway.close('replaced', 'a newer one is up');
      const end = await pair.runner.closed;
      assert.deepEqual([end.code, end.by, end.reason], ['replaced', 'remote', 'a newer one is up']);
      assert.deepEqual(await pair.gateway.closed.then(({ code, by }) => [code, by]), ['replaced', 'local']);
      for (const each of [stream, other]) {
        await closing(each);
        assert.ok(each.errored instanceof StreamResetError);
        assert.equal(each.errored.code, 'leg_lost');
        assert.ok(each.errored.cause instanceof LegClosedError);
      }
      assert.throws(() => open(pair), LegClosedError);
      assert.equal(pair.gateway.isOpen, false);
    });

    it('notices that the connection is gone', async () => {
      const pair = await legs({ runnerHandlers: echoing });
      const stream = open(pair);
      await stream.connected;
      pair.pair.dialler.close(new Error('cable cut'));
      const end = await pair.gateway.closed;
      assert.deepEqual([end.code, end.by], ['lost', 'remote']);
      await closing(stream);
      assert.ok(stream.errored instanceof StreamResetError);
    });

    it('hands control messages to the layer above, in order', async () => {
      const seen: string[] = [];
      const done = Promise.withResolvers<void>();
      const pair = await legs({
        gatewayHandlers: {
          onMessage(message) {
            seen.push(message.type === 'environments' ? `environments ${message.revision}` : message.type);
            if (message.type === 'drain') done.resolve();
          },
        },
      });
      for (const revision of [1, 2, 3])
        pair.runner.send({ type: 'environments', revision, part: 0, last: true, full: false });
      pair.runner.send({ type: 'drain', reason: 'update' });
      await done.promise;
      assert.deepEqual(seen, ['environments 1', 'environments 2', 'environments 3', 'drain']);
    });
  });
};
