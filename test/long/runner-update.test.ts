import { test } from 'node:test';
import { updateRunner } from '../support/runner-update.ts';

test('a runner is updated under 200 requests a second: 0 of 10,000 fail', { timeout: 240_000 }, (t) =>
  updateRunner(t, { total: 10_000 }),
);
