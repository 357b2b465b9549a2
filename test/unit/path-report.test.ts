/** What the side that accepted a leg tells of the packets that it has lost. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { PATH_REPORT_MS, PATH_REPORT_PACKETS, reportPath } from '../../shared/src/protocol/path-report.ts';
import { createManualClock } from '../support/manual-clock.ts';

const start = () => {
  const clock = createManualClock();
  const told: { sent: number; lost: number }[] = [];
  const packets = { sent: 0, lost: 0 };
  const stats = () => ({ rttMs: 100, received: 0, bytesSent: 0, bytesReceived: 0, packets: { ...packets } });
  const stop = reportPath({ clock, connection: { stats }, tell: (each) => told.push(each) });
  return { clock, told, packets, stop };
};

it('tells all that was counted when there was something to count', async () => {
  const { clock, told, packets } = start();
  Object.assign(packets, { sent: PATH_REPORT_PACKETS, lost: 3 });
  await clock.advance(PATH_REPORT_MS);
  assert.deepEqual(told, [{ sent: PATH_REPORT_PACKETS, lost: 3 }]);
  await clock.advance(PATH_REPORT_MS);
  assert.equal(told.length, 1, 'nothing new');
  Object.assign(packets, { sent: 2 * PATH_REPORT_PACKETS, lost: 5 });
  await clock.advance(PATH_REPORT_MS);
  assert.deepEqual(told[1], { sent: 2 * PATH_REPORT_PACKETS, lost: 5 });
});

it('says nothing on a leg at rest until a minute and a half of keep-alives have added up, and nothing once it has ended', async () => {
  const { clock, told, packets, stop } = start();
  for (let second = 1; second < PATH_REPORT_PACKETS; second++) {
    packets.sent += 1;
    await clock.advance(1_000);
  }
  assert.deepEqual(told, []);
  packets.sent += PATH_REPORT_PACKETS;
  stop();
  await clock.advance(PATH_REPORT_MS);
  assert.deepEqual(told, []);
});
