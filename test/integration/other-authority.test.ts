/** Runners and tokens that somebody else vouches for, from a real signer over HTTPS to a page that is served. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { connectRunner, type RunnerClient } from '../../tunnel-client/src/client.ts';
import { createKey, privateKeyToJwk, type IdentityKey } from '../../shared/src/identity/keys.ts';
import { LOG_PORT } from '../../shared/src/hostname.ts';
import { systemClock, type Clock } from '../../shared/src/clock.ts';
import { UNKNOWN_ISSUER_KEY_MS } from '../../gateway/src/access/other-authority.ts';
import type { AuthorityConfig } from '../../gateway/src/config.ts';
import { portHost, startTestGateway, type TestGateway } from '../support/gateway.ts';
import { AUDIENCE, startOutsideAuthority, type OutsideAuthority } from '../support/outside-authority.ts';
import { startTestRunner, startUpstream, until } from '../support/runner.ts';

const CLAIMS: AuthorityConfig['claims'] = {
  subject: 'sub',
  groups: 'groups',
  environment: 'env',
  port: 'port',
  scope: 'scope',
  user: 'sub',
};

interface Scene {
  readonly authority: OutsideAuthority;
  readonly gateway: TestGateway;
  readonly place: string;
}

const setUp = async (t: TestContext, over: Partial<AuthorityConfig> = {}, clock?: Clock): Promise<Scene> => {
  const place = await mkdtemp(join(tmpdir(), 'authority-'));
  t.after(() => rm(place, { recursive: true, force: true }));
  const authority = await startOutsideAuthority();
  t.after(() => authority.close());
  const ca = join(place, 'issuer.pem');
  await writeFile(ca, authority.ca);
  const { issuer, jwksUri } = authority;
  const gateway = await startTestGateway({
    config: { authority: { issuer, jwksUri, audience: AUDIENCE, only: false, claims: CLAIMS, ca, ...over } },
    ...(clock ? { clock } : {}),
  });
  t.after(() => gateway.close());
  return { authority, gateway, place };
};

/** A tunnel client that has its membership from a file. */
const startOutsider = async (
  t: TestContext,
  { gateway, place }: Scene,
  options: { id: string; key: IdentityKey; token: string },
): Promise<{ client: RunnerClient; file: string }> => {
  const file = join(place, `${options.id}.jwt`);
  await writeFile(file, `${options.token}\n`);
  const client = connectRunner({
    gateway: gateway.url,
    ca: gateway.ca,
    runnerId: options.id,
    stateDir: join(place, options.id),
    key: JSON.stringify(privateKeyToJwk(options.key)),
    membership: { file },
  });
  t.after(() => client.close());
  return { client, file };
};

const ready = (client: RunnerClient): Promise<void> => client.ready({ signal: AbortSignal.timeout(20_000) });
const problem = (client: RunnerClient, code: string): Promise<void> =>
  until(() => client.status().problems.some((each) => each.code === code));

describe('runners of another authority', { timeout: 120_000 }, () => {
  it('need nothing at the gateway but their membership, beside those of the gateway itself', async (t) => {
    const scene = await setUp(t);
    const { authority, gateway } = scene;
    const upstream = await startUpstream((_request, response) => response.end('from outside'));
    t.after(() => upstream.close());
    const key = createKey();
    const token = await authority.membership({ id: 'outsider', organization: 'acme', publicKey: key.publicKey });
    const { client, file } = await startOutsider(t, scene, { id: 'outsider', key, token });
    await ready(client);
    client.environments.set({ id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' }] });
    await until(async () => (await gateway.request(portHost('demo', upstream.port))).body === 'from outside');
    const runner = await gateway.gateway.directory.runner('outsider');
    assert.deepEqual([runner?.organization, runner?.issuer], ['acme', authority.issuer]);
    assert.deepEqual(Buffer.from(runner!.publicKey!), Buffer.from(key.publicKey));

    const own = await startTestRunner(gateway);
    t.after(() => own.close());
    await own.announce({ id: 'own', ports: [{ port: upstream.port, admission: 'everyone' }] });
    assert.equal((await gateway.request(portHost('own', upstream.port))).body, 'from outside');

    // The file is renewed by whoever gave it: the client has read it before the old one ends.
    const before = client.status().membershipExpiresAt!;
    const exp = Math.floor(Date.now() / 1_000) + 7_200;
    const identity = { id: 'outsider', organization: 'acme', publicKey: key.publicKey };
    await writeFile(file, await authority.membership(identity, { exp }));
    await until(() => client.status().membershipExpiresAt! > before);
    assert.equal(client.status().legs.length, 1);

    // Revoked here, it stays out, whatever the authority signs.
    await gateway.gateway.directory.revokeRunner('outsider');
    await until(() => client.status().state !== 'online');
    await problem(client, 'revoked');
  });

  it('are refused with what no issuer of the configuration has said of them', async (t) => {
    const scene = await setUp(t);
    const { authority, gateway } = scene;
    const key = createKey();
    const { publicKey } = key;
    const own = await startTestRunner(gateway, { organization: 'acme' });
    t.after(() => own.close());
    const stranger = await startOutsideAuthority();
    t.after(() => stranger.close());
    const cases: readonly [string, string, string][] = [
      [
        'a',
        'membership_invalid',
        await authority.membership({ id: 'a', organization: 'acme', publicKey }, { aud: 'x' }),
      ],
      // Another key under the same id.
      ['b', 'membership_invalid', await stranger.membership({ id: 'b', organization: 'acme', publicKey })],
      [
        'c',
        'membership_invalid',
        await authority.membership({ id: 'c', organization: 'acme', publicKey }, { sub: 'rnr:c' }),
      ],
      [
        'd',
        'membership_invalid',
        await authority.membership({ id: 'd', organization: 'acme', publicKey }, { groups: ['gateway'] }),
      ],
      [
        'e',
        'membership_invalid',
        await authority.membership({ id: 'e', organization: 'acme', publicKey }, { iss: 'https://other.example' }),
      ],
      [
        'f',
        'key_mismatch',
        await authority.membership({ id: 'f', organization: 'acme', publicKey: createKey().publicKey }),
      ],
      // Its own runners are not for others to name.
      [own.id, 'runner_mismatch', await authority.membership({ id: own.id, organization: 'acme', publicKey })],
    ];
    for (const [id, code, token] of cases) {
      const { client } = await startOutsider(t, scene, { id, key, token });
      await problem(client, code);
      assert.notEqual(client.status().state, 'online');
      await client.close();
    }
    assert.equal(own.client.status().state, 'online');
    assert.deepEqual(
      (await gateway.gateway.directory.runners()).map(({ id }) => id),
      [own.id],
      'who was refused is not kept',
    );
  });

  it('go on while the issuer is away, and with its next key', async (t) => {
    let aheadMs = 0;
    const clock: Clock = { ...systemClock, monotonic: () => systemClock.monotonic() + aheadMs };
    const scene = await setUp(t, {}, clock);
    const { authority } = scene;
    const [one, two] = [createKey(), createKey()];
    const of = (id: string, { publicKey }: IdentityKey) =>
      authority.membership({ id, organization: 'acme', publicKey });
    const first = await startOutsider(t, scene, { id: 'one', key: one, token: await of('one', one) });
    await ready(first.client);
    assert.equal(authority.asked(), 1);
    authority.isAway = true;
    const second = await startOutsider(t, scene, { id: 'two', key: two, token: await of('two', two) });
    await ready(second.client);
    assert.equal(authority.asked(), 1, 'the keys are kept');
    await first.client.close();
    authority.isAway = false;
    await authority.rotate();
    const token = await of('one', one);
    const early = await startOutsider(t, scene, { id: 'one', key: one, token });
    await until(() => early.client.status().problems.length > 0);
    assert.equal(authority.asked(), 1, 'a key that is not known is asked for at most every 30 s');
    await early.client.close();
    aheadMs = UNKNOWN_ISSUER_KEY_MS;
    await ready((await startOutsider(t, scene, { id: 'one', key: one, token })).client);
    assert.equal(authority.asked(), 2);
  });

  it('are the only ones where it says so: nobody joins, and the own runners stay out', async (t) => {
    const scene = await setUp(t, { only: true });
    const { authority, gateway } = scene;
    const { runner, exchangeToken } = await gateway.gateway.directory.createRunner({ name: 'own' });
    const client = connectRunner({
      gateway: gateway.url,
      ca: gateway.ca,
      runnerId: runner.id,
      exchangeToken,
      stateDir: join(scene.place, 'own'),
    });
    t.after(() => client.close());
    await problem(client, 'runner_unknown');
    const { message } = client.status().problems.find(({ code }) => code === 'runner_unknown')!;
    assert.match(message, /come from https:\/\/id\.example/);
    const key = createKey();
    const token = await authority.membership({ id: 'outsider', organization: 'acme', publicKey: key.publicKey });
    await ready((await startOutsider(t, scene, { id: 'outsider', key, token })).client);
  });
});

describe('tokens of another authority', { timeout: 60_000 }, () => {
  it('open what they name, with claims of their own names', async (t) => {
    const { authority, gateway } = await setUp(t, {
      claims: { ...CLAIMS, environment: 'https://example/env', scope: 'scp' },
    });
    const statusOf = async (claims: object, typ = 'gitpod-logs+jwt'): Promise<number> => {
      const token = await authority.sign({ ...claims }, typ);
      const headers = { authorization: `Bearer ${token}` };
      return (await gateway.request(portHost('demo', LOG_PORT), '/logs', { headers })).status;
    };
    const good = { 'https://example/env': 'demo', scp: 'logs', sub: 'user-1' };
    // 404: the token is good, and there is no such environment.
    assert.equal(await statusOf(good), 404);
    assert.equal(await statusOf({ ...good, aud: 'https://other.example' }), 401);
    assert.equal(await statusOf({ ...good, iss: 'https://other.example' }), 401);
    assert.equal(await statusOf({ env: 'demo', scope: 'logs' }), 401);
    assert.equal(await statusOf(good, 'JWT'), 401);
    assert.equal(await statusOf({ ...good, exp: Math.floor(Date.now() / 1_000) - 60 }), 401);
    assert.equal(await statusOf({ ...good, exp: Math.floor(Date.now() / 1_000) + 90_000 }), 401);
    assert.equal(await statusOf({ ...good, 'https://example/env': 'other' }), 403);
  });
});
