/** Which roots are trusted, and what to tell a person whose connection meets a certificate that is not. */
import { X509Certificate } from 'node:crypto';
import { getCACertificates } from 'node:tls';

/** Longer names of issuers are cut, characters: they come from whoever answers. */
const MAX_ISSUER_LENGTH = 120;
/** Certificates of a chain that are looked at; OpenSSL itself takes 100, real chains have four. */
const MAX_CHAIN_LENGTH = 10;

/** What Node brings, what the system has, and what was given. */
export const trustedRoots = (ca: string | undefined): string[] => [
  ...new Set([...getCACertificates('default'), ...getCACertificates('system'), ...(ca === undefined ? [] : [ca])]),
];

const PEM_BLOCK = /-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----[^-]+-----END (?:TRUSTED |X509 )?CERTIFICATE-----/g;

/** The certificates of a PEM text. Throws RangeError with a sentence when there is none, or one that is broken. */
export const parseCertificates = (pem: string): X509Certificate[] => {
  const blocks = pem.match(PEM_BLOCK) ?? [];
  if (blocks.length === 0) {
    const isKey = /-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(pem);
    throw new RangeError(
      isKey
        ? 'holds a private key and no certificate; give the certificate of the root'
        : 'holds no certificate in PEM: it has no line -----BEGIN CERTIFICATE-----',
    );
  }
  return blocks.map((block, index) => {
    try {
      return new X509Certificate(block);
    } catch (cause) {
      throw new RangeError(`certificate ${index + 1} of ${blocks.length} is broken`, { cause });
    }
  });
};

/** `CN (O)` of a distinguished name as Node writes it, one attribute a line. */
export const shortName = (distinguished: string): string => {
  const attribute = (key: string): string | undefined =>
    new RegExp(`^${key}=(.*)$`, 'm').exec(distinguished)?.[1]?.replaceAll(/\p{C}/gu, '');
  const [name, organization] = [attribute('CN'), attribute('O')];
  const text = name === undefined ? (organization ?? '') : organization ? `${name} (${organization})` : name;
  return text.slice(0, MAX_ISSUER_LENGTH) || 'a nameless issuer';
};

/** From the peer's own certificate upwards. */
export const chainOf = (leaf: X509Certificate | undefined): X509Certificate[] => {
  const chain: X509Certificate[] = [];
  for (let current = leaf; current && chain.length < MAX_CHAIN_LENGTH; current = current.issuerCertificate) {
    if (chain.at(-1)?.fingerprint256 === current.fingerprint256) break;
    chain.push(current);
  }
  return chain;
};

/** Who stands at the top of what the peer presented: the root that would have to be trusted. */
export const issuerOf = (leaf: X509Certificate | undefined): string | undefined => {
  const top = chainOf(leaf).at(-1);
  return top && shortName(top.issuer);
};

export type CertificateFailure = 'untrusted' | 'wrong_name' | 'not_in_time';

const day = (text: string | undefined): string => {
  const date = new Date(text ?? '');
  return Number.isNaN(date.getTime()) ? 'an unknown time' : date.toISOString().slice(0, 16).replace('T', ' ');
};

export interface CertificateFault {
  readonly code: CertificateFailure;
  /** Goes on behind "its certificate". */
  readonly fault: string;
  readonly advice: string;
}

/** `code` is OpenSSL's, as `authorizationError` has it. */
export const certificateFault = (code: string, leaf: X509Certificate | undefined): CertificateFault => {
  const issuer = issuerOf(leaf) ?? 'nobody';
  switch (code) {
    case 'ERR_TLS_CERT_ALTNAME_INVALID': {
      const names = (leaf?.subjectAltName ?? '').replaceAll(/\p{C}/gu, '').slice(0, MAX_ISSUER_LENGTH);
      return { code: 'wrong_name', fault: `is for another name (${names || 'none'})`, advice: 'check the URL' };
    }
    case 'CERT_HAS_EXPIRED':
      return {
        code: 'not_in_time',
        fault: `has expired (${day(leaf?.validTo)} UTC)`,
        advice: 'renew it, or set the clock of this machine',
      };
    case 'CERT_NOT_YET_VALID':
      return {
        code: 'not_in_time',
        fault: `is not valid yet (from ${day(leaf?.validFrom)} UTC)`,
        advice: 'set the clock of this machine',
      };
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
      return { code: 'untrusted', fault: `is self-signed (by ${issuer})`, advice: 'give it, or its root, with `ca`' };
    default:
      return {
        code: 'untrusted',
        fault: `was issued by ${issuer}, which is not trusted here`,
        advice: 'give the certificate of that issuer with `ca`',
      };
  }
};
