import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'node:test';
import { createKey } from '../../shared/src/identity/keys.ts';
import { MEMBERSHIP_LIFETIME_MS, verifyMembership } from '../../shared/src/identity/membership.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { createOwnMembership, RENEWAL_CHECK_MS } from '../../gateway/src/tunnels/own-membership.ts';
import { keepLog } from '../support/gateway.ts';
import { createManualClock } from '../support/manual-clock.ts';
import { until } from '../support/runner.ts';

it('the own membership is renewed at half-life, and when the clock was set back', async () => {
  const stateDir = await mkdtemp(join(tmpdir(), 'membership-test-'));
  const clock = createManualClock();
  const { log } = keepLog();
  const issuer = 'https://api.test';
  const directory = await openEmbeddedDirectory({ clock, log }, { path: join(stateDir, 'directory.sqlite'), issuer });
  try {
    const key = createKey();
    const own = await createOwnMembership({ directory, key, clock, log });
    const { trust } = await directory.authority();
    const verify = () =>
      verifyMembership(own.token(), { trust, issuer, group: 'gateway', peerKey: key.publicKey }, { clock });
    assert.equal((await verify()).id, own.gatewayId);
    const first = own.token();
    clock.setWall(clock.now() + MEMBERSHIP_LIFETIME_MS / 2 - 2 * RENEWAL_CHECK_MS);
    await clock.advance(RENEWAL_CHECK_MS);
    assert.equal(own.token(), first);
    await clock.advance(RENEWAL_CHECK_MS);
    // Signing happens in another thread.
    await until(() => own.token() !== first);
    const second = own.token();
    await verify();
    // An hour back: the membership is one of the future until it is made anew.
    clock.setWall(clock.now() - 3_600_000);
    await assert.rejects(verify(), { code: 'clock_skew' });
    await clock.advance(RENEWAL_CHECK_MS);
    await until(() => own.token() !== second);
    await verify();
    own.close();
  } finally {
    await directory.close();
    await rm(stateDir, { recursive: true, force: true });
  }
});
