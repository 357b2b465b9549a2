/**
 * Debian's nginx and HAProxy in front of a gateway, with the configurations of docs/load-balancers.md. They connect from
 * 127.0.0.2, which the gateway trusts, to 127.0.0.3, where it listens; their clients are at other addresses.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { chmod, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join, resolve } from 'node:path';
import type { TestContext } from 'node:test';
import { makeSelfSignedCertificate } from '../../gateway/src/edge/self-signed-certificate.ts';
import type { GatewayConfig } from '../../gateway/src/config.ts';
import { freePort } from './free-port.ts';
import { DOMAIN } from './gateway.ts';
import { startProcess } from './processes.ts';
import { temporaryDirectory } from './programs.ts';
import { until } from './runner.ts';
import { findProgram, NGINX_STREAM_MODULE } from './system-packages.ts';

const DOCUMENT = resolve(import.meta.dirname, '../../docs/load-balancers.md');
export const BALANCER_ADDRESS = '127.0.0.2';
const GATEWAY_ADDRESS = '127.0.0.3';
/** What the examples call the gateway. */
const EXAMPLE_GATEWAY = '10.0.0.5';
const EXAMPLE_DOMAIN = 'gateway.example';
/** Of the certificate that the load balancers have, ms. */
const CERTIFICATE_LIFETIME_MS = 86_400_000;

/** The example of docs/load-balancers.md in a block of this name. */
export const example = (name: string): string => {
  const found = new RegExp('^```' + name + '\\n([^]*?)^```', 'm').exec(readFileSync(DOCUMENT, 'utf8'))?.[1];
  assert.ok(found, `docs/load-balancers.md has no example "${name}"`);
  return found;
};

/** Ports of the load balancer: the examples' 80, 443 and 8443. */
export interface FrontPorts {
  readonly http: number;
  readonly https: number;
  readonly tunnel: number;
}

export const freePorts = async (): Promise<FrontPorts> => ({
  http: await freePort(),
  https: await freePort(),
  tunnel: await freePort(),
});

/**
 * The example's configuration of the gateway, as far as it is about load balancers, with the ports of a test. Without
 * `passed` the load balancer leaves the runners' port to the gateway.
 */
export const behind = (
  ports: FrontPorts,
  { passed = true }: { readonly passed?: boolean } = {},
): Partial<GatewayConfig> => ({
  listeners: {
    // The same port as in front, as 8443 in the example.
    https: [{ host: passed ? GATEWAY_ADDRESS : '127.0.0.1', port: ports.tunnel }],
    http: [{ host: GATEWAY_ADDRESS, port: 0 }],
    quic: [{ host: '127.0.0.1', port: 0 }],
    internal: { kind: 'tcp', host: '127.0.0.1', port: 0 },
  },
  publicPort: ports.https,
  advertise: { quic: [], tcp: [`tunnel.${DOMAIN}:${ports.tunnel}`] },
  trustedProxies: [BALANCER_ADDRESS],
});

const accepts = (port: number): Promise<boolean> =>
  new Promise((resolvePromise) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('error', () => resolvePromise(false));
    socket.once('connect', () => {
      socket.destroy();
      resolvePromise(true);
    });
  });

/** Replaces what stands in an example by what a test has; each has to be there. */
const fillIn = (text: string, values: readonly (readonly [from: string, to: string])[]): string =>
  values.reduce((filled, [from, to]) => {
    assert.ok(filled.includes(from), `the example has no "${from}"`);
    return filled.replaceAll(from, to);
  }, text);

const writeCertificate = async (directory: string): Promise<{ pem: string; key: string }> => {
  const now = Date.now();
  const { certificate, key } = await makeSelfSignedCertificate({
    names: [DOMAIN, `*.${DOMAIN}`],
    notBefore: now - CERTIFICATE_LIFETIME_MS,
    notAfter: now + CERTIFICATE_LIFETIME_MS,
  });
  const paths = { pem: join(directory, 'gateway.pem'), key: join(directory, 'gateway.key') };
  // HAProxy wants both in one file; nginx ignores the key there.
  await writeFile(paths.pem, certificate + key);
  await writeFile(paths.key, key);
  return paths;
};

export interface BalancedGateway {
  /** Port of its plain listener. */
  readonly plainPort: number;
}

const programPath = (name: string): string => {
  const path = findProgram(name);
  assert.ok(path, `${name} is not installed`);
  return path;
};

export const startNginx = async (t: TestContext, ports: FrontPorts, gateway: BalancedGateway): Promise<void> => {
  const directory = await temporaryDirectory(t);
  const { pem, key } = await writeCertificate(directory);
  const filled = fillIn(example('nginx'), [
    ['listen 80;', `listen 127.0.0.1:${ports.http};`],
    ['listen 443 ssl', `listen 127.0.0.1:${ports.https} ssl`],
    ['listen 8443;', `listen 127.0.0.1:${ports.tunnel};`],
    [`${EXAMPLE_GATEWAY}:8080`, `${GATEWAY_ADDRESS}:${gateway.plainPort}`],
    [`${EXAMPLE_GATEWAY}:8443`, `${GATEWAY_ADDRESS}:${ports.tunnel}`],
    [EXAMPLE_DOMAIN, DOMAIN],
    ['/etc/nginx/gateway.pem', pem],
    ['/etc/nginx/gateway.key', key],
    [
      'http {\n',
      `http {\n  access_log off;\n  client_body_temp_path ${directory}/body;\n  proxy_bind ${BALANCER_ADDRESS};\n`,
    ],
    ['stream {\n', `stream {\n  proxy_bind ${BALANCER_ADDRESS};\n`],
  ]);
  const file = join(directory, 'nginx.conf');
  const frame = [
    `load_module ${NGINX_STREAM_MODULE};`,
    ...(process.getuid?.() === 0 ? ['user root;'] : []),
    'daemon off;',
    'worker_processes 1;',
    `pid ${directory}/nginx.pid;`,
    'events { worker_connections 512; }',
  ];
  await writeFile(file, `${frame.join('\n')}\n${filled}`);
  await chmod(directory, 0o755);
  startProcess(t, programPath('nginx'), ['-p', directory, '-e', 'stderr', '-c', file]);
  await until(() => accepts(ports.https));
};

export const startHaproxy = async (
  t: TestContext,
  ports: FrontPorts,
  gateway: BalancedGateway,
  name: 'haproxy' | 'haproxy-tcp' = 'haproxy',
): Promise<void> => {
  const directory = await temporaryDirectory(t);
  const { pem } = await writeCertificate(directory);
  const filled = fillIn(example(name), [
    ['defaults\n', `defaults\n  source ${BALANCER_ADDRESS}\n`],
    ['bind :443 ssl', `bind 127.0.0.1:${ports.https} ssl`],
    [`${EXAMPLE_GATEWAY}:8080`, `${GATEWAY_ADDRESS}:${gateway.plainPort}`],
    ['/etc/haproxy/gateway.pem', pem],
    ...(name === 'haproxy'
      ? ([
          ['bind :80\n', `bind 127.0.0.1:${ports.http}\n`],
          ['bind :8443\n', `bind 127.0.0.1:${ports.tunnel}\n`],
          [`${EXAMPLE_GATEWAY}:8443`, `${GATEWAY_ADDRESS}:${ports.tunnel}`],
          [EXAMPLE_DOMAIN, DOMAIN],
        ] as const)
      : []),
  ]);
  const file = join(directory, 'haproxy.cfg');
  await writeFile(file, `global\n  maxconn 256\n\n${filled}`);
  startProcess(t, programPath('haproxy'), ['-db', '-f', file]);
  await until(() => accepts(ports.https));
};
