/** What people see of a QUIC path that loses, reorders, doubles and damages datagrams, or whose ports change. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LOSSES, ROUGH, startLossyWorld } from '../support/lossy-world.ts';
import { until } from '../support/runner.ts';

/** Of a body each way, bytes: some two hundred packets. */
const BODY_BYTES = 128 << 10;
const WAIT_MS = 30_000;

describe('a path of 100 ms that loses, reorders, doubles and damages datagrams', { timeout: 240_000 }, () => {
  for (const loss of LOSSES) {
    it(`changes no byte at ${loss * 100} % loss`, async (t) => {
      const { udp, startRunner } = await startLossyWorld(t);
      udp.setWeather({ ...ROUGH, loss });
      const runner = await startRunner('demo');
      await runner.carry(BODY_BYTES);
      if (loss === 0.05) {
        const packets = runner.client.status().legs[0]?.packets;
        assert.ok(packets && packets.lost > 0 && packets.lost < packets.sent, JSON.stringify(packets));
        // The body came back, so that the gateway has lost some too.
        await until(() => runner.client.status().legs[0]?.gatewayPackets !== undefined, WAIT_MS);
        const gateways = runner.client.status().legs[0]?.gatewayPackets;
        assert.ok(gateways && gateways.lost > 0 && gateways.lost < gateways.sent, JSON.stringify(gateways));
      }
    });
  }
});

describe('a runner whose ports change on the way', { timeout: 120_000 }, () => {
  it('gets another leg, and the others do not notice', async (t) => {
    const { udp, startRunner } = await startLossyWorld(t);
    const moved = await startRunner('moved');
    const flows = udp.flows();
    const other = await startRunner('other');
    const legOf = (runner: typeof moved): string | undefined =>
      runner.client.status().legs.find(({ state }) => state === 'up')?.id;
    const [movedLeg, otherLeg] = [legOf(moved), legOf(other)];
    await moved.carry(1_024);
    udp.rebind(flows);
    let requests = 0;
    let isBack = false;
    const busy = (async () => {
      while (!isBack) {
        await other.carry(1_024);
        requests += 1;
      }
    })();
    await until(() => ![movedLeg, undefined].includes(legOf(moved)), WAIT_MS);
    await moved.carry(1_024);
    isBack = true;
    await busy;
    assert.ok(requests > 0);
    assert.equal(legOf(other), otherLeg);
  });
});
