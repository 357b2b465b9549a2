// needs: prometheus, squid, openssl
/** `tunnel-client run` that sends its metrics to a Prometheus with TLS and a password, through an HTTP proxy. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { request } from 'node:https';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { makeSelfSignedCertificate } from '../../gateway/src/edge/self-signed-certificate.ts';
import { startProcess } from '../support/processes.ts';
import { startGatewayProgram, temporaryDirectory } from '../support/programs.ts';
import { startPrometheus } from '../support/prometheus.ts';
import { until } from '../support/runner.ts';
import { startSquid } from '../support/squid.ts';

const MAIN = join(import.meta.dirname, '../../tunnel-client/src/main.ts');
const DAY_MS = 86_400_000;
const NAME = 'metrics.localhost';
const [USER, PASSWORD] = ['runners', 'canary-password'];

/** As `fetch`, for whoever has the password and looks at no certificate. */
const askAsOperator = (url: string): Promise<Response> =>
  new Promise((resolve, reject) => {
    const asked = request(url, { auth: `${USER}:${PASSWORD}`, rejectUnauthorized: false, agent: false });
    asked.once('error', reject);
    asked.once('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', reject);
      response.once('end', () => resolve(new Response(Buffer.concat(chunks), { status: response.statusCode ?? 0 })));
    });
    asked.end();
  });

describe('remote write of tunnel-client run', { timeout: 120_000 }, () => {
  it('goes through the proxy of HTTPS_PROXY, trusts `ca`, and says what keeps it', async (t) => {
    const directory = await temporaryDirectory(t);
    const at = (name: string): string => join(directory, name);
    const now = Date.now();
    const made = await makeSelfSignedCertificate({ names: [NAME], notBefore: now - DAY_MS, notAfter: now + DAY_MS });
    await writeFile(at('certificate.pem'), made.certificate);
    await writeFile(at('key.pem'), made.key);
    // The password in bcrypt, which is all that Prometheus takes, at the least cost.
    const users = { [USER]: '$2b$04$abcdefghijklmnopqrstuuag0.YlF7tv7WKWN7rgqJ5KkJ9XU2wny' };
    const prometheus = await startPrometheus({
      tls: { certificate: at('certificate.pem'), key: at('key.pem'), users },
      fetch: askAsOperator as typeof fetch,
    });
    t.after(() => prometheus.close());
    const gateway = await startGatewayProgram(t);
    const squid = await startSquid(t, { login: { user: 'proxy-user', password: 'proxy-canary' } });
    await writeFile(at('both.pem'), `${await readFile(gateway.certificate, 'utf8')}\n${made.certificate}`);
    await writeFile(at('password'), `${PASSWORD}\n`);
    const runner = (await gateway.command('runner', 'create', '--name', 'x')) as { id: string; exchangeToken: string };
    const start = async (ca: string) => {
      const config = at('client.yaml');
      await writeFile(
        config,
        JSON.stringify({
          gateway: `https://api.gateway.localhost:${gateway.httpsPort}`,
          ...{ runnerId: runner.id, exchangeToken: runner.exchangeToken, stateDir: at('state'), ca },
          ...{ internal: '127.0.0.1:0', logFormat: 'json' },
          remoteWrite: {
            url: `https://${NAME}:${prometheus.port}/api/v1/write`,
            ...{ username: USER, passwordFile: at('password') },
          },
        }),
      );
      const env = {
        HTTPS_PROXY: `http://proxy-user:proxy-canary@proxy.localhost:${squid.port}`,
        NO_PROXY: '.gateway.localhost',
        NODE_EXTRA_CA_CERTS: undefined,
      };
      return startProcess(t, process.execPath, [MAIN, 'run', '--config', config], { env });
    };

    const untrusting = await start(gateway.certificate);
    const [line] = await untrusting.waitForOutput(/.*metrics cannot be sent.*/);
    assert.match(line, /certificate is self-signed/, 'the root of the receiver is not among those that are trusted');
    await untrusting.stop();
    assert.equal((await prometheus.query('gitpod_tunnel_client_online')).length, 0);

    const program = await start(at('both.pem'));
    await until(
      async () => (await prometheus.query(`gitpod_tunnel_client_online{instance="${runner.id}"}`)).length === 1,
    );
    await program.stop();
    assert.doesNotMatch(program.output(), /metrics cannot be sent|refuses them/);
    for (const secret of [PASSWORD, 'proxy-canary']) assert.ok(!program.output().includes(secret));
    const requests = await squid.requests();
    assert.ok(requests.length >= 2, requests.join('\n'));
    for (const each of requests) assert.match(each, new RegExp(`^CONNECT ${NAME}:${prometheus.port} 200$`));
  });
});
