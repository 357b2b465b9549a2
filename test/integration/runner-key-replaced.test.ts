/** `gateway runner token ID`: another key for a known runner, whose id and callback URLs stay. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'node:test';
import { createKey, privateKeyToJwk } from '../../shared/src/identity/keys.ts';
import { connectRunner } from '../../tunnel-client/src/client.ts';
import { portHost, startTestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream, until } from '../support/runner.ts';

/** Legs of a replaced key are cut within this, ms. */
const CUT_MS = 10_000;

it(
  'a new key replaces the old one, whose legs are cut, and the runner keeps its id',
  { timeout: 60_000 },
  async (t) => {
    const gateway = await startTestGateway();
    t.after(() => gateway.close());
    const upstream = await startUpstream((_request, response) => response.end('hello'));
    t.after(() => upstream.close());
    const stateDir = await mkdtemp(join(tmpdir(), 'runner-new-key-'));
    t.after(() => rm(stateDir, { recursive: true, force: true }));
    const old = await startTestRunner(gateway);
    t.after(() => old.close());
    const environment = { id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' as const }] };
    await old.announce(environment);
    const callbackUrl = old.client.callbackUrl('github');

    const { exchangeToken } = await gateway.gateway.directory.createExchangeToken(old.id);
    assert.equal(old.client.status().state, 'online', 'a token alone changes nothing');
    const key = createKey();
    const client = connectRunner({
      gateway: gateway.url,
      ca: gateway.ca,
      runnerId: old.id,
      exchangeToken,
      stateDir,
      key: JSON.stringify(privateKeyToJwk(key)),
      environments: [environment],
    });
    t.after(() => client.close());
    await client.ready({ signal: AbortSignal.timeout(20_000) });
    await until(() => old.client.status().legs.length === 0, CUT_MS);
    await until(() => old.client.status().problems.some(({ code }) => code === 'key_mismatch'));
    await until(async () => (await gateway.request(portHost('demo', upstream.port))).body === 'hello');
    assert.deepEqual(
      gateway.gateway.registry.legs().map(({ runnerId }) => runnerId),
      [old.id],
    );
    assert.equal(client.callbackUrl('github'), callbackUrl);
    assert.deepEqual(
      Buffer.from((await gateway.gateway.directory.runner(old.id))!.publicKey!),
      Buffer.from(key.publicKey),
    );
  },
);
