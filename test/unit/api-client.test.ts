/** The client of the gateway's API: which address it uses, and what it says when none answers. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '../../shared/src/clock.ts';
import { GATEWAYS_PATH, gatewaysResponseSchema } from '../../shared/src/identity/enrolment.ts';
import { createApiClient, UnreachableError, type ApiClient } from '../../tunnel-client/src/api-client.ts';
import type { ResolvedAddress } from '../../tunnel-client/src/happy-eyeballs.ts';
import { createOutbound } from '../../tunnel-client/src/outbound.ts';
import { NO_PROXY_SETTINGS } from '../../tunnel-client/src/proxy-settings.ts';
import { parseGatewayUrl } from '../../tunnel-client/src/gateway-url.ts';
import { makeTestCertificate } from '../support/certificate.ts';

const HOST = 'api.gateway.test';
/** Longer than one address is alone in a race, here (250 ms) and in Node itself (500 ms). */
const STALL_MS = 700;
const never = new AbortController().signal;

const block = (ms: number): void => {
  const end = performance.now() + ms;
  while (performance.now() < end);
};

describe('API client', () => {
  let server: Server;
  let port: number;
  let ca: string;
  before(async () => {
    const pair = await makeTestCertificate(HOST);
    ca = pair.certificate;
    server = createServer({ cert: pair.certificate, key: pair.key }, (request, response) => {
      response.end(JSON.stringify({ gateways: [{ id: String(request.headers.host), quic: ['api.gateway.test:1'] }] }));
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    ({ port } = server.address() as AddressInfo);
  });
  after(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  });

  const clientFor = (
    addresses: readonly ResolvedAddress[],
    options: { name?: string; onResolved?: () => void } = {},
  ): ApiClient =>
    createApiClient(
      {
        clock: systemClock,
        outbound: createOutbound(
          {
            clock: systemClock,
            resolver: {
              resolve() {
                options.onResolved?.();
                return Promise.resolve(addresses);
              },
              forget: () => undefined,
            },
          },
          { ca, proxy: NO_PROXY_SETTINGS },
        ),
      },
      { url: parseGatewayUrl(`https://${options.name ?? HOST}:${port}`), userAgent: 'test' },
    );
  const ask = (client: ApiClient) => client.get(GATEWAYS_PATH, gatewaysResponseSchema, { signal: never });
  const FOUR: ResolvedAddress = { address: '127.0.0.1', family: 4 };
  /** Nothing listens there. */
  const ELSEWHERE: ResolvedAddress = { address: '127.0.0.9', family: 4 };

  it('asks by name, at any address that answers', async () => {
    for (const addresses of [[FOUR], [ELSEWHERE, FOUR], [FOUR, ELSEWHERE]]) {
      const { gateways } = await ask(clientFor(addresses));
      assert.equal(gateways[0]?.id, `${HOST}:${port}`);
    }
  });

  it('does not give up an address that is slow because another one is wrong', async () => {
    // The connection is made while this program is held up: it learns of it later than of the end of the delay.
    const client = clientFor([FOUR, ELSEWHERE], { onResolved: () => setImmediate(() => block(STALL_MS)) });
    const { gateways } = await ask(client);
    assert.equal(gateways[0]?.id, `${HOST}:${port}`);
  });

  it('says which addresses were tried, and why each failed', async () => {
    await assert.rejects(ask(clientFor([ELSEWHERE])), (error: Error) => {
      assert.ok(error instanceof UnreachableError);
      assert.match(error.message, new RegExp(`${GATEWAYS_PATH} \\(tried 127\\.0\\.0\\.9:${port}\\): .*ECONNREFUSED`));
      return true;
    });
    await assert.rejects(ask(clientFor([FOUR], { name: 'api.other.test' })), /its certificate is for another name/);
  });

  it('ends a request with the signal', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    const asked = clientFor([FOUR], { onResolved: () => controller.abort(reason) }).get(
      GATEWAYS_PATH,
      gatewaysResponseSchema,
      { signal: controller.signal },
    );
    await assert.rejects(asked, reason);
  });
});
