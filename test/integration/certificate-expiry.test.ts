/** A certificate that ends is told before, and when it has. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { test } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { startTestGateway } from '../support/gateway.ts';

test('the end of a certificate is in the metrics; after it the gateway runs on and is not ready', async (t) => {
  let aheadMs = 0;
  const gateway = await startTestGateway({ clock: { ...systemClock, now: () => Date.now() + aheadMs } });
  t.after(() => gateway.close());
  const { validTo } = new X509Certificate(gateway.ca);
  const metrics = await (await gateway.internal('/metrics')).text();
  const [, seconds] = /^gitpod_gateway_certificate_expiry_timestamp_seconds\{.*\} (\S+)$/m.exec(metrics) ?? [];
  assert.equal(Number(seconds), Date.parse(validTo) / 1_000);
  assert.equal((await gateway.internal('/readyz')).status, 200);

  aheadMs = Date.parse(validTo) - Date.now() + 1;
  const notReady = await gateway.internal('/readyz');
  assert.equal(notReady.status, 503);
  assert.match(await notReady.text(), /every certificate has expired/);
  assert.equal((await gateway.internal('/livez')).status, 200);
  assert.equal((await gateway.request('gateway.localhost', '/_health')).status, 200);
});
