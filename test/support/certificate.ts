/** A certificate for servers of a test, signed by itself. */
import { makeSelfSignedCertificate } from '../../gateway/src/edge/self-signed-certificate.ts';

const DAY_MS = 24 * 3_600_000;

/** Valid since yesterday, until tomorrow. PEM. */
export const makeTestCertificate = (...names: readonly string[]): ReturnType<typeof makeSelfSignedCertificate> => {
  const now = Date.now();
  return makeSelfSignedCertificate({ names, notBefore: now - DAY_MS, notAfter: now + DAY_MS });
};
