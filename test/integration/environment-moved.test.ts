/** `gateway environment move`: what is open at the runner of before ends, and the new one serves. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { it } from 'node:test';
import { portHost, startTestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream, until } from '../support/runner.ts';

/** Streams to a name that was moved are cut within this, ms. */
const CUT_MS = 10_000;

it('streams of a name that was moved are cut, and the new runner serves it', { timeout: 60_000 }, async (t) => {
  const gateway = await startTestGateway();
  t.after(() => gateway.close());
  const upstreams = await Promise.all(
    ['one', 'two'].map((name) =>
      startUpstream((incoming, response) => {
        response.write(name);
        if (incoming.url !== '/events') response.end();
      }),
    ),
  );
  for (const upstream of upstreams) t.after(() => upstream.close());
  const [one, two] = await Promise.all([
    startTestRunner(gateway, { organization: 'acme' }),
    startTestRunner(gateway, { organization: 'acme' }),
  ]);
  t.after(() => Promise.all([one.close(), two.close()]));
  const { port: portOfOne } = upstreams[0]!;
  const { port: portOfTwo } = upstreams[1]!;
  const exposed = (port: number) => [{ port, admission: 'everyone' as const }];
  await one.announce({ id: 'demo', ports: exposed(portOfOne) });
  const refused = await two.announce({ id: 'demo', ports: exposed(portOfTwo) });
  assert.equal(refused.code, 'claimed');

  const opened = httpsRequest({
    host: '127.0.0.1',
    port: gateway.httpsPort,
    servername: portHost('demo', portOfOne),
    path: '/events',
    agent: false,
    rejectUnauthorized: false,
    headers: { host: `${portHost('demo', portOfOne)}:${gateway.httpsPort}` },
  });
  opened.end();
  const [events] = (await once(opened, 'response')) as [IncomingMessage];
  let isOpen = true;
  events.on('error', () => undefined);
  events.once('close', () => (isOpen = false));
  await once(events, 'data');
  events.resume();

  await gateway.gateway.directory.moveEnvironment('demo', two.id);
  await until(() => !isOpen, CUT_MS);
  assert.equal(events.complete, false, 'a cut does not look like an end');
  // The runner that has it now announces it again by itself, at the latest with its next change.
  two.client.environments.set({ id: 'demo', creator: 'u1', ports: exposed(portOfTwo) });
  await until(async () => (await gateway.request(portHost('demo', portOfTwo))).body === 'two');
});
