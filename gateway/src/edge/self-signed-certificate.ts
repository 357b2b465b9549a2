/** One self-signed X.509 certificate: Node's own crypto can sign, but not make certificates. */
// @peculiar/x509 resolves its algorithms through decorators and needs this loaded before it.
import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import * as x509 from '@peculiar/x509';

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
/** RFC 5280 appendix A.1, `ub-common-name`. Clients look at the alternative names only. */
const MAX_COMMON_NAME = 64;

/** A new P-256 key and a certificate for `names` (DNS names, wildcards allowed), both as PEM text. Times in ms. */
export const makeSelfSignedCertificate = async (options: {
  readonly names: readonly string[];
  readonly notBefore: number;
  readonly notAfter: number;
}): Promise<{ readonly certificate: string; readonly key: string }> => {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const commonName = (options.names[0] ?? 'localhost').slice(0, MAX_COMMON_NAME);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned(
    {
      name: [{ CN: [commonName] }],
      notBefore: new Date(options.notBefore),
      notAfter: new Date(options.notAfter),
      signingAlgorithm: ALGORITHM,
      keys,
      extensions: [
        // No authority: Firefox refuses those as server certificates.
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
        new x509.SubjectAlternativeNameExtension(options.names.map((value) => ({ type: 'dns', value }))),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    },
    webcrypto,
  );
  const key = await webcrypto.subtle.exportKey('pkcs8', keys.privateKey);
  return { certificate: `${certificate.toString('pem')}\n`, key: `${x509.PemConverter.encode(key, 'PRIVATE KEY')}\n` };
};
