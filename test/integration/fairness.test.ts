/**
 * One environment with 200 downloads, small requests of another on the same leg: bulk leaves the lanes of small streams
 * also when no download ever uses up its credit. How long requests take then is measured in test/long, since here it
 * says as much about the machine.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { LANE_KIND, laneKind } from '../../shared/src/protocol/frames.ts';
import { LEG_LIMITS } from '../../shared/src/protocol/limits.ts';
import type { IncomingTunnelStream } from '../../shared/src/protocol/leg.ts';
import { quicPair } from '../support/connection-pairs.ts';
import { makeLegs, never, readAll, serving, target } from '../support/legs.ts';

const DOWNLOADS = 200;
const REQUESTS = 60;
const MIB = 1 << 20;
/** By when every download has moved to a bulk lane, bytes of all: twice what moves one. */
const SETTLED_BYTES = DOWNLOADS * MIB;
/** Bulk that arrives between a request and its answer, bytes: a few batches of 128 KiB of each of eight lanes. */
const AHEAD_BYTES = 8 * MIB;
/** Bulk that moves for each request all the same, bytes: one piece of 64 KiB, which is what bulk is worked on in. */
const LEAST_BULK_BYTES = 64 << 10;

const PIECE = Buffer.alloc(64 << 10, 'b');
const endless = (stream: IncomingTunnelStream): void => {
  const source = new Readable({
    read() {
      this.push(PIECE);
    },
  });
  stream.on('error', () => source.destroy());
  stream.on('close', () => source.destroy());
  source.pipe(stream);
};

/** Name of the lane on which a stream's own direction goes on. */
const laneOf = (stream: object): number => (stream as { sendLane: { name: number } }).sendLane.name;

describe('a leg', () => {
  it('takes no number of small answers on a kept connection for bulk', async (t) => {
    const answering: IncomingTunnelStream[] = [];
    const legs = await makeLegs(quicPair, {
      runnerHandlers: serving((stream) => {
        answering.push(stream);
        stream.pipe(stream);
      }),
    });
    t.after(() => legs.close());
    const stream = legs.gateway.openStream(target({ environmentId: 'small' }), { signal: never });
    const message = Buffer.alloc(1_024, 's');
    for (let sent = 0; sent < 4 * LEG_LIMITS.bulkAfterBytes; sent += message.length) {
      stream.write(message);
      for (let got = 0; got < message.length;) got += ((await once(stream, 'data')) as [Buffer])[0].length;
    }
    for (const end of [stream, answering[0]!]) assert.equal(laneKind(laneOf(end)), LANE_KIND.small);
    stream.destroy();
  });

  it(`answers small requests of one environment beside ${DOWNLOADS} downloads of another`, async (t) => {
    const bulk: IncomingTunnelStream[] = [];
    const legs = await makeLegs(quicPair, {
      runnerHandlers: serving((stream) => {
        if (stream.target.environmentId !== 'bulk') return void stream.pipe(stream);
        bulk.push(stream);
        endless(stream);
      }),
    });
    t.after(() => legs.close());
    let received = 0;
    const downloads = Array.from({ length: DOWNLOADS }, () => {
      const stream = legs.gateway.openStream(target({ environmentId: 'bulk' }), { signal: never });
      stream.on('error', () => {});
      stream.on('data', (chunk: Buffer) => (received += chunk.length));
      return stream;
    });
    const [first] = downloads;
    while (received < SETTLED_BYTES) await once(first!, 'data');
    const kinds = bulk.map((stream) => laneKind(laneOf(stream)));
    assert.equal(kinds.filter((kind) => kind === LANE_KIND.bulk).length, DOWNLOADS);

    const ahead: number[] = [];
    const receivedBefore = received;
    for (let round = 0; round < REQUESTS; round++) {
      const before = received;
      const stream = legs.gateway.openStream(target({ environmentId: 'small' }), { signal: never });
      stream.end('small');
      assert.equal((await readAll(stream)).toString(), 'small');
      ahead.push(received - before);
    }
    const perRequest = (received - receivedBefore) / REQUESTS;
    for (const stream of downloads) stream.destroy();
    ahead.sort((a, b) => a - b);
    const median = ahead[REQUESTS >> 1] ?? Infinity;
    t.diagnostic(`bytes ahead: median ${median}, most ${ahead.at(-1)}, ${Math.round(perRequest)} a request`);
    // Most requests meet no bulk at all, since it stands back for them; it goes on all the same.
    assert.ok(perRequest >= LEAST_BULK_BYTES, `the downloads stood still: ${perRequest} bytes a request`);
    assert.ok(median <= AHEAD_BYTES, `a small request waits behind ${median} bytes`);
  });
});
