import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { afterEach, beforeEach, describe, it } from 'node:test';
import fastify, { type FastifyInstance } from 'fastify';
import {
  apiErrorSchema,
  enrolmentResponseSchema,
  gatewaysResponseSchema,
  GATEWAYS_PATH,
  JOIN_PATH,
  joinPayload,
  RENEW_PATH,
  renewPayload,
  type EnrolmentResponse,
} from '../../shared/src/identity/enrolment.ts';
import { createKey, keyFingerprint, sign, type IdentityKey } from '../../shared/src/identity/keys.ts';
import { CLOCK_TOLERANCE_MS, MEMBERSHIP_LIFETIME_MS, verifyMembership } from '../../shared/src/identity/membership.ts';
import { addressKey, ATTEMPT_WINDOW_MS } from '../../gateway/src/api/attempts.ts';
import { registerApi } from '../../gateway/src/api/api.ts';
import { NONCE_LIFETIME_MS } from '../../gateway/src/api/nonces.ts';
import { EXCHANGE_TOKEN_LIFETIME_MS, type Directory } from '../../gateway/src/directory/directory.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { GATEWAY_LIMITS } from '../../gateway/src/limits.ts';
import { createLogger } from '../../gateway/src/observability/log.ts';
import { createManualClock, type ManualClock } from '../support/manual-clock.ts';

const AUDIENCE = 'api.gateway.test';
const GATEWAYS = [{ id: 'gw-1', quic: ['198.51.100.7:4242'] }];

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

interface LogLine extends Record<string, unknown> {
  readonly level: string;
  readonly msg: string;
}

describe('API', { timeout: 60_000 }, () => {
  let base: string;
  let clock: ManualClock;
  let directory: Directory;
  let app: FastifyInstance;
  let lines: LogLine[];
  let results: string[];
  let renewals: string[];
  let clientAddress: string;

  beforeEach(async () => {
    base = await mkdtemp(join(tmpdir(), 'api-'));
    clock = createManualClock();
    directory = await openEmbeddedDirectory({ clock }, { path: join(base, 'd.sqlite'), issuer: `https://${AUDIENCE}` });
    [lines, results, renewals, clientAddress] = [[], [], [], '192.0.2.1'];
    const destination = new Writable({
      write(chunk: Buffer, _encoding, done) {
        for (const line of chunk.toString().trim().split('\n')) lines.push(JSON.parse(line) as LogLine);
        done();
      },
    });
    app = fastify({ logger: false });
    registerApi(app, {
      directory,
      clock,
      log: createLogger({ level: 'debug', destination }),
      gateways: () => GATEWAYS,
      audiences: [AUDIENCE, 'api.second.test'],
      limits: GATEWAY_LIMITS,
      clientAddress: () => clientAddress,
      onJoin: (result) => results.push(result),
      onRenew: (result) => renewals.push(result),
    });
    await app.listen({ host: '127.0.0.1', port: 0 });
  });
  afterEach(async () => {
    await app.close();
    await directory.close();
    await rm(base, { recursive: true });
  });

  const send = (method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const { port } = app.server.address() as AddressInfo;
      const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
      const content = text === undefined ? {} : { 'content-type': 'application/json' };
      const request = httpRequest(
        {
          host: '127.0.0.1',
          port,
          method,
          path,
          agent: false,
          headers: { host: `${AUDIENCE}:8443`, ...content, ...headers },
        },
        (response) => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('end', () =>
            resolve({
              status: response.statusCode!,
              headers: response.headers,
              text: Buffer.concat(chunks).toString(),
            }),
          );
          response.on('error', reject);
        },
      );
      request.on('error', reject);
      request.end(text);
    });

  const nonce = (): string => randomBytes(32).toString('base64url');
  const joinBody = (
    runnerId: string,
    exchangeToken: string,
    key: IdentityKey,
    over: { time?: number; audience?: string; signer?: IdentityKey } = {},
  ) => {
    const publicKey = Buffer.from(key.publicKey).toString('base64url');
    const request = { runnerId, exchangeToken, publicKey, time: over.time ?? clock.now(), nonce: nonce() };
    const payload = joinPayload(over.audience ?? AUDIENCE, request);
    return { ...request, signature: Buffer.from(sign(over.signer ?? key, payload)).toString('base64url') };
  };
  const renewBody = (runnerId: string, key: IdentityKey, over: { time?: number; audience?: string } = {}) => {
    const request = { runnerId, time: over.time ?? clock.now(), nonce: nonce() };
    const payload = renewPayload(over.audience ?? AUDIENCE, request);
    return { ...request, signature: Buffer.from(sign(key, payload)).toString('base64url') };
  };
  const granted = (answer: Answer): EnrolmentResponse => {
    assert.equal(answer.status, 200, answer.text);
    return enrolmentResponseSchema.parse(JSON.parse(answer.text));
  };
  const refused = (answer: Answer, status: number, code: string) => {
    const { error } = apiErrorSchema.parse(JSON.parse(answer.text));
    assert.deepEqual([answer.status, error.code], [status, code], answer.text);
    assert.equal(answer.headers['cache-control'], 'no-store');
    assert.match(String(answer.headers['content-type']), /^application\/json/);
    assert.ok(error.requestId);
    return error;
  };
  const joined = async () => {
    const { runner, exchangeToken } = await directory.createRunner({ name: 'one', organization: 'acme' });
    const key = createKey();
    granted(await send('POST', JOIN_PATH, joinBody(runner.id, exchangeToken, key)));
    return { id: runner.id, exchangeToken, key };
  };

  it('gives a runner that joins a membership for its key, the keys to trust, and the gateways', async () => {
    const { runner, exchangeToken } = await directory.createRunner({ name: 'one', organization: 'acme' });
    const key = createKey();
    const answer = await send('POST', JOIN_PATH, joinBody(runner.id, exchangeToken, key));
    const { runnerId, organization, membership, issuer, trust, gateways } = granted(answer);
    assert.deepEqual([runnerId, organization, gateways], [runner.id, 'acme', GATEWAYS]);
    assert.equal(answer.headers['cache-control'], 'no-store');
    const verified = await verifyMembership(
      membership,
      { trust, issuer, group: 'runner', peerKey: key.publicKey },
      { clock },
    );
    assert.deepEqual([verified.id, verified.organization], [runner.id, 'acme']);
    assert.deepEqual(results, ['ok']);
  });

  it('gives the same runner a membership again, as an answer may get lost', async () => {
    const { id, exchangeToken, key } = await joined();
    granted(await send('POST', JOIN_PATH, joinBody(id, exchangeToken, key)));
  });

  it('serves each of its hosts, and signatures count for the host that was asked', async () => {
    const { runner, exchangeToken } = await directory.createRunner({ name: 'one' });
    const key = createKey();
    const body = joinBody(runner.id, exchangeToken, key, { audience: 'api.second.test' });
    refused(await send('POST', JOIN_PATH, body), 403, 'key_mismatch');
    granted(await send('POST', JOIN_PATH, body, { host: 'API.second.test.' }));
    const foreign = joinBody(runner.id, exchangeToken, key, { audience: 'api.foreign.test' });
    refused(await send('POST', JOIN_PATH, foreign, { host: 'api.foreign.test' }), 421, 'misdirected');
    refused(await send('GET', GATEWAYS_PATH, undefined, { host: 'gateway.test' }), 421, 'misdirected');
  });

  it('refuses a join with its reason', async () => {
    const one = await directory.createRunner({ name: 'one' });
    const two = await directory.createRunner({ name: 'two' });
    const { exchangeToken } = one;
    const { id } = one.runner;
    const key = createKey();
    const attempt = (body: unknown) => send('POST', JOIN_PATH, body);
    refused(await attempt(joinBody('nobody', exchangeToken, key)), 404, 'runner_unknown');
    refused(await attempt(joinBody(id, 'gpx_wrong', key)), 401, 'token_invalid');
    refused(await attempt(joinBody(two.runner.id, exchangeToken, key)), 403, 'runner_mismatch');
    refused(await attempt(joinBody(id, exchangeToken, key, { signer: createKey() })), 403, 'key_mismatch');
    // Nothing of a signed request can be changed.
    const signed = joinBody(id, exchangeToken, key);
    refused(await attempt({ ...signed, nonce: nonce() }), 403, 'key_mismatch');
    refused(await attempt({ ...signed, time: signed.time + 1 }), 403, 'key_mismatch');
    const otherKey = Buffer.from(createKey().publicKey).toString('base64url');
    refused(await attempt({ ...signed, publicKey: otherKey }), 403, 'key_mismatch');
    assert.equal((await directory.runner(id))!.publicKey, undefined);

    granted(await attempt(signed));
    refused(await attempt(joinBody(id, exchangeToken, createKey())), 401, 'token_used');
    await clock.advance(EXCHANGE_TOKEN_LIFETIME_MS);
    refused(await attempt(joinBody(two.runner.id, two.exchangeToken, key)), 401, 'token_expired');
    await directory.revokeRunner(id);
    refused(await attempt(joinBody(id, exchangeToken, key)), 403, 'revoked');
    assert.deepEqual(results.slice(-4), ['ok', 'token_used', 'token_expired', 'revoked']);
  });

  it('lets exactly one of several joins at once win', async () => {
    const { runner, exchangeToken } = await directory.createRunner({ name: 'one' });
    const keys = Array.from({ length: 10 }, createKey);
    const answers = await Promise.all(
      keys.map((key) => send('POST', JOIN_PATH, joinBody(runner.id, exchangeToken, key))),
    );
    const winner = answers.findIndex(({ status }) => status === 200);
    answers.forEach((answer, index) => {
      if (index === winner) granted(answer);
      else refused(answer, 401, 'token_used');
    });
    const pinned = (await directory.runner(runner.id))!.publicKey!;
    assert.equal(keyFingerprint(pinned), keyFingerprint(keys[winner]!.publicKey));
  });

  it('renews with the key alone, also long after the last membership expired', async () => {
    const { id, key } = await joined();
    const issuer = `https://${AUDIENCE}`;
    for (const laterMs of [MEMBERSHIP_LIFETIME_MS / 2, MEMBERSHIP_LIFETIME_MS * 7]) {
      clock.setWall(clock.now() + laterMs);
      const { membership, trust } = granted(await send('POST', RENEW_PATH, renewBody(id, key)));
      const expected = { trust, issuer, group: 'runner', peerKey: key.publicKey } as const;
      const { expiresAt } = await verifyMembership(membership, expected, { clock });
      assert.equal(expiresAt, clock.now() + MEMBERSHIP_LIFETIME_MS);
    }
    assert.deepEqual(renewals, ['ok', 'ok']);
  });

  it('refuses a renewal with its reason', async () => {
    const { id, key } = await joined();
    const attempt = (body: unknown) => send('POST', RENEW_PATH, body);
    refused(await attempt(renewBody('nobody', key)), 404, 'runner_unknown');
    refused(await attempt(renewBody(id, createKey())), 403, 'key_mismatch');
    refused(await attempt(renewBody(id, key, { audience: 'api.other.test' })), 403, 'key_mismatch');
    const fresh = await directory.createRunner({ name: 'never joined' });
    refused(await attempt(renewBody(fresh.runner.id, key)), 403, 'key_mismatch');

    // Enrolled again with another key: the old one is worth nothing.
    const { exchangeToken } = await directory.createExchangeToken(id);
    const newKey = createKey();
    granted(await send('POST', JOIN_PATH, joinBody(id, exchangeToken, newKey)));
    refused(await attempt(renewBody(id, key)), 403, 'key_mismatch');
    granted(await attempt(renewBody(id, newKey)));

    await directory.revokeRunner(id);
    refused(await attempt(renewBody(id, newKey)), 403, 'revoked');
    refused(await attempt(renewBody(id, createKey())), 403, 'key_mismatch');
    assert.deepEqual(renewals.slice(-3), ['ok', 'revoked', 'key_mismatch']);
  });

  it('says what time it is when clocks differ by more than 30 s', async () => {
    const { id, key } = await joined();
    for (const skewMs of [CLOCK_TOLERANCE_MS, -CLOCK_TOLERANCE_MS]) {
      granted(await send('POST', RENEW_PATH, renewBody(id, key, { time: clock.now() + skewMs })));
    }
    for (const skewMs of [CLOCK_TOLERANCE_MS + 1, -CLOCK_TOLERANCE_MS - 1, 300_000]) {
      const answer = await send('POST', RENEW_PATH, renewBody(id, key, { time: clock.now() + skewMs }));
      assert.equal(refused(answer, 400, 'clock_skew').serverTime, clock.now());
    }
  });

  it('takes a signed request once', async () => {
    const { id, key } = await joined();
    const { runner, exchangeToken } = await directory.createRunner({ name: 'two' });
    const join = joinBody(runner.id, exchangeToken, key);
    const renew = renewBody(id, key);
    granted(await send('POST', JOIN_PATH, join));
    refused(await send('POST', JOIN_PATH, join), 400, 'replayed');
    const answers = await Promise.all([send('POST', RENEW_PATH, renew), send('POST', RENEW_PATH, renew)]);
    assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 400]);
    // Once its memory ends, its time is long past.
    await clock.advance(NONCE_LIFETIME_MS);
    refused(await send('POST', RENEW_PATH, renew), 400, 'clock_skew');
  });

  it('does not use a nonce up for a request that was refused', async () => {
    const { id, key } = await joined();
    const { runner, exchangeToken } = await directory.createRunner({ name: 'two' });
    await directory.revokeRunner(runner.id);
    const body = joinBody(runner.id, exchangeToken, key);
    refused(await send('POST', JOIN_PATH, body), 403, 'revoked');
    refused(await send('POST', JOIN_PATH, body), 403, 'revoked');
    assert.notEqual(id, runner.id);
  });

  it('stops a runner after 20 attempts in ten minutes, and no other runner', async () => {
    const [one, two] = [await joined(), await joined()];
    for (let attempt = 1; attempt < GATEWAY_LIMITS.apiAttemptsPerRunner; attempt++) {
      granted(await send('POST', RENEW_PATH, renewBody(one.id, one.key)));
    }
    const answer = await send('POST', RENEW_PATH, renewBody(one.id, one.key));
    const { retryAfterMs } = refused(answer, 429, 'limit');
    assert.equal(retryAfterMs, ATTEMPT_WINDOW_MS);
    assert.equal(answer.headers['retry-after'], String(ATTEMPT_WINDOW_MS / 1_000));
    granted(await send('POST', RENEW_PATH, renewBody(two.id, two.key)));
    // Whoever knows the id of a runner cannot lock it out from elsewhere.
    clientAddress = '192.0.2.2';
    granted(await send('POST', RENEW_PATH, renewBody(one.id, one.key)));
    clientAddress = '192.0.2.1';
    await clock.advance(ATTEMPT_WINDOW_MS);
    granted(await send('POST', RENEW_PATH, renewBody(one.id, one.key)));
  });

  it('stops an address that asks for ever new runners', async () => {
    const { id, key } = await joined();
    const join = joinBody('nobody', 'x', key);
    for (let attempt = 1; attempt < GATEWAY_LIMITS.apiAttemptsPerAddress; attempt++) {
      const answer = await send('POST', JOIN_PATH, { ...join, runnerId: `nobody-${attempt}` });
      refused(answer, 403, 'key_mismatch');
    }
    refused(await send('POST', RENEW_PATH, renewBody(id, key)), 429, 'limit');
    clientAddress = '2001:db8::1';
    granted(await send('POST', RENEW_PATH, renewBody(id, key)));
  });

  it('answers "unavailable" while the directory is away, and says when to come again', async () => {
    const { id, key } = await joined();
    const body = renewBody(id, key);
    await directory.close();
    const answer = await send('POST', RENEW_PATH, body);
    assert.ok(refused(answer, 503, 'unavailable').retryAfterMs);
    assert.match(String(answer.headers['retry-after']), /^\d+$/);
    assert.equal(lines.at(-1)!.level, 'error');
  });

  it('refuses what is no request of the API, and says what is wrong with it', async () => {
    const key = createKey();
    const good = joinBody('runner', 'token', key);
    const wrong: [unknown, RegExp][] = [
      [{}, /runnerId.*time.*nonce.*signature/],
      [{ ...good, nonce: 'short' }, /nonce: must be 32 bytes/],
      [{ ...good, time: 'now' }, /time/],
      [{ ...good, exchangeToken: 'x'.repeat(300) }, /exchangeToken/],
      [[], /body/],
      ['null', /body/],
      ['{', /JSON/],
    ];
    for (const [body, message] of wrong) {
      assert.match(refused(await send('POST', JOIN_PATH, body), 400, 'bad_request').message, message);
    }
    refused(
      await send('POST', JOIN_PATH, JSON.stringify({ ...good, pad: 'x'.repeat(16 << 10) })),
      413,
      'body_too_large',
    );
    const form = { 'content-type': 'application/x-www-form-urlencoded' };
    refused(await send('POST', JOIN_PATH, 'a=b', form), 415, 'unsupported_media_type');
    for (const method of ['GET', 'PUT', 'DELETE', 'OPTIONS']) {
      const answer = await send(method, JOIN_PATH);
      refused(answer, 405, 'method_not_allowed');
      assert.equal(answer.headers.allow, 'POST');
    }
    refused(await send('POST', GATEWAYS_PATH, {}), 405, 'method_not_allowed');
  });

  it('lists the gateways', async () => {
    const answer = await send('GET', GATEWAYS_PATH);
    assert.equal(answer.status, 200);
    assert.equal(answer.headers['cache-control'], 'no-store');
    const { issuer, trust } = await directory.authority();
    assert.deepEqual(gatewaysResponseSchema.parse(JSON.parse(answer.text)), { gateways: GATEWAYS, issuer, trust });
    assert.doesNotMatch(answer.text, /"d"/, 'public keys alone');
  });

  it('logs each refusal as a warning with runner and key, and never a token or signature', async () => {
    const { id, exchangeToken, key } = await joined();
    const stranger = createKey();
    const unused = (await directory.createRunner({ name: 'two' })).exchangeToken;
    const bodies = [
      joinBody(id, exchangeToken, stranger),
      joinBody(id, unused, stranger),
      joinBody('nobody', unused, stranger),
    ];
    for (const body of bodies) await send('POST', JOIN_PATH, body);
    await send('POST', RENEW_PATH, renewBody(id, stranger));
    const warnings = lines.filter(({ level }) => level === 'warn');
    assert.deepEqual(
      warnings.map(({ code, runnerId, key: shown }) => [code, runnerId, shown]),
      [
        ['token_used', id, keyFingerprint(stranger.publicKey)],
        ['runner_mismatch', id, keyFingerprint(stranger.publicKey)],
        ['runner_unknown', 'nobody', keyFingerprint(stranger.publicKey)],
        ['key_mismatch', id, undefined],
      ],
    );
    assert.equal(warnings.at(-1)!['recordedKey'], keyFingerprint(key.publicKey));
    const text = JSON.stringify(lines);
    assert.ok(text.includes(id));
    for (const secret of [exchangeToken, unused, ...bodies.map(({ signature }) => signature)]) {
      assert.ok(!text.includes(secret));
    }
  });
});

describe('addresses that count as one client', () => {
  it('are an IPv4 address, however it is written, or a /64 of IPv6', () => {
    assert.equal(addressKey('192.0.2.1'), addressKey('::ffff:192.0.2.1'));
    assert.notEqual(addressKey('192.0.2.1'), addressKey('192.0.2.2'));
    assert.equal(addressKey('2001:db8:1:2::1'), addressKey('2001:0db8:0001:0002:ffff::9'));
    assert.notEqual(addressKey('2001:db8:1:2::1'), addressKey('2001:db8:1:3::1'));
    assert.equal(addressKey('fe80::1%eth0'), 'fe80:0:0:0::/64');
    assert.equal(addressKey('::1'), '0:0:0:0::/64');
  });
});
