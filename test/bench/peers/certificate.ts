/** The certificate that all edges show, and whether they speak the same TLS. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { runProgram } from './program.ts';
import type { Certificate } from './nginx.ts';
import type { Say } from './rounds.ts';
import { SYSTEM_LABELS, type System } from './systems.ts';
import { DOMAIN, type Topology } from './topology.ts';

const TIMEOUT_MS = 15_000;

/** ECDSA on P-256, for the domain and everything below it. */
export const makeCertificate = (directory: string): Promise<Certificate> => {
  const files = { certificate: join(directory, 'certificate.pem'), key: join(directory, 'key.pem') };
  const { status, stderr } = spawnSync(
    'openssl',
    [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'],
      ...['-subj', `/CN=${DOMAIN}`, '-addext', `subjectAltName=DNS:${DOMAIN},DNS:*.${DOMAIN}`],
      ...['-keyout', files.key, '-out', files.certificate],
    ],
    { encoding: 'utf8' },
  );
  if (status !== 0) throw new Error(`openssl cannot make a certificate: ${stderr}`);
  return Promise.resolve(files);
};

/** What was negotiated, as one line: protocol, cipher, key of the exchange, key of the certificate. */
export const parseSession = (text: string): string =>
  [
    /^New, (TLSv[\d.]+), Cipher is (\S+)$/m.exec(text)?.slice(1).join(' '),
    /^Server Temp Key: (.+)$/m.exec(text)?.[1],
    /^Server public key is (.+)$/m.exec(text)?.[1],
    /^Peer signature type: (.+)$/m.exec(text)?.[1],
  ].join(', ');

/** Asks every edge with the same client, and says where they differ. */
export const sayCiphers = async (topology: Topology, systems: readonly System[], say: Say): Promise<void> => {
  const found = new Map<string, string[]>();
  for (const system of systems) {
    const { hostname, port } = new URL(system.url('web'));
    const words = ['sh', '-c', `openssl s_client -connect ${hostname}:${port} -servername ${hostname} </dev/null`];
    const session = parseSession((await runProgram(topology.edge, words, TIMEOUT_MS)).stdout);
    found.set(session, [...(found.get(session) ?? []), SYSTEM_LABELS[system.name]]);
  }
  for (const [session, names] of found) say(`TLS of ${found.size === 1 ? 'all' : names.join(', ')}: ${session}`);
};
