/** Sign-in and port sessions with a real provider, a real gateway and a real runner; the browser is in test/e2e. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { PORT_COOKIE, PORT_STATE_COOKIE } from '../../gateway/src/access/port-session.ts';
import type { SignInConfig } from '../../gateway/src/config.ts';
import { systemClock } from '../../shared/src/clock.ts';
import { DOMAIN, startTestGateway } from '../support/gateway.ts';
import { CLIENT_ID, startIdentityProvider } from '../support/identity-provider.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { until } from '../support/runner.ts';
import { createVisitor, startApplication, startSignInWorld, type Visit } from '../support/sign-in-world.ts';

const SIGN_IN: Omit<SignInConfig, 'issuer' | 'clientSecretFile'> = {
  clientId: CLIENT_ID,
  scopes: ['openid', 'profile'],
  claims: { user: 'sub', name: 'name', organizations: 'groups' },
  switchPrompt: 'login',
  ca: undefined,
};

const secretFile = async (t: TestContext, secret: string): Promise<string> => {
  const path = join(await temporaryDirectory(t), 'client-secret');
  await writeFile(path, secret);
  return path;
};

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
  assert.ok(
    cookies.some((line) =>
      /^__Host-gitpod_port_auth=.*; Max-Age=28[78]\d\d; Path=\/; Secure; HttpOnly; SameSite=Lax$/.test(line),
    ),
  );
  assert.ok(cookies.some((line) => line.startsWith(`${PORT_STATE_COOKIE}=; Max-Age=0;`)));
  // Nothing of ours came to the application, and every answer of the sign-in is no-store.
  assert.deepEqual(new Set(app.cookies), new Set(['']));
  for (const { url, headers } of visits.filter(({ url }) => /^https:[^?]*\/(?:auth|_gitpod)\//.test(url))) {
    assert.equal(headers['cache-control'], 'no-store', url);
    assert.equal(headers['x-content-type-options'], 'nosniff', url);
  }
  // Codes, states and cookies are in no line of the log.
  const secrets = [
    new URL(auth.url).searchParams.get('code') ?? '',
    ...visits.flatMap((visit) => new URL(visit.url).searchParams.get('state') ?? []),
    ...[...visitor.jar.values()].flatMap((jar) => [...jar.values()]),
  ];
  assert.ok(secrets.length > 4 && secrets.every((secret) => secret.length > 20));
  const log = JSON.stringify(world.gateway.lines);
  for (const secret of secrets) assert.ok(!log.includes(secret));
  // Known from now on.
  assert.equal((await visitor.open(`${world.origin('demo', app.port)}/again`)).length, 1);
});

test('a code works once, in the browser that asked, at the port it names', async (t) => {
  const world = await startSignInWorld(t);
  const app = await startApplication(t);
  const other = await startApplication(t);
  await world.announce({
    id: 'demo',
    creator: 'grace',
    ports: [{ port: app.port }, { port: other.port, admission: 'everyone' }],
  });
  const origin = world.origin('demo', app.port);
  const visitor = createVisitor(world);
  const visits = await visitor.signIn(`${origin}/page?x`, 'grace');
  assert.equal(visits.at(-1)!.status, 200);
  const { url: codeUrl } = codeVisit(visits, origin);

  // A second time in the same browser: no cookie is set, whether or not the session is there.
  const again = await visitor.get(codeUrl);
  assert.equal(again.status, 302);
  assert.equal(again.headers['set-cookie'], undefined);
  visitor.jar.get(new URL(origin).host)!.clear();
  const refusals = [
    await visitor.get(codeUrl),
    // In another browser.
    await createVisitor(world).get(codeUrl),
    // At other ports, of this and of another environment, and as a port with TLS behind it.
    await visitor.get(codeUrl.replace(origin, world.origin('demo', other.port))),
    await visitor.get(codeUrl.replace(origin, world.origin('elsewhere', app.port))),
    await visitor.get(codeUrl.replace(`${app.port}--`, `${app.port}s--`)),
    await visitor.get(codeUrl.replace('code=', 'code=x')),
    await visitor.get(`${origin}/_gitpod/auth`),
    await visitor.get(`${origin}/_gitpod/chain?chain=${new URL(codeUrl).searchParams.get('code') ?? ''}`),
  ];
  for (const { url, status, headers, body } of refusals) {
    assert.equal(status, 400, url);
    assert.equal(headers['gateway-error'], 'sign_in_invalid');
    assert.equal(headers['set-cookie'], undefined);
    assert.match(String(headers['content-security-policy']), /frame-ancestors 'none'/);
    assert.match(body, /Start again<\/a>/);
  }
  assert.match(refusals[0]!.body, new RegExp(`href="${origin}/page\\?x"`));
  assert.equal((await visitor.get(codeUrl, { headers: { accept: 'application/json' } })).status, 400);
  assert.equal((await visitor.get(codeUrl, { method: 'POST' })).status, 405);
  assert.equal((await visitor.get(codeUrl, { method: 'HEAD' })).status, 405);
  assert.equal((await visitor.get(`${origin}/_gitpod/anything`)).status, 404);
  // Starting again needs no form: the session at the apex is there.
  const restarted = await visitor.open(`${origin}/page?x`);
  assert.equal(restarted.at(-1)!.status, 200);
  // And the state cookie of another browser makes the code none of its own.
  const thief = createVisitor(world);
  await thief.get(`${origin}/`);
  assert.equal((await thief.get(codeUrl)).status, 400);
});

test('signed in: what does not exist and what is not allowed are one page; another account may be tried', async (t) => {
  const world = await startSignInWorld(t);
  const app = await startApplication(t);
  const demo = world.origin('demo', app.port);
  await world.announce({ id: 'demo', creator: 'grace', ports: [{ port: app.port }] });
  const visitor = createVisitor(world);
  const visits = await visitor.signIn(`${demo}/secret`, 'mallory');
  const refused = visits.at(-1)!;
  assert.equal(refused.status, 404);
  assert.match(refused.body, /Mallory/);
  const pages = [refused];
  for (const origin of [world.origin('unknown', 3000), world.origin('demo', 1234), world.origin('other', app.port)]) {
    const [first, ...rest] = await visitor.open(`${origin}/whatever?x`);
    assert.equal(first!.status, 302);
    pages.push(rest.at(-1)!);
  }
  const strip = ({ headers, body }: Visit) => {
    const { 'x-request-id': requestId, date, ...others } = headers;
    assert.ok(requestId !== undefined && date !== undefined);
    return { others, body };
  };
  for (const page of pages) {
    assert.equal(page.status, 404);
    assert.deepEqual(
      { ...strip(page), others: { ...strip(page).others, 'set-cookie': undefined } },
      { ...strip(pages[1]!), others: { ...strip(pages[1]!).others, 'set-cookie': undefined } },
    );
  }
  assert.equal(app.requests(), 0);
  // Switching ends this session, and asks the provider to ask.
  const foreign = { 'sec-fetch-site': 'same-site', origin: demo };
  assert.equal((await visitor.get(pages[1]!.url, { method: 'POST', headers: foreign })).status, 403);
  const switched = await visitor.get(pages[1]!.url, { method: 'POST', headers: { 'sec-fetch-site': 'same-origin' } });
  assert.equal(switched.status, 200);
  assert.match(switched.body, /\/auth\/login\?[^"]*switch=1/);
  assert.match(String(switched.headers['set-cookie']), /__Host-gitpod_session=; Max-Age=0/);
});

test('strangers get the same answer for private, unknown, not exposed and offline, and their navigation goes to sign-in', async (t) => {
  const world = await startSignInWorld(t);
  const app = await startApplication(t);
  await world.announce({ id: 'demo', creator: 'grace', ports: [{ port: app.port }] });
  const stranger = createVisitor(world);
  for (const origin of [world.origin('demo', app.port), world.origin('demo', 4999), world.origin('nobody', 3000)]) {
    const { status, headers, body } = await stranger.get(`${origin}/x`);
    assert.equal(status, 302);
    assert.equal(body, '');
    assert.match(
      String(headers.location),
      new RegExp(`^${world.apex}/auth/port/start\\?returnTo=${encodeURIComponent(`${origin}/x`)}&state=[\\w-]{43}$`),
    );
  }
  // Nobody is signed in at the apex either, whatever the address.
  const { status, headers } = await stranger.get(
    `${world.apex}/auth/port/start?returnTo=${encodeURIComponent('https://evil.test/')}&state=${'x'.repeat(43)}`,
  );
  assert.equal(status, 400);
  assert.equal(headers.location, undefined);
  for (const path of ['/auth/port/start', '/auth/login?returnTo=//evil.test', '/auth/port/start?returnTo=/&state=x']) {
    assert.equal((await stranger.get(world.apex + path)).status, 400, path);
  }
  for (const path of [
    '/auth/port/chain',
    '/auth/callback',
    '/auth/callback?state=x.y&code=z',
    '/auth/callback?error=access_denied',
  ]) {
    const refused = await stranger.get(world.apex + path);
    assert.equal(refused.headers['gateway-error'], 'sign_in_invalid', path);
  }
});

test('sign-out ends the session at the apex and at ports; only the own page can do it', async (t) => {
  const world = await startSignInWorld(t);
  const app = await startApplication(t);
  await world.announce({ id: 'demo', creator: 'grace', ports: [{ port: app.port }] });
  const origin = world.origin('demo', app.port);
  const visitor = createVisitor(world);
  await visitor.signIn(`${origin}/`, 'grace');
  const signOut = (headers: Record<string, string>) =>
    visitor.get(`${world.apex}/auth/sign-out`, { method: 'POST', headers });
  for (const headers of [
    {},
    { 'sec-fetch-site': 'same-site' },
    { 'sec-fetch-site': 'none' },
    { origin },
    { origin: 'null' },
  ] as Record<string, string>[]) {
    assert.equal((await signOut(headers)).status, 403, JSON.stringify(headers));
  }
  assert.equal((await visitor.get(`${world.apex}/auth/sign-out`)).status, 405);
  const program = { accept: 'application/json', 'sec-fetch-site': 'same-origin', 'sec-fetch-mode': 'cors' };
  assert.equal((await visitor.get(`${origin}/`, { headers: program })).status, 200);
  const left = await signOut({ origin: world.apex, 'content-type': 'application/x-www-form-urlencoded' });
  assert.equal(left.status, 303);
  assert.equal(left.headers.location, '/auth/signed-out');
  assert.equal((await visitor.get(`${origin}/`, { headers: program })).status, 401);
  const page = await visitor.get(`${world.apex}/auth/signed-out`);
  assert.match(page.body, /You are signed out/);
  assert.match(page.body, /Sign out of the provider/);
  const provider = await visitor.get(`${world.apex}/auth/provider-sign-out`);
  assert.match(String(provider.headers.location), new RegExp(`^${world.provider.issuer}/session/end\\?client_id=`));
});

test('the landing page shows the own environments, and nothing of others', async (t) => {
  const world = await startSignInWorld(t, { organization: 'acme' });
  await world.announce({
    id: 'of-grace',
    creator: 'grace',
    ports: [
      { port: 3000, name: '<web>', admission: 'everyone' },
      { port: 8080, admission: 'organization' },
      { port: 9000 },
    ],
  });
  await world.announce({ id: 'of-ada', creator: 'ada', ports: [{ port: 3000, admission: 'everyone' }] });
  const visitor = createVisitor(world);
  const before = await visitor.get(`${world.apex}/`);
  assert.match(before.body, /Sign in<\/a>/);
  assert.doesNotMatch(before.body, /of-(?:grace|ada)/);
  const visits = await visitor.signIn(`${world.apex}/auth/login`, 'grace');
  const { url, status, headers, body } = visits.at(-1)!;
  assert.equal(url, `${world.apex}/`);
  assert.equal(status, 200);
  assert.match(body, /Grace Hopper/);
  assert.match(body, /grace · navy, acme/);
  assert.match(body, /of-grace <span class="state on">online/);
  assert.ok(body.includes(`href="${world.origin('of-grace', 8080)}/"`));
  assert.match(body, /3000 · &#60;web&#62;/);
  assert.match(body, /open to everyone.*open to acme.*only you/);
  assert.doesNotMatch(body, /of-ada/);
  for (const policy of [headers, before.headers, (await visitor.get(`${world.apex}/nothing`)).headers]) {
    assert.match(String(policy['content-security-policy']), /default-src 'none'.*frame-ancestors 'none'/);
    assert.equal(policy['cache-control'], 'no-store');
    assert.equal(policy['x-content-type-options'], 'nosniff');
  }
  await world.runner.close();
  await until(async () => /of-grace <span class="state">offline/.test((await visitor.get(`${world.apex}/`)).body));
});

test('organizations open ports, as arrays, as text, and from userinfo where the ID token lacks them', async (t) => {
  const accounts = {
    array: { groups: ['navy', 'acme'] },
    text: { groups: 'navy, acme' },
    none: { groups: [] },
  };
  for (const userInfoOnly of [false, true]) {
    const world = await startSignInWorld(t, { organization: 'acme', provider: { accounts, userInfoOnly } });
    const app = await startApplication(t);
    await world.announce({ id: 'demo', creator: 'grace', ports: [{ port: app.port, admission: 'organization' }] });
    const wanted = `${world.origin('demo', app.port)}/`;
    for (const [name, status] of [
      ['array', 200],
      ['text', 200],
      ['none', 404],
    ] as const) {
      assert.equal((await createVisitor(world).signIn(wanted, name)).at(-1)!.status, status, name);
    }
    const asked = world.provider.seen.filter(({ path }) => path === '/me').length;
    assert.equal(asked > 0, userInfoOnly, 'the userinfo endpoint is asked when it is needed, and only then');
  }
});

test('a gateway starts while the provider is silent, says so, and signs in when it speaks', async (t) => {
  const world = await startSignInWorld(t, { serve: false });
  const app = await startApplication(t);
  await world.announce({ id: 'demo', creator: 'grace', ports: [{ port: app.port, admission: 'everyone' }] });
  await world.announce({ id: 'mine', creator: 'grace', ports: [{ port: app.port }] });
  const visitor = createVisitor(world);
  assert.equal((await visitor.get(`${world.origin('demo', app.port)}/`)).status, 200);
  const failed = (await visitor.open(`${world.origin('mine', app.port)}/`)).at(-1)!;
  assert.equal(failed.status, 503);
  assert.equal(failed.headers['gateway-error'], 'sign_in_unavailable');
  const ready = await world.gateway.internal('/readyz', {});
  assert.equal(ready.status, 200);
  assert.match(await ready.text(), /^ok\nnobody can sign in: the provider answers with something else/);

  world.provider.serve([`${world.apex}/auth/callback`]);
  let visits: Visit[] = [];
  await until(async () => {
    visits = await createVisitor(world).open(`${world.origin('mine', app.port)}/`);
    return visits.at(-1)!.status === 200;
  });
  assert.ok(visits.at(-1)!.url.startsWith(world.provider.issuer));
  assert.equal(await (await world.gateway.internal('/readyz', {})).text(), 'ok\n');
});

test('a wrong client secret is said to the operator, and a right one is taken up without a restart', async (t) => {
  const world = await startSignInWorld(t);
  await writeFile(world.secretFile, 'wrong');
  const visitor = createVisitor(world);
  const failed = (await visitor.signIn(`${world.apex}/auth/login`, 'grace')).at(-1)!;
  assert.equal(failed.status, 502);
  assert.equal(failed.headers['gateway-error'], 'sign_in_misconfigured');
  const line = await world.gateway.waitFor(({ msg }) => msg === 'a sign-in failed');
  assert.equal(line.level, 'warn');
  assert.match(String(line['error']), /does not accept clientId with this client secret/);
  assert.match(failed.body, new RegExp(String(line['requestId'])));
  await writeFile(world.secretFile, world.provider.clientSecret);
  assert.match((await visitor.open(`${world.apex}/auth/login`)).at(-1)!.body, /Grace Hopper/);
  assert.ok(world.gateway.lines.every((entry) => !JSON.stringify(entry).includes(world.provider.clientSecret)));
});

test('a claim that is missing, an address that is not verified, a visitor who cancels', async (t) => {
  const accounts = { grace: { email: 'grace@acme.test', email_verified: false } };
  for (const [user, code, account] of [
    ['employee_number', 'sign_in_misconfigured', 'grace'],
    ['email', 'sign_in_refused', 'grace'],
    ['sub', 'sign_in_refused', 'somebody unknown'],
  ] as const) {
    const claims = { user, name: 'name', organizations: 'groups' };
    const world = await startSignInWorld(t, { provider: { accounts }, signIn: { claims } });
    const visitor = createVisitor(world);
    const { headers, body } = (await visitor.signIn(`${world.apex}/auth/login`, account)).at(-1)!;
    assert.equal(headers['gateway-error'], code);
    assert.match(body, /Start again/);
    assert.equal(visitor.jar.get(new URL(world.apex).host)?.has('__Host-gitpod_session') ?? false, false);
    if (code === 'sign_in_misconfigured') {
      const line = await world.gateway.waitFor(({ msg }) => msg === 'a sign-in failed');
      assert.match(String(line['error']), /employee_number/);
    }
  }
});

test('a gateway whose clock is wrong lets nobody in, and says why', async (t) => {
  for (const [offsetMs, status] of [
    [2 * 60 * 60_000, 502],
    [20_000, 200],
    [-20_000, 200],
  ] as const) {
    const clock = { ...systemClock, now: () => systemClock.now() + offsetMs };
    const provider = await startIdentityProvider({ accounts: { grace: {} } });
    t.after(() => provider.close());
    provider.serve(['https://gateway.invalid/auth/callback']);
    const gateway = await startTestGateway({
      clock,
      config: {
        signIn: {
          ...SIGN_IN,
          issuer: provider.issuer,
          clientSecretFile: await secretFile(t, provider.clientSecret),
        },
      },
    });
    t.after(() => gateway.close());
    const apex = `https://${DOMAIN}:${gateway.httpsPort}`;
    provider.serve([`${apex}/auth/callback`]);
    const last = (await createVisitor({ provider }).signIn(`${apex}/auth/login`, 'grace')).at(-1)!;
    assert.equal(last.status, status, `${offsetMs} ms`);
    if (status === 502) assert.equal(last.headers['gateway-error'], 'sign_in_clock');
  }
});

test('a provider that replaces its key is believed at once, and the old key no more', async (t) => {
  const world = await startSignInWorld(t);
  for (let round = 0; round < 3; round += 1) {
    const last = (await createVisitor(world).signIn(`${world.apex}/auth/login`, 'grace')).at(-1)!;
    assert.match(last.body, /Grace Hopper/);
    world.provider.rotateKey();
  }
});

test('clients that post their secret, and public ones, sign in too', async (t) => {
  for (const authMethod of ['client_secret_post', 'none'] as const) {
    const world = await startSignInWorld(t, { provider: { authMethod } });
    const last = (await createVisitor(world).signIn(`${world.apex}/auth/login`, 'grace')).at(-1)!;
    assert.match(last.body, /Grace Hopper/, authMethod);
  }
});

test('a provider behind a root of its own is believed with `ca`, and not without', async (t) => {
  for (const withRoot of [true, false]) {
    const provider = await startIdentityProvider({ accounts: { grace: {} }, tls: true });
    t.after(() => provider.close());
    provider.serve(['https://gateway.invalid/auth/callback']);
    const ca = join(await temporaryDirectory(t), 'root.pem');
    await writeFile(ca, provider.certificate);
    const gateway = await startTestGateway({
      config: {
        signIn: {
          ...SIGN_IN,
          issuer: provider.issuer,
          clientSecretFile: await secretFile(t, provider.clientSecret),
          ca: withRoot ? ca : undefined,
        },
      },
    });
    t.after(() => gateway.close());
    const apex = `https://${DOMAIN}:${gateway.httpsPort}`;
    provider.serve([`${apex}/auth/callback`]);
    const visitor = createVisitor({ provider });
    if (withRoot) {
      assert.equal((await visitor.signIn(`${apex}/auth/login`, 'grace')).at(-1)!.status, 200);
      continue;
    }
    assert.equal((await visitor.open(`${apex}/auth/login`)).at(-1)!.headers['gateway-error'], 'sign_in_unavailable');
    assert.match(await (await gateway.internal('/readyz', {})).text(), /self-signed certificate/);
  }
});

test('raising authNonce ends the session at the port, and a visit makes a new one without a form', async (t) => {
  const world = await startSignInWorld(t);
  const app = await startApplication(t);
  const environment = { id: 'demo', creator: 'grace', ports: [{ port: app.port }] };
  await world.announce(environment);
  const wanted = `${world.origin('demo', app.port)}/`;
  const visitor = createVisitor(world);
  await visitor.signIn(wanted, 'grace');
  assert.equal((await visitor.get(wanted)).status, 200);
  world.runner.client.environments.set({ ...environment, authNonce: 1 });
  await until(async () => (await visitor.get(wanted)).status === 302);
  const asked = world.provider.seen.length;
  assert.equal((await visitor.open(wanted)).at(-1)!.status, 200);
  assert.equal(world.provider.seen.length, asked);
  assert.ok(visitor.jar.get(new URL(wanted).host)?.has(PORT_COOKIE));
});

test('an operator ends all sessions of a user, at the apex and at ports; a new sign-in works', async (t) => {
  const world = await startSignInWorld(t);
  const app = await startApplication(t);
  await world.announce({ id: 'demo', creator: 'grace', ports: [{ port: app.port }] });
  const wanted = `${world.origin('demo', app.port)}/`;
  const visitor = createVisitor(world);
  await visitor.signIn(wanted, 'grace');
  assert.equal((await visitor.get(wanted)).status, 200);
  const now = Date.now();
  // As `gateway session revoke --user grace` does.
  await world.gateway.gateway.directory.revoke({
    kind: 'user',
    subject: 'grace',
    revokedAt: now,
    expiresAt: now + 60_000,
  });
  await until(async () => (await visitor.get(wanted)).status === 302);
  assert.match((await visitor.get(`${world.apex}/`)).body, /Sign in<\/a>/);
  assert.equal((await visitor.open(wanted)).at(-1)!.status, 200, 'the provider lets the visitor in again');
});

test('the landing page of a gateway without sign-in says what it is, and nothing of the sign-in is there', async (t) => {
  const gateway = await startTestGateway();
  t.after(() => gateway.close());
  const page = await gateway.request(DOMAIN, '/', { headers: { accept: 'text/html' } });
  assert.equal(page.status, 200);
  assert.match(page.body, /This is a Gitpod Gateway/);
  assert.doesNotMatch(page.body, /Sign in/);
  for (const path of ['/auth/login', '/auth/callback', '/auth/port/start']) {
    assert.equal((await gateway.request(DOMAIN, path)).status, 404, path);
  }
  assert.equal((await gateway.request(`3000--demo.${DOMAIN}`, '/_gitpod/auth?code=x')).status, 404);
});
