// needs: root, netns, curl, openssl
/**
 * The ports that people use, in a network namespace of its own: 443 and 8443 at once, plain HTTP on 80, IPv4 and IPv6 for
 * listeners, tunnels and applications. The client is curl.
 */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { runProcess, startProcess, type Finished, type StartedProcess } from '../support/processes.ts';
import { findProgram } from '../support/system-packages.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const GATEWAY = join(ROOT, 'gateway/src/main.ts');
const TUNNEL_CLIENT = join(ROOT, 'tunnel-client/src/main.ts');
const DOMAIN = 'gateway.test';
/** Addresses of the namespace beside loopback (RFC 5737, RFC 3849): another machine, as far as anybody can tell. */
const IPV4 = '192.0.2.1';
const IPV6 = '2001:db8::1';

/** Says which request came to it, at `address`. */
const APPLICATION = `
const { createServer } = require('node:http');
for (const address of ['127.0.0.1', '::1']) {
  createServer((request, response) => response.end(JSON.stringify({ address, headers: request.headers })))
    .listen(3000, address, () => console.log('listens ' + address));
}`;

describe('listeners', { timeout: 90_000 }, () => {
  let directory: string;
  let holder: StartedProcess;
  const stops: (() => Promise<unknown>)[] = [];
  // What `startProcess` needs of a test: who ends the program.
  const context = { after: (stop: () => Promise<unknown>) => void stops.push(stop) } as unknown as TestContext;

  const inside = (command: string, ...args: string[]): [string, string[]] => [
    findProgram('nsenter') ?? 'nsenter',
    [`--net=/proc/${holder.child.pid}/ns/net`, command, ...args],
  ];
  const start = (command: string, ...args: string[]): StartedProcess =>
    startProcess(context, ...inside(command, ...args));
  const runInside = (command: string, ...args: string[]): Promise<Finished> => runProcess(...inside(command, ...args));
  const must = async (command: string, ...args: string[]): Promise<string> => {
    const done = await runInside(command, ...args);
    assert.equal(done.code, 0, `${command} ${args.join(' ')}: ${done.stderr}`);
    return done.stdout;
  };

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'gateway-test-'));
    // A new namespace lives as long as a process in it.
    holder = startProcess(context, findProgram('unshare') ?? 'unshare', [
      '--net',
      'sh',
      '-c',
      'echo held; exec sleep 600',
    ]);
    await holder.waitForOutput(/held/);
    const ip = findProgram('ip') ?? 'ip';
    await must(ip, 'link', 'set', 'lo', 'up');
    await must(ip, 'address', 'add', `${IPV4}/32`, 'dev', 'lo');
    await must(ip, '-6', 'address', 'add', `${IPV6}/128`, 'dev', 'lo', 'nodad');

    const application = start(process.execPath, '-e', APPLICATION);
    await application.waitForOutput(/listens ::1/);
    await application.waitForOutput(/listens 127/);
    const config = join(directory, 'gateway.yaml');
    await writeFile(
      config,
      JSON.stringify({
        domains: [DOMAIN, 'gateway.localhost'],
        listeners: { https: ['[::]:443', '[::]:8443'], http: ['[::]:80'], quic: ['0.0.0.0:4242', '[::]:4242'] },
        publicPort: 443,
        advertise: { quic: [`[${IPV6}]:4242`] },
        stateDir: join(directory, 'gateway'),
      }),
    );
    const gateway = start(process.execPath, GATEWAY, 'serve', '--config', config);
    await gateway.waitForOutput(/the gateway serves/);
    const created = await must(
      process.execPath,
      GATEWAY,
      'runner',
      'create',
      '--name',
      'test',
      '--json',
      '--config',
      config,
    );
    const runner = JSON.parse(created) as { id: string; exchangeToken: string };
    const clientConfig = join(directory, 'client.yaml');
    const ports = [{ port: 3000, admission: 'everyone' }];
    await writeFile(
      clientConfig,
      JSON.stringify({
        gateway: 'https://api.gateway.localhost:8443',
        runnerId: runner.id,
        exchangeToken: runner.exchangeToken,
        stateDir: join(directory, 'runner'),
        ca: join(directory, 'gateway/self-signed/certificate.pem'),
        environments: [
          { id: 'four', host: '127.0.0.1', ports },
          { id: 'six', host: '::1', ports },
        ],
      }),
    );
    const client = start(process.execPath, TUNNEL_CLIENT, 'run', '--config', clientConfig);
    await client.waitForOutput(/https:\/\/3000--four\.gateway\.test\//);
    await client.waitForOutput(/https:\/\/3000--six\.gateway\.test\//);
  });
  after(async () => {
    for (const stop of stops.reverse()) await stop();
    await rm(directory, { recursive: true, force: true });
  });

  interface CurlAnswer {
    readonly status: number;
    readonly head: string;
    readonly body: string;
  }
  /** One request to `url`, whose host is at `address`. */
  const curl = async (url: string, address: string, ...args: string[]): Promise<CurlAnswer> => {
    const connect = address.includes(':') ? `[${address}]` : address;
    const output = await must(
      'curl',
      '--silent',
      '--insecure',
      '--include',
      '--connect-to',
      `::${connect}:`,
      ...args,
      url,
    );
    const end = output.indexOf('\r\n\r\n');
    return { status: Number(output.split(' ')[1]), head: output.slice(0, end), body: output.slice(end + 4) };
  };
  const headersOf = ({ body }: CurlAnswer): { address: string; headers: Record<string, string> } =>
    JSON.parse(body) as { address: string; headers: Record<string, string> };

  it('serve every kind of host on both HTTPS ports, over HTTP/1.1 and HTTP/2', async () => {
    for (const port of [443, 8443]) {
      for (const version of ['--http1.1', '--http2']) {
        const at = (host: string, path = '/') => curl(`https://${host}:${port}${path}`, IPV4, version);
        assert.equal((await at(`3000--four.${DOMAIN}`)).status, 200);
        assert.equal((await at(DOMAIN)).status, 200);
        assert.equal((await at(DOMAIN, '/_health')).status, 200);
        assert.equal((await at(`api.${DOMAIN}`, '/v1/gateways')).status, 200);
        assert.equal((await at('api.gateway.localhost', '/v1/gateways')).status, 200);
        assert.equal((await at(`3000--nobody.${DOMAIN}`)).status, 404);
        assert.equal((await at(`some-runner.${DOMAIN}`)).status, 404);
        assert.equal((await at('elsewhere.example')).status, 421);
        assert.equal((await curl(`https://${IPV4}:${port}/_health`, IPV4, version)).status, 200);
      }
    }
  });

  it('take a Host with either port, or none, for the same; a third port is 400', async () => {
    for (const port of [443, 8443]) {
      const name = `3000--four.${DOMAIN}`;
      for (const host of [name, `${name}:443`, `${name}:8443`]) {
        const answer = await curl(`https://${name}:${port}/`, IPV4, '--http1.1', '--header', `Host: ${host}`);
        assert.deepEqual([port, host, answer.status], [port, host, 200]);
        const { headers } = headersOf(answer);
        assert.deepEqual([headers['host'], headers['x-forwarded-host']], [host, host]);
        assert.equal(headers['x-forwarded-port'], host.endsWith(':8443') ? '8443' : '443');
      }
      for (const third of [80, 444, 9443]) {
        const answer = await curl(`https://${name}:${port}/`, IPV4, '--http1.1', '--header', `Host: ${name}:${third}`);
        assert.equal(answer.status, 400);
        assert.match(answer.head, /^gateway-error: bad_host$/im);
      }
    }
  });

  it('send plain HTTP to https, and answer health', async () => {
    for (const address of [IPV4, IPV6]) {
      const answer = await curl(`http://3000--four.${DOMAIN}/a%2Fb?x=1`, address);
      assert.equal(answer.status, 308);
      assert.match(answer.head, new RegExp(`^location: https://3000--four\\.${DOMAIN}/a%2Fb\\?x=1$`, 'im'));
      assert.equal((await curl(`http://${DOMAIN}/_health`, address)).status, 200);
      assert.equal((await curl('http://elsewhere.example/', address)).status, 421);
    }
  });

  it('speak IPv4 and IPv6 to clients, runners and applications, and say so', async () => {
    for (const [id, upstream] of [
      ['four', '127.0.0.1'],
      ['six', '::1'],
    ] as const) {
      for (const [address, forwarded] of [
        [IPV4, IPV4],
        [IPV6, `"[${IPV6}]"`],
      ] as const) {
        const answer = await curl(`https://3000--${id}.${DOMAIN}/`, address);
        const seen = headersOf(answer);
        assert.equal(seen.address, upstream);
        assert.equal(seen.headers['x-forwarded-for'], address);
        assert.equal(seen.headers['forwarded'], `for=${forwarded};host=3000--${id}.${DOMAIN};proto=https`);
      }
    }
    const status = await must(
      process.execPath,
      TUNNEL_CLIENT,
      'status',
      '--json',
      '--config',
      join(directory, 'client.yaml'),
    );
    const { legs } = JSON.parse(status) as { legs: { remoteAddress: string }[] };
    assert.deepEqual(
      legs.map(({ remoteAddress }) => remoteAddress),
      [`[${IPV6}]:4242`],
    );
  });

  it('take no early data: a request that is recorded cannot be sent again (safety row 30)', async () => {
    const session = join(directory, 'session.pem');
    const early = join(directory, 'early');
    await writeFile(early, `GET /early HTTP/1.1\r\nHost: 3000--four.${DOMAIN}\r\nConnection: close\r\n\r\n`);
    const options = [
      's_client',
      '-connect',
      `${IPV4}:443`,
      '-servername',
      `3000--four.${DOMAIN}`,
      '-tls1_3',
      '-ign_eof',
    ];
    const ask = (...more: string[]): Promise<Finished> =>
      runProcess(...inside('openssl', ...options, ...more), {
        input: `GET / HTTP/1.1\r\nHost: 3000--four.${DOMAIN}\r\nConnection: close\r\n\r\n`,
      });
    const first = await ask('-sess_out', session);
    assert.match(first.stdout, /Max Early Data: 0/);
    const second = await ask('-sess_in', session, '-early_data', early);
    assert.match(second.stdout, /Reused, TLSv1\.3/);
    assert.match(second.stdout, /Early data was (?:not sent|rejected)/);
    assert.ok(!second.stdout.includes('/early'));
  });
});
