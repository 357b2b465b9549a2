/** Joining and renewing: who may have a membership. Knows nothing of HTTP. */
import type { Clock } from '../../../shared/src/clock.ts';
import { RefusedError } from '../../../shared/src/errors.ts';
import { joinPayload, renewPayload } from '../../../shared/src/identity/enrolment.ts';
import type { EnrolmentResponse, JoinRequest, RenewRequest } from '../../../shared/src/identity/enrolment.ts';
import { publicKeyFromJwk, verifySignature } from '../../../shared/src/identity/keys.ts';
import { CLOCK_TOLERANCE_MS, signMembership } from '../../../shared/src/identity/membership.ts';
import type { GatewayAddress } from '../../../shared/src/protocol/messages.ts';
import type { Directory, Runner } from '../directory/directory.ts';
import { createNonces } from './nonces.ts';

/** The same signed request came twice. */
export class ReplayedError extends Error {
  override readonly name = 'ReplayedError';
  readonly code = 'replayed';
  constructor() {
    super('This signed request was seen before. Sign a new one, with a new random id');
  }
}

export interface Enrolment {
  /** Both reject with RefusedError or ReplayedError. `audience` is the host the request came to. */
  join(audience: string, request: JoinRequest): Promise<EnrolmentResponse>;
  renew(audience: string, request: RenewRequest): Promise<EnrolmentResponse>;
}

/** The key of a join; undefined when it is spelled in an uncommon way. */
export const parseJoinKey = (x: string): Uint8Array | undefined => {
  try {
    return publicKeyFromJwk({ kty: 'OKP', crv: 'Ed25519', x });
  } catch {
    return undefined;
  }
};

export const createEnrolment = (deps: {
  readonly directory: Directory;
  readonly clock: Clock;
  readonly gateways: () => readonly GatewayAddress[];
  /** Where runners come from, if not from here. */
  readonly onlyIssuer?: string | undefined;
}): Enrolment => {
  const { directory, clock } = deps;
  const nonces = createNonces({ clock });

  const checkOrigin = (): void => {
    if (deps.onlyIssuer === undefined) return;
    throw new RefusedError('runner_unknown', { detail: `runners of this gateway come from ${deps.onlyIssuer}` });
  };
  const checkTime = (time: number): void => {
    const now = clock.now();
    if (Math.abs(time - now) > CLOCK_TOLERANCE_MS) throw new RefusedError('clock_skew', { serverTime: now });
  };

  const checkSignature = (publicKey: Uint8Array, payload: Uint8Array, signature: string): void => {
    if (verifySignature(publicKey, payload, Buffer.from(signature, 'base64url'))) return;
    throw new RefusedError('key_mismatch', {
      detail: 'the request was not signed with this key, or was signed for another gateway',
    });
  };

  const answer = async (runner: Runner, publicKey: Uint8Array): Promise<EnrolmentResponse> => {
    const { current, trust, issuer } = await directory.authority();
    const { id, organization } = runner;
    const membership = await signMembership(current, { id, organization, group: 'runner', publicKey }, { clock });
    return {
      runnerId: id,
      ...(organization === undefined ? {} : { organization }),
      membership,
      issuer,
      trust,
      gateways: [...deps.gateways()],
    };
  };

  /** Holds the nonce while the request is decided, and for good when it was granted. */
  const once = async <T>(request: RenewRequest, work: () => Promise<T>): Promise<T> => {
    const nonce = `${request.runnerId} ${request.nonce}`;
    if (!nonces.take(nonce)) throw new ReplayedError();
    try {
      return await work();
    } catch (error) {
      nonces.forget(nonce);
      throw error;
    }
  };

  return {
    async join(audience, request) {
      checkOrigin();
      checkTime(request.time);
      const publicKey = parseJoinKey(request.publicKey);
      if (!publicKey) throw new RefusedError('key_mismatch', { detail: 'the public key is not one of Ed25519' });
      checkSignature(publicKey, joinPayload(audience, request), request.signature);
      const { runnerId, exchangeToken } = request;
      return once(request, async () =>
        answer(await directory.enrol({ runnerId, exchangeToken, publicKey }), publicKey),
      );
    },
    async renew(audience, request) {
      checkOrigin();
      checkTime(request.time);
      const runner = await directory.runner(request.runnerId);
      if (!runner) throw new RefusedError('runner_unknown');
      const { publicKey } = runner;
      if (!publicKey)
        throw new RefusedError('key_mismatch', { detail: 'the runner has never joined: join with a token first' });
      checkSignature(publicKey, renewPayload(audience, request), request.signature);
      // Only who holds the key hears of the revocation.
      if (runner.revokedAt !== undefined) throw new RefusedError('revoked');
      return once(request, () => answer(runner, publicKey));
    },
  };
};
