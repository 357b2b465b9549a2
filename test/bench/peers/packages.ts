/** What the benchmark needs from Debian, and how it gets there without starting any service. */
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { findProgram, installCommand, installPackages } from '../../support/system-packages.ts';

/** Program by the package that brings it. */
const PROGRAMS: Readonly<Record<string, string>> = {
  nginx: 'nginx-light',
  nebula: 'nebula',
  'nebula-cert': 'nebula',
  sshd: 'openssh-server',
  ssh: 'openssh-client',
  'ssh-keygen': 'openssh-client',
  wrk: 'wrk',
  h2load: 'nghttp2-client',
  curl: 'curl',
  openssl: 'openssl',
  ip: 'iproute2',
  python3: 'python3-minimal',
  unshare: 'util-linux',
  nsenter: 'util-linux',
  setpriv: 'util-linux',
  mount: 'mount',
};

/** Packages of nginx and sshd start their service when they are installed, unless this file forbids it. */
const POLICY = '/usr/sbin/policy-rc.d';

export const missingPackages = (): string[] => [
  ...new Set(Object.keys(PROGRAMS).flatMap((name) => (findProgram(name) ? [] : [PROGRAMS[name] ?? name]))),
];

/** Installs what is missing. Throws with the command to give where it may not. */
export const bringPackages = (say: (line: string) => void, output: 'stdout' | 'stderr'): void => {
  const missing = missingPackages();
  if (missing.length === 0) return;
  say(`installing ${missing.join(', ')}`);
  const isOurs = !existsSync(POLICY);
  if (isOurs && process.getuid?.() === 0) writeFileSync(POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    const outcome = installPackages(missing, output);
    if (outcome === 'installed' && missingPackages().length === 0) return;
    throw new Error(`${missing.join(', ')} could not be installed; by hand, as root:\n    ${installCommand(missing)}`);
  } finally {
    if (isOurs) rmSync(POLICY, { force: true });
  }
};
