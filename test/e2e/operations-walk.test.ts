// needs: prometheus, promtool, jq, openssl, curl
/**
 * The walk of docs/operations.md, "From nothing to a monitored installation", as it stands there: its files and commands,
 * with processes in place of systemd's units, and other names and ports.
 */
import assert from 'node:assert/strict';
import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse, stringify } from 'yaml';
import { freePort } from '../support/free-port.ts';
import { runProcess, startProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { fetchOnce } from '../support/gateway.ts';
import { startUpstream, until } from '../support/runner.ts';

const ROOT = join(import.meta.dirname, '../..');
const DOMAIN = 'gateway.localhost';
const TIMEOUT_MS = 90_000;

/** The blocks of the walk, in their order. */
const readBlocks = async (): Promise<{ language: string; text: string }[]> => {
  const page = await readFile(join(ROOT, 'docs/operations.md'), 'utf8');
  const walk = page.split(/^## /m).find((part) => part.startsWith('From nothing to a monitored installation\n'));
  assert.ok(walk);
  return [...walk.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].map(([, language = '', text = '']) => ({ language, text }));
};

test('an installation comes up, is watched, backed up and has its keys rotated, as the page says', async (t) => {
  const directory = await temporaryDirectory(t);
  const blocks = await readBlocks();
  const take = (language: string): string => {
    const block = blocks.shift();
    assert.equal(block?.language, language, block?.text ?? '');
    return block.text;
  };
  for (const program of ['gateway', 'tunnel-client']) {
    const main = join(ROOT, program, 'src/main.ts');
    await writeFile(join(directory, program), `#!/bin/sh\nexec '${process.execPath}' '${main}' "$@"\n`, {
      mode: 0o755,
    });
  }
  const env = { PATH: `${directory}:${process.env['PATH']}`, GATEWAY_CONFIG: 'gateway.yaml', HTTPS_PROXY: undefined };
  const sh = async (text: string): Promise<string> => {
    const done = await runProcess('bash', ['-euo', 'pipefail', '-c', text], {
      cwd: directory,
      env,
      timeoutMs: TIMEOUT_MS,
    });
    assert.equal(done.code, 0, `${text}\n${done.stdout}\n${done.stderr}`);
    return done.stdout;
  };

  // 1. The configuration of the page, with ports that are free.
  await sh(
    'openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -keyout key.pem -out certificate.pem ' +
      `-subj /CN=${DOMAIN} -addext subjectAltName=DNS:${DOMAIN},DNS:*.${DOMAIN} 2>&1`,
  );
  const config = parse(take('yaml')) as { listeners: Record<string, unknown>; domains: string[] };
  config.domains = [DOMAIN];
  const internal = await freePort();
  const loopback = '127.0.0.1:0';
  config.listeners = { https: [loopback], http: [loopback], quic: [loopback], internal: `127.0.0.1:${internal}` };
  await writeFile(join(directory, 'gateway.yaml'), stringify(config));
  await sh(take('sh'));

  // 2. The gateway.
  const gateway = startProcess(t, join(directory, 'gateway'), ['serve'], { cwd: directory, env });
  const [, https = ''] = await gateway.waitForOutput(/"https":\["127\.0\.0\.1:(\d+)"\]/);
  const [, quic = ''] = await gateway.waitForOutput(/"quic":\["127\.0\.0\.1:(\d+)"\]/);
  config.listeners = { ...config.listeners, https: [`127.0.0.1:${https}`], quic: [`127.0.0.1:${quic}`] };
  await writeFile(join(directory, 'gateway.yaml'), stringify(config));
  assert.match(await sh(take('sh')), /certificate/i);

  // 3. The first runner.
  const application = await startUpstream((_request, response) => response.end('hello'));
  t.after(() => application.close());
  const here = (text: string): string =>
    text
      .replaceAll('api.gateway.example', `api.${DOMAIN}:${https}`)
      .replaceAll('port: 3000', `port: ${application.port}`);
  await sh(here(take('sh')));
  const clientInternal = await freePort();
  await sh(`printf 'ca: certificate.pem\\ninternal: 127.0.0.1:${clientInternal}\\n' >> tunnel-client.yaml`);
  startProcess(t, join(directory, 'tunnel-client'), ['run', '--config', 'tunnel-client.yaml'], { cwd: directory, env });
  const lists = await sh(take('sh'));
  assert.match(lists, /^(?:Nothing is wrong|Tunnels work)/m);
  assert.match(lists, /\bfirst\b/);
  assert.match(lists, /my-app/);
  const ask = () => fetchOnce(Number(https), `${application.port}--my-app.${DOMAIN}`);
  await until(async () => (await ask()).body === 'hello');

  // 4. Monitoring, by a real Prometheus.
  const monitoring = take('yaml').replace(':9090', `:${internal}`).replace(':9091', `:${clientInternal}`);
  await writeFile(join(directory, 'prometheus.yml'), `global: { scrape_interval: 1s }\n${monitoring}`);
  const rules = 'gitpod-gateway.rules.yaml';
  await cp(join(ROOT, 'deploy/alerts', rules), join(directory, rules));
  await sh(take('sh'));
  const prometheus = startProcess(t, 'prometheus', [
    `--config.file=${join(directory, 'prometheus.yml')}`,
    `--storage.tsdb.path=${join(directory, 'data')}`,
    '--web.listen-address=127.0.0.1:0',
  ]);
  const [, port = ''] = await prometheus.waitForOutput(/Listening on.*address=127\.0\.0\.1:([1-9]\d*)/);
  await until(async () => (await fetch(`http://127.0.0.1:${port}/-/ready`)).ok, TIMEOUT_MS);
  const api = async (path: string): Promise<unknown> =>
    ((await (await fetch(`http://127.0.0.1:${port}/api/v1/${path}`)).json()) as { data: unknown }).data;
  interface Target {
    readonly labels: { readonly job: string };
    readonly health: string;
  }
  await until(async () => {
    const { activeTargets } = (await api('targets')) as { activeTargets: Target[] };
    return activeTargets.length === 2 && activeTargets.every(({ health }) => health === 'up');
  }, TIMEOUT_MS);
  const { groups } = (await api('rules')) as { groups: { rules: { name: string; state: string }[] }[] };
  const alerts = groups.flatMap((group) => group.rules);
  assert.ok(alerts.length > 10);
  assert.deepEqual(
    alerts.filter(({ state }) => state === 'firing'),
    [],
  );

  // 5. Backup, and what was restored.
  assert.match(await sh(take('sh')), /first/);

  // 6. Rotation; nobody notices.
  assert.match(await sh(take('sh')), /authority/);
  assert.equal((await ask()).status, 200);
  await sh(`GATEWAY_STATE_DIR=restored gateway runner list | grep -q first`);
  assert.deepEqual(blocks, []);
});
