/** The tunnel client as a program: flags only, a followed file, status, signals, and what it says when it cannot. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { join, resolve } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { fetchOnce, portHost } from '../support/gateway.ts';
import { type Exit, runProcess, startProcess, type StartedProcess } from '../support/processes.ts';
import { type GatewayProgram, startGatewayProgram, temporaryDirectory } from '../support/programs.ts';

const MAIN = resolve(import.meta.dirname, '../../tunnel-client/src/main.ts');
const run = (...args: string[]) => runProcess(process.execPath, [MAIN, ...args]);
const start = (t: TestContext, ...args: string[]): StartedProcess => startProcess(t, process.execPath, [MAIN, ...args]);

interface Application {
  readonly port: number;
  /** A request for `/slow` has arrived; call the result to answer it. */
  slowRequest(): Promise<() => void>;
}

const startApplication = async (t: TestContext): Promise<Application> => {
  const server = createServer();
  const slow = once(server, 'slow') as Promise<[ServerResponse]>;
  server.on('request', (request, response) => {
    if (request.url === '/slow') server.emit('slow', response);
    else response.end('hello');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  });
  return {
    port: (server.address() as AddressInfo).port,
    async slowRequest() {
      const [response] = await slow;
      return () => void response.end('slow');
    },
  };
};

interface Prepared {
  readonly gateway: GatewayProgram;
  readonly directory: string;
  readonly runnerId: string;
  readonly port: number;
  readonly application: Application;
  readonly common: readonly string[];
  readonly url: string;
}
const prepare = async (t: TestContext): Promise<Prepared> => {
  const gateway = await startGatewayProgram(t);
  const directory = await temporaryDirectory(t);
  const runner = (await gateway.command('runner', 'create', '--name', 'cli')) as { id: string; exchangeToken: string };
  await writeFile(join(directory, 'token'), `${runner.exchangeToken}\n`);
  const url = `https://api.gateway.localhost:${gateway.httpsPort}`;
  const application = await startApplication(t);
  return {
    gateway,
    directory,
    runnerId: runner.id,
    port: application.port,
    application,
    url,
    common: ['--state-dir', join(directory, 'state'), '--internal', `unix:${join(directory, 'internal.sock')}`],
  };
};
const connectFlags = ({ url, runnerId, directory, gateway }: Prepared): string[] => [
  ...['--gateway', url, '--runner', runnerId],
  ...['--exchange-token-file', join(directory, 'token'), '--ca', gateway.certificate],
];
const elapsed = async (exited: Promise<Exit>): Promise<number> => {
  const startedAt = performance.now();
  await exited;
  return performance.now() - startedAt;
};

describe('tunnel-client', { timeout: 120_000 }, () => {
  it('shares a port with flags alone, tells how it is, and drains when it is asked to end', async (t) => {
    const prepared = await prepare(t);
    const { gateway, common, port } = prepared;
    const program = start(
      t,
      'run',
      ...connectFlags(prepared),
      ...common,
      '--expose',
      String(port),
      '--environment',
      'demo',
      '--admission',
      'everyone',
      '--log-format',
      'human',
    );
    const [line] = await program.waitForOutput(/\+ (https:\/\/\S+) {2}→ {2}http:\/\/127\.0\.0\.1:\d+ \(everyone\)/);
    assert.match(line, new RegExp(`https://${port}--demo\\.gateway\\.localhost:${gateway.httpsPort}/`));
    const answer = await fetchOnce(gateway.httpsPort, portHost('demo', port));
    assert.deepEqual([answer.status, answer.body], [200, 'hello']);

    const table = await run('status', ...common);
    assert.equal(table.code, 0, table.stderr);
    assert.match(table.stdout, /^State +online$/m);
    assert.match(table.stdout, new RegExp(`^Environment demo: accepted\n  ${port} +https://${port}--demo`, 'm'));
    const json = JSON.parse((await run('status', '--json', ...common)).stdout) as { state: string; legs: unknown[] };
    assert.deepEqual([json.state, json.legs.length], ['online', 1]);
    const health = await run('health', ...common);
    assert.deepEqual([health.code, health.stdout], [0, 'online\n']);

    const slow = fetchOnce(gateway.httpsPort, portHost('demo', port), '/slow');
    const answerSlow = await prepared.application.slowRequest();
    program.child.kill('SIGTERM');
    await program.waitForOutput(/ending: open streams may finish/);
    answerSlow();
    assert.equal((await slow).body, 'slow');
    assert.deepEqual(await program.exited, { code: 0, signal: null });
    assert.equal((await fetchOnce(gateway.httpsPort, portHost('demo', port))).status, 503);

    const down = await run('health', ...common);
    assert.equal(down.code, 1);
    assert.match(down.stderr, /No tunnel client answers at unix:/);
  });

  it('keeps the last requests where it is asked to, for another process to read', async (t) => {
    const prepared = await prepare(t);
    const { gateway, port, common } = prepared;
    const exposing = ['--expose', String(port), '--environment', 'demo', '--admission', 'everyone'];
    const program = start(t, 'run', ...connectFlags(prepared), ...common, ...exposing, '--inspector');
    await program.waitForOutput(/The inspector is on/);
    await program.waitForOutput(new RegExp(`https://${port}--demo`));
    assert.equal((await fetchOnce(gateway.httpsPort, portHost('demo', port), '/hello?token=s3cr3t')).status, 200);
    const table = await run('inspect', 'demo', ...common);
    assert.equal(table.code, 0, table.stderr);
    assert.match(table.stdout, / 200 .* GET \/hello\?token=\[redacted\]$/m);
    program.child.kill('SIGTERM');
    assert.deepEqual(await program.exited, { code: 0, signal: null });
  });

  it('follows its file: environments come and go without a new connection, and a broken file changes nothing', async (t) => {
    const prepared = await prepare(t);
    const { gateway, directory, common, port, url, runnerId } = prepared;
    const config = join(directory, 'client.yaml');
    const environments = (text: string): Promise<void> =>
      writeFile(
        config,
        `gateway: ${url}\nrunnerId: ${runnerId}\nexchangeTokenFile: token\nca: ${gateway.certificate}\nenvironments: ${text}\n`,
      );
    const entry = (id: string): string => `{ id: ${id}, ports: [{ port: ${port}, admission: everyone }] }`;
    await environments(`[${entry('one')}]`);
    const program = start(t, 'run', '--config', config, ...common, '--log-format', 'human');
    await program.waitForOutput(new RegExp(`https://${port}--one\\.`));
    await environments(`[${entry('two')}]`);
    await program.waitForOutput(new RegExp(`https://${port}--two\\.`));
    assert.equal((await fetchOnce(gateway.httpsPort, portHost('two', port))).status, 200);
    assert.notEqual((await fetchOnce(gateway.httpsPort, portHost('one', port))).status, 200);

    await environments(`[${entry('two')}, { id: three, prots: [] }]`);
    await program.waitForOutput(/has changed and is not usable; the environments stay as they are/);
    await program.waitForOutput(/client\.yaml:5: environments\[1\]\.prots: unknown; did you mean ports\?/);
    assert.equal((await fetchOnce(gateway.httpsPort, portHost('two', port))).status, 200);
    assert.equal(program.output().match(/connected to gateway/g)?.length, 1);
    await program.stop();
  });

  it('logs JSON where no person reads along, without secrets, and ends at once when asked twice', async (t) => {
    const prepared = await prepare(t);
    const { gateway, common, port } = prepared;
    const program = start(t, 'run', ...connectFlags(prepared), ...common, '--expose', String(port));
    await program.waitForOutput(/"msg":"environment accepted"/);
    const lines = program
      .output()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    assert.ok(
      lines.some(({ msg }) => String(msg).includes('Nobody can open')),
      'creator_only is told plainly',
    );
    assert.ok(lines.some(({ urls }) => Array.isArray(urls) && String(urls[0]).startsWith('https://')));
    assert.doesNotMatch(program.output(), /gpx_|eyJ/);
    assert.equal((await fetchOnce(gateway.httpsPort, portHost(prepared.runnerId, port))).status, 401);

    program.child.kill('SIGINT');
    await program.waitForOutput(/ending/);
    program.child.kill('SIGINT');
    const tookMs = await elapsed(program.exited);
    assert.ok(tookMs < 5_000, `${tookMs} ms`);
    assert.ok([0, 130].includes((await program.exited).code ?? -1));
  });

  it('says what is wrong, and exits with 2 for what makes no sense and 1 for what did not work', async (t) => {
    const directory = await temporaryDirectory(t);
    const fails = async (code: number, message: RegExp, ...args: string[]): Promise<void> => {
      const done = await run(...args);
      assert.equal(done.code, code, `${args.join(' ')}: ${done.stderr}`);
      assert.match(done.stderr, message);
      assert.doesNotMatch(done.stderr, /^ +at /m, 'no stack');
    };
    const flags = [
      '--gateway',
      'https://api.gateway.localhost:1',
      '--runner',
      'a',
      '--state-dir',
      join(directory, 'state'),
    ];
    await fails(
      2,
      /--gateway: the host of the URL does not begin with "api\."/,
      'run',
      '--gateway',
      'https://gateway.localhost',
      '--runner',
      'a',
    );
    await fails(2, /cannot be read/, 'run', '--config', join(directory, 'none.yaml'));
    await fails(2, /unknown option '--expos'/, 'run', '--expos', '3000');
    await fails(2, /unknown command 'rum'.*\n.*run/s, 'rum');
    await writeFile(join(directory, 'broken.yaml'), 'gateway: [\n');
    await fails(2, /broken\.yaml:\d+: /, 'run', '--config', join(directory, 'broken.yaml'));
    await writeFile(join(directory, 'ca.pem'), 'no certificate');
    await fails(
      2,
      /ca: the file .*ca\.pem holds no certificate in PEM/,
      'run',
      ...flags,
      '--ca',
      join(directory, 'ca.pem'),
    );
    await fails(
      2,
      /--transport: must be one of auto, quic, webtransport, websocket/,
      'run',
      ...flags,
      '--transport',
      'tcp',
    );
    const busy = createServer().listen(0, '127.0.0.1');
    await once(busy, 'listening');
    const { port } = busy.address() as AddressInfo;
    await fails(
      1,
      new RegExp(`127\\.0\\.0\\.1:${port}: it is in use; choose another one with --internal`),
      'run',
      ...flags,
      '--internal',
      `127.0.0.1:${port}`,
    );
    busy.close();
    await once(busy, 'close');
    await fails(1, /token .*internal\.token cannot be read/, 'status', '--state-dir', join(directory, 'nobody'));
    const version = await run('--version');
    assert.match(version.stdout, /^\d+\.\d+\.\d+\n$/);
    assert.equal((await run('--help')).code, 0);
  });
});
