/** Debian's squid as an HTTP proxy of its own for a test: configuration, certificates and logs in a temporary directory. */
import assert from 'node:assert/strict';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { freePort } from './free-port.ts';
import { runProcess, startProcess } from './processes.ts';
import { until } from './runner.ts';
import { findProgram } from './system-packages.ts';

/** Names that squid's own resolver does not know are loopback. */
const NAMES = ['api.gateway.localhost', 'tunnel.gateway.localhost', 'proxy.localhost', 'metrics.localhost'];
const HELPERS = '/usr/lib/squid';
/** Another program may have taken the free port that was found. */
const TRIES = 3;

export interface SquidOptions {
  /** TLS on the way to the proxy itself, with the certificate `ca`. */
  readonly tls?: boolean;
  /** Ends TLS and begins it anew, with certificates that `ca` has signed. `upgrades`: whether it lets WebSockets pass. */
  readonly inspect?: { readonly upgrades: boolean };
  readonly login?: { readonly user: string; readonly password: string };
  /** More lines of the configuration, before the rule that allows everything. */
  readonly rules?: readonly string[];
}

export interface Squid {
  readonly port: number;
  /** Without credentials. */
  readonly url: string;
  /** The proxy's own root, PEM. */
  readonly ca: string;
  readonly caPath: string;
  /** Lines of its access log so far: `CONNECT host:port status`, written when the connection has ended. */
  requests(): Promise<string[]>;
}

/** The name that its root bears. */
export const SQUID_CA_NAME = 'Example Inspecting CA';

const run = async (command: string, ...args: string[]): Promise<string> => {
  const { code, stdout, stderr } = await runProcess(command, args);
  assert.equal(code, 0, `${command} ${args.join(' ')}: ${stderr}`);
  return stdout;
};

const makeCertificates = async (directory: string): Promise<{ ca: string; caPath: string }> => {
  const caPath = join(directory, 'ca.pem');
  const path = (name: string): string => join(directory, name);
  const common = ['-newkey', 'rsa:2048', '-nodes', '-days', '2'];
  await run(
    'openssl',
    ...['req', '-x509', ...common, '-subj', `/O=Example Corp/CN=${SQUID_CA_NAME}`],
    ...['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
    ...['-keyout', path('ca.key'), '-out', caPath],
  );
  await writeFile(path('server.ext'), 'subjectAltName=DNS:proxy.localhost,IP:127.0.0.1\n');
  await run(
    'openssl',
    'req',
    '-new',
    ...common.slice(0, 3),
    '-subj',
    '/CN=proxy.localhost',
    '-keyout',
    path('server.key'),
    '-out',
    path('server.csr'),
  );
  await run(
    'openssl',
    'x509',
    '-req',
    '-in',
    path('server.csr'),
    '-CA',
    caPath,
    '-CAkey',
    path('ca.key'),
    '-CAcreateserial',
    '-days',
    '2',
    '-extfile',
    path('server.ext'),
    '-out',
    path('server.pem'),
  );
  return { ca: await readFile(caPath, 'utf8'), caPath };
};

const configuration = (directory: string, port: number, options: SquidOptions): string => {
  const { tls, inspect, login, rules = [] } = options;
  const at = (name: string): string => join(directory, name);
  const bump = inspect
    ? ` ssl-bump tls-cert=${at('ca.pem')} tls-key=${at('ca.key')} generate-host-certificates=on`
    : '';
  return [
    tls
      ? `https_port 127.0.0.1:${port} tls-cert=${at('server.pem')} tls-key=${at('server.key')}`
      : `http_port 127.0.0.1:${port}${bump}`,
    ...(inspect
      ? [
          `sslcrtd_program ${HELPERS}/security_file_certgen -s ${at('certificates')} -M 4MB`,
          'sslcrtd_children 1',
          'acl hello at_step SslBump1',
          'ssl_bump peek hello',
          'ssl_bump bump all',
          // The gateway of a test has a certificate that nobody has signed.
          'tls_outgoing_options flags=DONT_VERIFY_PEER',
        ]
      : []),
    // It tells capitals apart; clients, browsers among them, write the name without.
    ...(inspect?.upgrades ? ['http_upgrade_request_protocols websocket allow all'] : []),
    ...(login
      ? [
          `auth_param basic program ${HELPERS}/basic_ncsa_auth ${at('passwords')}`,
          'auth_param basic realm test',
          'acl known proxy_auth REQUIRED',
          'http_access deny !known',
        ]
      : []),
    ...rules,
    'http_access allow all',
    `hosts_file ${at('hosts')}`,
    'logformat short %rm %ru %>Hs',
    `access_log stdio:${at('access.log')} short`,
    'buffered_logs off',
    'cache_log /dev/null',
    'cache deny all',
    'pid_filename none',
    'netdb_filename none',
    'pinger_enable off',
    'shutdown_lifetime 0 seconds',
    // It would reserve memory for as many as the system allows.
    'max_filedescriptors 1024',
    `coredump_dir ${directory}`,
    '',
  ].join('\n');
};

const accepts = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('error', () => resolve(false));
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
  });

/** Starts squid on a free port of 127.0.0.1; it ends with the test. */
export const startSquid = async (t: TestContext, options: SquidOptions = {}): Promise<Squid> => {
  const directory = await mkdtemp(join(tmpdir(), 'squid-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const certificates = await makeCertificates(directory);
  await writeFile(join(directory, 'hosts'), NAMES.map((name) => `127.0.0.1 ${name}\n`).join(''));
  if (options.login) {
    const hash = (await run('openssl', 'passwd', '-apr1', options.login.password)).trim();
    await writeFile(join(directory, 'passwords'), `${options.login.user}:${hash}\n`);
  }
  if (options.inspect) {
    await run(`${HELPERS}/security_file_certgen`, '-c', '-s', join(directory, 'certificates'), '-M', '4MB');
  }
  // Started by root, it goes on as another user.
  await run('chmod', '-R', 'a+rwX', directory);
  await chmod(directory, 0o777);
  const program = findProgram('squid');
  assert.ok(program, 'squid is not installed');

  for (let left = TRIES; ; left--) {
    const port = await freePort();
    const file = join(directory, 'squid.conf');
    await writeFile(file, configuration(directory, port, options));
    // Its name must be its own: shared memory is called by it.
    const started = startProcess(t, program, ['-N', '-d', '1', '-f', file, '-n', `test${port}`]);
    try {
      await started.waitForOutput(/Accepting .*connections at/);
      // It says so a moment before.
      await until(() => accepts(port));
    } catch (error) {
      await started.stop();
      if (left <= 1) throw error;
      continue;
    }
    return {
      port,
      url: `${options.tls ? 'https' : 'http'}://proxy.localhost:${port}`,
      ...certificates,
      requests: async () =>
        (await readFile(join(directory, 'access.log'), 'utf8').catch(() => ''))
          .split('\n')
          // Connections without a request are such as wait for its start.
          .filter((line) => line !== '' && !line.includes('error:transaction-end-before-headers')),
    };
  }
};
