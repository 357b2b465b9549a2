/** Callback URLs, which are registered once and for ever, and where callbacks go. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { connectRunner } from '../../tunnel-client/src/client.ts';
import { renderStatus } from '../../tunnel-client/src/cli/status.ts';
import { parseClientConfig, parseEnvironmentsOfFile } from '../../tunnel-client/src/config.ts';
import { parseGatewayUrl } from '../../tunnel-client/src/gateway-url.ts';
import { callbackUrl, parseOauthTarget } from '../../tunnel-client/src/oauth-target.ts';
import { ConfigError } from '../../tunnel-client/src/problems.ts';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const RUNNER = '01a1fa50-8aa0-7fbb-a997-001649445d19';

describe('callback URLs', () => {
  it('name runner and SCM, and the port where it is not 443', () => {
    const url = (gateway: string, scm = 'github'): string => callbackUrl(parseGatewayUrl(gateway), RUNNER, scm);
    assert.equal(url('https://api.gateway.example'), `https://${RUNNER}.gateway.example/oauth/github/callback`);
    assert.equal(
      url('https://api.gateway.localhost:8443', 'my-scm-2'),
      `https://${RUNNER}.gateway.localhost:8443/oauth/my-scm-2/callback`,
    );
    assert.equal(url('https://api.gateway.example', 'a'.repeat(32)).includes('a'.repeat(32)), true);
    for (const scm of ['', '-a', 'GitHub', 'a/b', 'a'.repeat(33), 'a.b', '../x']) {
      assert.throws(() => url('https://api.gateway.example', scm), RangeError, scm);
    }
  });

  it('are told by the library and the status, also before there is a leg', async () => {
    const stateDir = mkdtempSync(join(tmpdir(), 'oauth-test-'));
    const client = connectRunner({
      gateway: 'https://api.gateway.localhost:1',
      runnerId: RUNNER,
      stateDir,
      oauth: { target: 'http://127.0.0.1:8081' },
    });
    try {
      const { oauth } = client.status();
      assert.equal(oauth.target, 'http://127.0.0.1:8081');
      assert.deepEqual(Object.keys(oauth.callbackUrls), ['github', 'gitlab', 'bitbucket', 'azure-devops']);
      for (const [scm, url] of Object.entries(oauth.callbackUrls)) assert.equal(client.callbackUrl(scm), url);
      assert.equal(
        client.callbackUrl('azure-devops'),
        `https://${RUNNER}.gateway.localhost:1/oauth/azure-devops/callback`,
      );
      const shown = renderStatus(client.status(), Date.now());
      assert.match(shown, /OAuth callbacks go to http:\/\/127\.0\.0\.1:8081/);
      assert.ok(shown.includes(client.callbackUrl('gitlab')));
    } finally {
      await client.close();
      rmSync(stateDir, { recursive: true, force: true });
    }
  });
});

describe('the target of callbacks', () => {
  it('is the URL of an HTTP service', () => {
    assert.deepEqual(parseOauthTarget('http://127.0.0.1:8081'), { host: '127.0.0.1', port: 8081, tls: false });
    assert.deepEqual(parseOauthTarget('https://runner.internal/'), { host: 'runner.internal', port: 443, tls: true });
    assert.deepEqual(parseOauthTarget('http://[::1]:81'), { host: '::1', port: 81, tls: false });
    const wrong = [
      '127.0.0.1:8081',
      'ftp://x',
      'http://x/oauth',
      'http://x/?a',
      'http://u:p@x',
      'http://169.254.169.254',
      'http://0.0.0.0:1',
      '',
    ];
    for (const text of wrong) assert.throws(() => parseOauthTarget(text), RangeError, text);
  });

  it('and logs stand in the configuration, with paths that begin at the file', () => {
    const text = `
gateway: https://api.gateway.example
runnerId: my-runner
oauth: { target: "http://127.0.0.1:8081" }
environments:
  - { id: a, logs: { file: ./env.log } }
  - { id: b, logs: { command: [journalctl, -f] } }
  - { id: c }
`;
    const env = { TUNNEL_ENVIRONMENTS: '[{"id":"d","logs":{"file":"d.log"}}]' };
    const config = parseClientConfig({ file: { path: '/etc/runner/config.yaml', text }, env, cwd: '/srv' });
    assert.deepEqual(config.oauth, { target: 'http://127.0.0.1:8081' });
    assert.deepEqual(
      config.environments.map(({ logs }) => logs),
      [{ file: '/etc/runner/env.log' }, { command: ['journalctl', '-f'] }, undefined, { file: '/srv/d.log' }],
    );
    const reloaded = parseEnvironmentsOfFile({ path: '/etc/runner/config.yaml', text });
    assert.deepEqual(reloaded[0]?.logs, { file: '/etc/runner/env.log' });
    const other = parseClientConfig({
      file: { path: '/etc/runner/config.yaml', text },
      env: { TUNNEL_OAUTH_TARGET: 'http://127.0.0.1:2' },
      flags: { oauthTarget: 'http://127.0.0.1:3' },
      cwd: '/',
    });
    assert.deepEqual(other.oauth, { target: 'http://127.0.0.1:3' });
  });

  it('and logs that are wrong are told with their place', () => {
    const problems = (lines: string, env: Record<string, string> = {}): string[] => {
      const text = `gateway: https://api.gateway.example\nrunnerId: my-runner\n${lines}`;
      try {
        parseClientConfig({ file: { path: 'f.yaml', text }, env, cwd: '/' });
        return [];
      } catch (error) {
        assert.ok(error instanceof ConfigError);
        return error.problems.map(({ path, message, line }) => `${line ?? '-'} ${path}: ${message}`);
      }
    };
    const single = (lines: string, pattern: RegExp, env?: Record<string, string>): void => {
      const found = problems(lines, env);
      assert.equal(found.length, 1, found.join('\n'));
      assert.match(found[0] ?? '', pattern);
    };
    single('oauth: { target: "ftp://x" }', /^3 oauth\.target: must be the URL/);
    single('', /^- TUNNEL_OAUTH_TARGET: must end behind the host/, { TUNNEL_OAUTH_TARGET: 'http://x/y' });
    single('oauth: http://127.0.0.1:8081', /^3 oauth: must be \{ target: URL \}/);
    single('oauth: { target: "http://x", targets: 1 }', /^3 oauth\.targets: unknown; did you mean target\?/);
    for (const logs of ['upstream', '{}', '{ file: a, command: [b] }', '{ command: [""] }']) {
      single(`environments: [{ id: a, logs: ${logs} }]`, /^3 environments\[0\]\.logs: must be \{ file: PATH \}/);
    }
    single('environments: [{ id: a, logs: { command: [] } }]', /^3 environments\[0\]\.logs\.command/);
    single(
      'environments: [{ id: a, logs: { file: a, comand: [b] } }]',
      /logs\.comand: unknown; did you mean command\?/,
    );
    assert.deepEqual(problems('environments: [{ id: a, logs: { file: a } }]'), []);
  });
});
