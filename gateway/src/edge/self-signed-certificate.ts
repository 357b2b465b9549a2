/**
 * One self-signed X.509 v3 certificate (RFC 5280), written down in DER by hand: it is a constant form with five values,
 * and Node's own crypto can sign but not make certificates.
 */
import { createHash, generateKeyPairSync, randomBytes, sign } from 'node:crypto';

const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  utf8String: 0x0c,
  utcTime: 0x17,
  sequence: 0x30,
  set: 0x31,
  dnsName: 0x82,
  version: 0xa0,
  extensions: 0xa3,
} as const;

/** Tag, length (X.690 section 8.1.3) and content. */
const der = (tag: number, ...content: readonly Buffer[]): Buffer => {
  const body = Buffer.concat(content);
  const { length } = body;
  const head = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...head]), body]);
};
const sequence = (...content: readonly Buffer[]): Buffer => der(TAG.sequence, ...content);
const bits = (content: Buffer, unused = 0): Buffer => der(TAG.bitString, Buffer.from([unused]), content);

/** Encoded object identifiers. */
const OID = {
  commonName: Buffer.from([0x55, 0x04, 0x03]),
  ecdsaWithSha256: Buffer.from([0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]),
  subjectKeyIdentifier: Buffer.from([0x55, 0x1d, 0x0e]),
  keyUsage: Buffer.from([0x55, 0x1d, 0x0f]),
  subjectAltName: Buffer.from([0x55, 0x1d, 0x11]),
  basicConstraints: Buffer.from([0x55, 0x1d, 0x13]),
  extendedKeyUsage: Buffer.from([0x55, 0x1d, 0x25]),
  serverAuth: Buffer.from([0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01]),
} as const;

const oid = (name: keyof typeof OID): Buffer => der(TAG.oid, OID[name]);
const extension = (name: keyof typeof OID, value: Buffer, critical = false): Buffer =>
  sequence(oid(name), ...(critical ? [der(TAG.boolean, Buffer.from([0xff]))] : []), der(TAG.octetString, value));

/** `YYMMDDhhmmssZ`, for years before 2050 (RFC 5280 section 4.1.2.5.1). */
const utcTime = (time: number): Buffer =>
  der(
    TAG.utcTime,
    Buffer.from(
      `${new Date(time)
        .toISOString()
        .replace(/[-:T]|\.\d+/g, '')
        .slice(2)}`,
    ),
  );

const pem = (label: string, content: Buffer): string =>
  `-----BEGIN ${label}-----\n${(content.toString('base64').match(/.{1,64}/g) ?? []).join('\n')}\n-----END ${label}-----\n`;

/** RFC 5280 appendix A.1, `ub-common-name`. Clients look at the alternative names only. */
const MAX_COMMON_NAME = 64;

/** A new P-256 key and a certificate for `names` (DNS names, wildcards allowed), both as PEM text. */
export const makeSelfSignedCertificate = (options: {
  readonly names: readonly string[];
  readonly notBefore: number;
  readonly notAfter: number;
}): { readonly certificate: string; readonly key: string } => {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const spki = publicKey.export({ type: 'spki', format: 'der' });
  const serial = randomBytes(16);
  // Positive, and without a leading zero byte (RFC 5280 section 4.1.2.2).
  serial[0] = ((serial[0] ?? 0) & 0x3f) | 0x40;
  const commonName = (options.names[0] ?? 'localhost').slice(0, MAX_COMMON_NAME);
  const name = sequence(der(TAG.set, sequence(oid('commonName'), der(TAG.utf8String, Buffer.from(commonName)))));
  const algorithm = sequence(oid('ecdsaWithSha256'));
  const extensions = sequence(
    // No authority: Firefox refuses those as server certificates.
    extension('basicConstraints', sequence(), true),
    extension('keyUsage', bits(Buffer.from([0x80]), 7), true),
    extension('extendedKeyUsage', sequence(oid('serverAuth'))),
    extension('subjectAltName', sequence(...options.names.map((text) => der(TAG.dnsName, Buffer.from(text))))),
    extension('subjectKeyIdentifier', der(TAG.octetString, createHash('sha256').update(spki).digest().subarray(0, 20))),
  );
  const body = sequence(
    der(TAG.version, der(TAG.integer, Buffer.from([2]))),
    der(TAG.integer, serial),
    algorithm,
    name,
    sequence(utcTime(options.notBefore), utcTime(options.notAfter)),
    name,
    spki,
    der(TAG.extensions, extensions),
  );
  const signature = sign('sha256', body, privateKey);
  return {
    certificate: pem('CERTIFICATE', sequence(body, algorithm, bits(signature))),
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  };
};
