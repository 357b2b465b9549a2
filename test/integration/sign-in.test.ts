/** Sign-in and port sessions with a real provider, a real gateway and a real runner; the browser is in test/e2e. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { PORT_COOKIE, PORT_STATE_COOKIE } from '../../gateway/src/access/port-session.ts';
import { DOMAIN } from '../support/gateway.ts';
import { until } from '../support/runner.ts';
import { createVisitor, startApplication, startSignInWorld, type Visit } from '../support/sign-in-world.ts';

const codeVisit = (visits: readonly Visit[], origin: string): Visit => {
  const found = visits.find(({ url }) => url.startsWith(`${origin}/_gitpod/auth?code=`));
  assert.ok(found, `no code came to ${origin}`);
  return found;
};

test('a visitor signs in and arrives at the address that was asked for', async (t) => {
  const world = await startSignInWorld(t);
  const app = await startApplication(t);
  await world.announce({ id: 'demo', creator: 'grace', ports: [{ port: app.port }] });
  const visitor = createVisitor(world);
  const wanted = `${world.origin('demo', app.port)}/a/b%2Fc?x=%20y&z=1`;

  const first = await visitor.get(wanted);
  assert.equal(first.status, 302);
  assert.match(String(first.headers.location), new RegExp(`^${world.apex}/auth/port/start\\?`));
  const [state = ''] = first.headers['set-cookie'] ?? [];
  assert.match(state, /^__Host-gitpod_port_state=[\w-]{43}; Max-Age=600; Path=\/; Secure; HttpOnly; SameSite=Lax$/);

  const visits = await visitor.signIn(wanted, 'grace');
  const last = visits.at(-1)!;
  assert.equal(last.status, 200, last.body);
  assert.equal(last.url, wanted);
  assert.match(last.body, /<p id="target">\/a\/b%2Fc\?x=%20y&z=1<\/p>/);
  const auth = codeVisit(visits, world.origin('demo', app.port));
  const cookies = auth.headers['set-cookie'] ?? [];
  assert.ok(cookies.some((line) => /^__Host-gitpod_port_auth=.*; Max-Age=28[78]\d\d; Path=\/; Secure; HttpOnly; SameSite=Lax$/.test(line)));
  assert.ok(cookies.some((line) => line.startsWith(`${PORT_STATE_COOKIE}=; Max-Age=0;`)));
  // Nothing of ours came to the application, and every answer of the sign-in is no-store.
  assert.deepEqual(new Set(app.cookies), new Set(['']));
  for (const { url, headers } of visits.filter(({ url }) => /^https:[^?]*\/(?:auth|_gitpod)\//.test(url))) {
    assert.equal(headers['cache-control'], 'no-store', url);
    assert.equal(headers['x-content-type-options'], 'nosniff', url);
  }
  // Known from now on.
  assert.equal((await visitor.open(`${world.origin('demo', app.port)}/again`)).length, 1);
});
