/** Who may open the ports of a world that has no directory: whoever may open what is open to everyone, and nobody else. */
import type { Logger } from 'pino';
import { systemClock } from '../../shared/src/clock.ts';
import { createPortGate, type PortGate } from '../../gateway/src/access/port-gate.ts';
import { TokenError } from '../../gateway/src/access/signing-keys.ts';
import type { EnvironmentRoute } from '../../gateway/src/tunnels/route.ts';

export const createEveryoneGate = (deps: {
  readonly route: (environmentId: string) => EnvironmentRoute | Promise<EnvironmentRoute>;
  readonly log: Logger;
}): PortGate =>
  createPortGate({
    ...deps,
    policy: () => undefined,
    tokens: { verify: () => Promise.reject(new TokenError('invalid')) },
    revocations: { isRevoked: () => false },
    blocks: { isBlocked: () => false },
    origins: () => ({ sameCreator: false, origins: [] }),
    clock: systemClock,
  });
