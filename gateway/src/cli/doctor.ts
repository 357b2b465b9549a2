/** `gateway doctor`: whether this machine and this configuration can serve, without starting anything. */
import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { readFile, stat } from 'node:fs/promises';
import { request } from 'node:https';
import { request as plainRequest } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describeError } from '../../../shared/src/errors.ts';
import { formatHostPort } from '../../../shared/src/transport/address.ts';
import { DEFAULT_COLUMNS, formatWrappedTable } from '../../../shared/src/terminal-text.ts';
import type { GatewayConfig, ListenAddress } from '../config.ts';
import { findWarnings, parsePair, readPair } from '../edge/certificates.ts';
import { CliError, loadConfig, withDirectory, type CliWorld } from './context.ts';
import { checkFiles } from './config.ts';
import { askStatus, type GatewayStatusAnswer } from './internal.ts';
import { formatJson } from './output.ts';

export interface Finding {
  readonly check: string;
  readonly result: 'ok' | 'warning' | 'failed' | 'skipped';
  readonly detail: string;
}

/** A certificate that ends sooner is worth a warning, ms. */
const CERTIFICATE_SOON_MS = 14 * 24 * 3_600_000;
/** A name server or provider that needs longer is as good as none, ms. */
const NETWORK_TIMEOUT_MS = 5_000;
/** Memberships and tokens are refused beyond 30 s of difference; half of it is worth a warning, ms. */
const CLOCK_WARNING_MS = 15_000;
/** What the QUIC listeners' sockets should hold, bytes: 5,000 legs that connect at once lose nothing with it. */
const UDP_BUFFER_BYTES = 4 << 20;
/** Of the document of a provider, bytes. More is not read. */
const MAX_DOCUMENT_BYTES = 256 << 10;

const checkCertificates = async (config: GatewayConfig): Promise<Finding[]> => {
  const own = join(config.stateDir, 'self-signed');
  const pairs =
    config.tls.length > 0 ? config.tls : [{ certificate: join(own, 'certificate.pem'), key: join(own, 'key.pem') }];
  const isMade = config.tls.length > 0 || (await stat(own).catch(() => undefined)) !== undefined;
  if (!isMade) {
    return [
      { check: 'certificate', result: 'warning', detail: 'none is given: a self-signed one is made at the start' },
    ];
  }
  const now = Date.now();
  const loaded = [];
  const findings: Finding[] = [];
  for (const pair of pairs) {
    try {
      const found = parsePair(pair, await readPair(pair));
      loaded.push(found);
      const { validTo, names, selfSigned } = found.info;
      const until = `${names.join(', ')} until ${new Date(validTo).toISOString().slice(0, 10)}`;
      if (validTo > now) {
        const isFine = validTo - now > CERTIFICATE_SOON_MS && !selfSigned;
        findings.push({
          check: 'certificate',
          result: isFine ? 'ok' : 'warning',
          detail: selfSigned ? `${until}; self-signed: browsers warn of it` : until,
        });
      }
    } catch (error) {
      findings.push({ check: 'certificate', result: 'failed', detail: describeError(error) });
    }
  }
  for (const detail of findWarnings(loaded, config.domains, now)) {
    findings.push({ check: 'certificate', result: 'failed', detail });
  }
  return findings;
};

const checkNames = (config: GatewayConfig): Promise<Finding[]> =>
  Promise.all(
    config.domains
      .flatMap((domain) => [domain, `api.${domain}`, `3000--name-of-no-environment.${domain}`])
      .map(async (name): Promise<Finding> => {
        const check = 'DNS';
        // Loopback by definition (RFC 6761 section 6.3); many resolvers do not know it.
        if (name.endsWith('.localhost')) return { check, result: 'ok', detail: `${name} is this machine` };
        const timeout = new Promise<never>((_resolve, reject) => {
          setTimeout(() => reject(new Error('no answer')), NETWORK_TIMEOUT_MS).unref();
        });
        return Promise.race([lookup(name, { all: true }), timeout]).then(
          (found) => ({ check, result: 'ok', detail: `${name} is ${found.map(({ address }) => address).join(', ')}` }),
          (error: unknown) => ({
            check,
            result: 'failed',
            detail: `${name} has no address (${describeError(error)}); port hosts need *.${name.slice(name.indexOf('.') + 1)}`,
          }),
        );
      }),
  );

const bindTcp = async ({ host, port }: ListenAddress): Promise<void> => {
  const server = createServer().listen({ host, port, exclusive: true });
  await once(server, 'listening');
  server.close();
};
const bindUdp = async ({ host, port }: ListenAddress): Promise<void> => {
  const socket = createSocket({ type: host.includes(':') ? 'udp6' : 'udp4', ipv6Only: host.includes(':') });
  try {
    socket.bind({ address: host, port, exclusive: true });
    await once(socket, 'listening');
  } finally {
    socket.close();
  }
};

const BIND_FAULTS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another program listens there',
  EACCES: 'ports below 1024 need CAP_NET_BIND_SERVICE or a lower net.ipv4.ip_unprivileged_port_start',
  EADDRNOTAVAIL: 'this machine does not have the address',
  EAFNOSUPPORT: 'this machine has no IPv6',
};

const checkPorts = async (config: GatewayConfig, running: GatewayStatusAnswer | undefined): Promise<Finding[]> => {
  const findings: Finding[] = [];
  for (const [kind, protocol, bind] of [
    ['https', 'TCP', bindTcp],
    ['http', 'TCP', bindTcp],
    ['quic', 'UDP', bindUdp],
  ] as const) {
    for (const address of config.listeners[kind]) {
      const name = `${formatHostPort(address.host, address.port)} ${protocol}`;
      const isHeld = running?.listeners[kind].some(({ host, port }) => host === address.host && port === address.port);
      if (isHeld) {
        findings.push({ check: 'port', result: 'ok', detail: `${name} is held by the running gateway` });
        continue;
      }
      findings.push(
        await bind(address).then(
          (): Finding => ({ check: 'port', result: 'ok', detail: `${name} is free` }),
          (error: NodeJS.ErrnoException): Finding => ({
            check: 'port',
            result: error.code === 'EAFNOSUPPORT' ? 'warning' : 'failed',
            detail: `${name}: ${BIND_FAULTS[error.code ?? ''] ?? describeError(error)}`,
          }),
        ),
      );
    }
  }
  return findings;
};

const checkUdpBuffer = async (): Promise<Finding> => {
  const check = 'UDP buffer';
  const text = await readFile('/proc/sys/net/core/rmem_default', 'utf8').catch(() => undefined);
  if (text === undefined) return { check, result: 'skipped', detail: 'this system does not tell' };
  const bytes = Number(text);
  if (bytes >= UDP_BUFFER_BYTES) return { check, result: 'ok', detail: `${bytes} bytes` };
  const set = `sysctl -w net.core.rmem_default=${UDP_BUFFER_BYTES}`;
  return { check, result: 'warning', detail: `${bytes} bytes; thousands of legs at once need more: ${set}` };
};

const checkDirectory = async (config: GatewayConfig): Promise<Finding> => {
  const check = 'directory';
  const path = join(config.stateDir, 'directory.sqlite');
  if (!(await stat(path).catch(() => undefined))) {
    return { check, result: 'ok', detail: `${path} is made at the first start` };
  }
  try {
    const count = await withDirectory(config, async (directory) => (await directory.runners()).length);
    return { check, result: 'ok', detail: `${path}: ${count} runners` };
  } catch (error) {
    return { check, result: 'failed', detail: describeError(error) };
  }
};

/** The provider's document, and how far its clock is ahead, ms. */
const askProvider = async (
  { issuer, ca }: NonNullable<GatewayConfig['signIn']>,
  stop: AbortSignal,
): Promise<{ issuer: unknown; aheadMs: number | undefined }> => {
  const url = new URL(`${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`);
  const signal = AbortSignal.any([stop, AbortSignal.timeout(NETWORK_TIMEOUT_MS)]);
  const roots = ca === undefined ? {} : { ca: await readFile(ca, 'utf8') };
  const asked = (url.protocol === 'https:' ? request : plainRequest)(url, { agent: false, signal, ...roots }).end();
  const [response] = (await once(asked, 'response')) as [import('node:http').IncomingMessage];
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) if (text.length < MAX_DOCUMENT_BYTES) text += String(chunk);
  if (response.statusCode !== 200) throw new CliError(`${url.href} answered ${response.statusCode}`);
  const date = Date.parse(response.headers.date ?? '');
  const found = JSON.parse(text) as { issuer?: unknown };
  return { issuer: found.issuer, aheadMs: Number.isNaN(date) ? undefined : date - Date.now() };
};

const NO_CLOCK: Finding = { check: 'clock', result: 'skipped', detail: 'nobody to compare it with' };

const checkSignIn = async ({ signIn }: GatewayConfig, stop: AbortSignal): Promise<Finding[]> => {
  const check = 'sign-in';
  if (!signIn) {
    const detail = 'not configured: only ports that are open to everyone can be visited';
    return [{ check, result: 'skipped', detail }, NO_CLOCK];
  }
  try {
    const { issuer, aheadMs } = await askProvider(signIn, stop);
    const isSame = issuer === signIn.issuer;
    const findings: Finding[] = [
      {
        check,
        result: isSame ? 'ok' : 'failed',
        detail: isSame ? `${signIn.issuer} answers` : `it calls itself ${String(issuer)}, not ${signIn.issuer}`,
      },
    ];
    if (aheadMs === undefined) findings.push(NO_CLOCK);
    else {
      const isFine = Math.abs(aheadMs) < CLOCK_WARNING_MS;
      const seconds = Math.round(Math.abs(aheadMs) / 1_000);
      findings.push({
        check: 'clock',
        result: isFine ? 'ok' : 'failed',
        detail: isFine
          ? `within ${CLOCK_WARNING_MS / 1_000} s of the provider's`
          : `${seconds} s ${aheadMs > 0 ? 'behind' : 'ahead of'} the provider's: tokens are refused beyond 30 s`,
      });
    }
    return findings;
  } catch (error) {
    return [{ check, result: 'failed', detail: `${signIn.issuer}: ${describeError(error)}` }, NO_CLOCK];
  }
};

/** Everything that can be checked, in the order in which a person would. */
const examine = async (config: GatewayConfig, stop: AbortSignal): Promise<readonly Finding[]> => {
  const running = await askStatus(config, stop).catch(() => undefined);
  const files = (await checkFiles(config))
    .filter(({ path }) => !path.startsWith('tls'))
    .map(({ path, message }): Finding => ({ check: 'file', result: 'failed', detail: `${path}: ${message}` }));
  return [
    { check: 'gateway', result: 'ok', detail: running ? `${running.gateway.id} runs` : 'does not run' },
    ...files,
    ...(await checkCertificates(config)),
    ...(await checkNames(config)),
    ...(await checkPorts(config, running)),
    await checkUdpBuffer(),
    await checkDirectory(config),
    ...(await checkSignIn(config, stop)),
  ];
};

/** Rejects with {@link CliError} when something failed: the exit code says so too. */
export const runDoctor = async (
  world: CliWorld,
  options: { readonly config?: string; readonly json?: boolean },
): Promise<void> => {
  const findings = await examine(await loadConfig(world, options.config), world.stop);
  const failed = findings.filter(({ result }) => result === 'failed').length;
  world.stdout.write(
    options.json
      ? formatJson({ ok: failed === 0, findings })
      : `${formatWrappedTable(
          ['check', 'result', 'detail'],
          findings.map(({ check, result, detail }) => [check, result, detail]),
          world.stdout.columns ?? DEFAULT_COLUMNS,
        )}\n`,
  );
  if (failed > 0) throw new CliError(failed === 1 ? 'One check has failed' : `${failed} checks have failed`);
};
