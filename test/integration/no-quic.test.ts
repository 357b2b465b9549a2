/** The platform's QUIC package is not there: gateway and client start, say so in one sentence, and work over TCP. */
import assert from 'node:assert/strict';
import { registerHooks } from 'node:module';
import { describe, it } from 'node:test';
import { portHost, startTestGateway } from '../support/gateway.ts';
import { startTestRunner, startUpstream } from '../support/runner.ts';

const MISSING =
  /^QUIC needs the package @chainsafe\/libp2p-quic-\S+, which is not installed: npm install @chainsafe\/\S+@\d+\.\d+\.\d+$/;

/** Hides the package from `require`, as if it had been left out of the installation. */
const hideQuic = (): { deregister(): void } =>
  registerHooks({
    resolve(specifier, context, next) {
      if (!specifier.startsWith('@chainsafe/libp2p-quic-')) return next(specifier, context);
      throw Object.assign(new Error(`Cannot find module '${specifier}'`), { code: 'MODULE_NOT_FOUND' });
    },
  });

describe('without the QUIC package', () => {
  it('gateway and client start, say what to install, and work over TCP', async (t) => {
    const hidden = hideQuic();
    t.after(() => hidden.deregister());
    const upstream = await startUpstream((_request, response) => response.end('hello'));
    t.after(() => upstream.close());
    const gateway = await startTestGateway({ config: { advertise: { quic: ['127.0.0.1:9'], tcp: [] } } });
    t.after(() => gateway.close());
    const line = gateway.lines.find(({ msg }) => msg === 'no tunnels over UDP');
    assert.match(String(line?.['reason']), MISSING);
    assert.deepEqual(gateway.gateway.addresses.quic, []);

    const said: string[] = [];
    const log = (fields: { err?: unknown }): void =>
      void (fields.err instanceof Error && said.push(fields.err.message));
    const runner = await startTestRunner(gateway, { logger: { debug() {}, info() {}, warn: log, error: log } });
    t.after(() => runner.close());
    assert.equal(said.filter((message) => MISSING.test(message)).length, 1, said.join('\n'));
    assert.equal(said.length, 1, said.join('\n'));
    assert.match(runner.client.status().problems[0]?.message ?? '', MISSING);
    await runner.announce({ id: 'demo', ports: [{ port: upstream.port, admission: 'everyone' }] });
    assert.equal((await gateway.request(portHost('demo', upstream.port))).body, 'hello');
    const [leg] = runner.client.status().legs;
    assert.deepEqual([leg?.transport, leg?.reason], ['webtransport', 'quic_failed']);
  });
});
