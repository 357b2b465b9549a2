/** What a person or an old gateway gets wrong: the message says what to do, and the client goes on where that makes sense. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createKey } from '../../shared/src/identity/keys.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import { listenQuic } from '../../shared/src/transport/quic.ts';
import { connectRunner } from '../../tunnel-client/src/client.ts';
import { startTestGateway } from '../support/gateway.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { until } from '../support/runner.ts';

const never = new AbortController().signal;

/** A gateway of the future: it reads `hello`, and says goodbye with the versions that it speaks. */
const refuseVersion = async (connection: Connection): Promise<void> => {
  const stream = await connection.acceptStream({ signal: never });
  await stream.read();
  const goodbye = Buffer.from(JSON.stringify({ type: 'goodbye', code: 'protocol_version', supported: [2, 3] }));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(goodbye.length);
  await stream.write(Buffer.concat([length, goodbye]));
  await stream.finish();
};

describe('bad input to the tunnel client', () => {
  it('a gateway that speaks another protocol version', async (t) => {
    let dials = 0;
    const listener = await listenQuic({
      host: '127.0.0.1',
      port: 0,
      key: createKey(),
      onConnection: (connection) => {
        dials += 1;
        refuseVersion(connection).catch(() => undefined);
      },
    });
    t.after(() => listener.close());
    const gateway = await startTestGateway({
      config: { advertise: { quic: [`127.0.0.1:${listener.address.port}`], tcp: [] } },
    });
    t.after(() => gateway.close());
    const { runner, exchangeToken } = await gateway.gateway.directory.createRunner({ name: 'old' });
    const client = connectRunner({
      ...{ gateway: gateway.url, runnerId: runner.id, exchangeToken, ca: gateway.ca },
      stateDir: await temporaryDirectory(t),
    });
    t.after(() => client.close());
    await until(() => client.status().problems.length > 0);
    const [problem] = client.status().problems;
    // The double shows no membership: who it is, nobody asks before the versions agree.
    assert.equal(problem?.code, 'protocol_version');
    assert.match(problem.message, /^protocol_version: Gateway and tunnel client share no protocol version/);
    assert.ok(Number(problem.retryInMs) > 0, 'it is tried again');
    assert.equal(client.status().state, 'connecting');
    assert.equal(dials, 1, 'and not hammered at: every other way would lead to the same gateway');
  });

  it('options that cannot be right are thrown at once', () => {
    const options = { gateway: 'https://api.gateway.example', runnerId: 'runner-1', stateDir: '/nonexistent' };
    const fails = (more: object, message: RegExp): void =>
      assert.throws(() => connectRunner({ ...options, ...more }), { name: 'RangeError', message });
    fails({ ca: 'nothing' }, /^the text given as `ca` holds no certificate in PEM: it has no line -----BEGIN CERT/);
    fails(
      { ca: '-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----' },
      /holds a private key and no certificate/,
    );
    fails({ ca: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----' }, /certificate 1 of 1 is broken/);
    fails(
      { transport: 'carrier-pigeon' },
      /"carrier-pigeon" is no transport: it is one of auto, quic, webtransport, websocket/,
    );
  });
});
