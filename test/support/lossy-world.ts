/** A gateway and runners on QUIC over a bad path, and bodies of which every byte is looked at. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import type { TestContext } from 'node:test';
import { type UdpPath, startGatewayBehindUdpPath } from './blocked-udp.ts';
import { portHost, type TestGateway } from './gateway.ts';
import { startTestRunner, startUpstream, type TestRunner } from './runner.ts';

/** The path that everything here has to stand, besides what it loses. */
export const ROUGH = { delayMs: 50, reorder: 0.02, duplicate: 0.01, corrupt: 0.005 } as const;
export const LOSSES = [0, 0.001, 0.01, 0.05] as const;

/** A megabyte takes half a minute each way, ms. */
const CARRY_TIMEOUT_MS = 180_000;

export interface LossyRunner extends TestRunner {
  /** Sends a body of `bytes` through the tunnel, which comes back, and compares SHA-256 at both ends. */
  carry(bytes: number): Promise<void>;
}

export interface LossyWorld {
  readonly gateway: TestGateway;
  readonly udp: UdpPath;
  startRunner(environmentId: string): Promise<LossyRunner>;
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export const startLossyWorld = async (t: TestContext): Promise<LossyWorld> => {
  const { gateway, udp, close } = await startGatewayBehindUdpPath();
  t.after(close);
  const seen: string[] = [];
  const upstream = await startUpstream((request, response) => {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      const body = Buffer.concat(parts);
      seen.push(sha256(body));
      response.end(body);
    });
  });
  t.after(() => upstream.close());
  return {
    gateway,
    udp,
    async startRunner(environmentId) {
      const runner = await startTestRunner(gateway, { transport: 'quic' });
      t.after(() => runner.close());
      const ports = [{ port: upstream.port, admission: 'everyone' as const }];
      assert.equal((await runner.announce({ id: environmentId, ports })).accepted, true);
      return {
        ...runner,
        async carry(bytes) {
          // Hexadecimal, since answers are read as text.
          const payload = randomBytes(bytes / 2).toString('hex');
          const answer = await gateway.request(portHost(environmentId, upstream.port), '/', {
            method: 'POST',
            payload,
            timeout: CARRY_TIMEOUT_MS,
          });
          assert.equal(answer.status, 200);
          assert.equal(sha256(Buffer.from(answer.body)), sha256(Buffer.from(payload)));
          assert.ok(seen.includes(sha256(Buffer.from(payload))), 'other bytes came to the upstream');
        },
      };
    },
  };
};
