/** Somebody else who signs memberships and tokens: keys of its own, told over HTTPS by a server of the test. */
import { once } from 'node:events';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { exportJWK, generateKeyPair, SignJWT, type CryptoKey, type JWK, type JWTPayload } from 'jose';
import { publicKeyToJwk } from '../../shared/src/identity/keys.ts';
import { makeTestCertificate } from './certificate.ts';

export interface OutsideAuthority {
  readonly issuer: string;
  readonly jwksUri: string;
  /** PEM. */
  readonly ca: string;
  /** How often its keys were asked for. */
  readonly asked: () => number;
  /** While it is away it answers 503. */
  isAway: boolean;
  /** Signs with a new key from now on; the old one is told as well unless `alone`. */
  rotate(options?: { readonly alone?: boolean }): Promise<void>;
  sign(payload: JWTPayload, typ: string): Promise<string>;
  /** What a runner of it shows. */
  membership(runner: { id: string; organization: string; publicKey: Uint8Array }, over?: JWTPayload): Promise<string>;
  close(): Promise<void>;
}

export const AUDIENCE = 'https://api.gateway.localhost';
const HOUR_S = 3_600;

/** ES256, as many have it, so that nothing rests on the algorithm of the cluster itself. */
export const startOutsideAuthority = async (): Promise<OutsideAuthority> => {
  const { certificate, key } = await makeTestCertificate('localhost');
  let asked = 0;
  let published: JWK[] = [];
  let current: { kid: string; privateKey: CryptoKey };
  let count = 0;
  const server = createServer({ cert: certificate, key }, (request, response) => {
    asked += 1;
    if (authority.isAway || request.url !== '/keys') response.statusCode = 503;
    response.setHeader('connection', 'close');
    response.end(JSON.stringify({ keys: published }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const issuer = 'https://id.example';

  const authority: OutsideAuthority = {
    issuer,
    jwksUri: `https://localhost:${port}/keys`,
    ca: certificate,
    asked: () => asked,
    isAway: false,
    async rotate({ alone = false } = {}) {
      count += 1;
      const kid = `key-${count}`;
      const { publicKey, privateKey } = await generateKeyPair('ES256', { extractable: true });
      const jwk = { ...(await exportJWK(publicKey)), kid, alg: 'ES256', use: 'sig' };
      published = alone ? [jwk] : [jwk, ...published];
      current = { kid, privateKey };
    },
    async sign(payload, typ) {
      const { kid, privateKey } = current;
      const iat = Math.floor(Date.now() / 1_000);
      return new SignJWT({ iss: issuer, aud: AUDIENCE, iat, exp: iat + HOUR_S, jti: `jti-${(count += 1)}`, ...payload })
        .setProtectedHeader({ alg: 'ES256', typ, kid })
        .sign(privateKey);
    },
    membership: ({ id, organization, publicKey }, over = {}) =>
      authority.sign(
        {
          sub: `org:${organization}/rnr:${id}`,
          groups: ['runner'],
          cnf: { jwk: { ...publicKeyToJwk(publicKey) } },
          ...over,
        },
        'membership+jwt',
      ),
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
  await authority.rotate();
  return authority;
};
