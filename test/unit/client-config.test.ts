/** The tunnel client's configuration: all faults at once, each where it stands. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type ClientConfig,
  parseClientConfig,
  parseClientEndpoint,
  parseEnvironmentsOfFile,
} from '../../tunnel-client/src/config.ts';
import { type ConfigFlags, suspiciousVariables } from '../../tunnel-client/src/config-sources.ts';
import { parseGatewayUrl } from '../../tunnel-client/src/gateway-url.ts';
import { ConfigError, suggest } from '../../tunnel-client/src/problems.ts';
import { VERSION } from '../../tunnel-client/src/version.ts';

const FLAGS: ConfigFlags = { gateway: 'https://api.gateway.localhost:8443', runner: 'runner-1' };
const parse = (text: string | undefined, flags: ConfigFlags = {}, env: Record<string, string> = {}): ClientConfig =>
  parseClientConfig({
    ...(text === undefined ? {} : { file: { path: '/etc/client/config.yaml', text } }),
    flags,
    env,
    cwd: '/srv',
  });

/** `line path: message` of everything that is wrong. */
const problems = (...given: Parameters<typeof parse>): string[] => {
  try {
    parse(...given);
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    return error.problems.map(({ line, path, message }) => `${line ?? '-'} ${path}: ${message}`);
  }
  throw new Error('it was taken');
};
const has = (found: readonly string[], ...parts: readonly string[]): void =>
  assert.ok(
    found.some((problem) => parts.every((part) => problem.includes(part))),
    `${JSON.stringify(parts)} is not in ${JSON.stringify(found, null, 1)}`,
  );

const FILE = `
gateway: https://api.gateway.localhost:8443
runnerId: runner-1
exchangeTokenFile: token.txt
stateDir: state
ca: ca.pem
internal: 127.0.0.1:0
drainTimeout: 5s
environments:
  - id: demo
    creator: user-1
    ports: [{ port: 3000, protocol: https, admission: everyone, name: web }, { port: 3001 }]
`;

describe('configuration of the tunnel client', () => {
  it('has the inspector off, and on by file, variable or flag', () => {
    assert.equal(parse(FILE).inspector, false);
    assert.equal(parse(`${FILE}inspector: true\n`).inspector, true);
    assert.equal(parse(FILE, {}, { TUNNEL_INSPECTOR: 'true' }).inspector, true);
    assert.equal(parse(`${FILE}inspector: true\n`, {}, { TUNNEL_INSPECTOR: 'false' }).inspector, false);
    assert.equal(parse(FILE, { inspector: true }).inspector, true);
    has(problems(`${FILE}inspector: yes please\n`), 'inspector: must be true or false');
  });

  it('is read from a file, with its paths beside the file', () => {
    const config = parse(FILE);
    assert.equal(config.gateway, 'https://api.gateway.localhost:8443');
    assert.equal(config.runnerId, 'runner-1');
    assert.deepEqual(
      [config.exchangeTokenFile, config.stateDir, config.ca],
      ['/etc/client/token.txt', '/etc/client/state', '/etc/client/ca.pem'],
    );
    assert.deepEqual(config.internal, { kind: 'tcp', host: '127.0.0.1', port: 0 });
    assert.equal(config.drainTimeoutMs, 5_000);
    const [demo] = config.environments;
    assert.equal(demo?.host, '127.0.0.1');
    assert.deepEqual(
      demo?.ports.map(({ port, protocol, admission }) => [port, protocol, admission]),
      [
        [3000, 'https', 'everyone'],
        [3001, 'http', 'creator_only'],
      ],
    );
    assert.ok(Object.isFrozen(config) && Object.isFrozen(config.environments) && Object.isFrozen(demo?.ports[0]));
  });

  it('is read from flags alone, with one environment that has the id of the runner', () => {
    const config = parse(undefined, { ...FLAGS, expose: ['3000', '4430:https'], exchangeTokenFile: 't' });
    assert.deepEqual(config.internal, { kind: 'tcp', host: '127.0.0.1', port: 9091 });
    assert.deepEqual([config.stateDir, config.exchangeTokenFile], ['/srv/runner-state', '/srv/t']);
    assert.equal(config.drainTimeoutMs, 30_000);
    const [environment] = config.environments;
    assert.deepEqual([environment?.id, environment?.host], ['runner-1', '127.0.0.1']);
    assert.deepEqual(
      environment?.ports.map(({ port, protocol, admission }) => [port, protocol, admission]),
      [
        [3000, 'http', 'creator_only'],
        [4430, 'https', 'creator_only'],
      ],
    );
    const other = parse(undefined, {
      ...FLAGS,
      expose: ['3000'],
      environment: 'demo',
      host: '10.0.0.7',
      admission: 'everyone',
    });
    assert.deepEqual([other.environments[0]?.id, other.environments[0]?.host], ['demo', '10.0.0.7']);
    assert.equal(other.environments[0]?.ports[0]?.admission, 'everyone');
  });

  it('takes a gateway or a list of them, from file, variable and flag', () => {
    const both = ['https://api.us01.example', 'https://api.eu01.example:8443'];
    const list = parse(`gateway: [${both.join(', ')}]\nrunnerId: r\nreselectAfter: 10m\n`, {});
    assert.deepEqual([list.gateway, list.gateways, list.reselectAfterMs], [both[0], both, 600_000]);
    assert.deepEqual(parse(undefined, { ...FLAGS, gateway: both.join(', ') }).gateways, both);
    assert.deepEqual(parse(undefined, { runner: 'r' }, { TUNNEL_GATEWAY: both.join(',') }).gateways, both);
    const one = parse(undefined, FLAGS);
    assert.deepEqual([one.gateway, one.gateways, one.reselectAfterMs], [FLAGS.gateway, [FLAGS.gateway], undefined]);
    has(
      problems('gateway: [https://api.a.test, "http://api.b.test"]\nrunnerId: r\n'),
      'gateway[1]',
      'https://api.b.test',
    );
    has(problems('gateway: []\nrunnerId: r\n'), 'gateway', 'names no gateway');
  });

  it('takes a transport, and names the choices where there is no such one', () => {
    assert.equal(parse(undefined, FLAGS).transport, 'auto');
    assert.equal(parse(undefined, { ...FLAGS, transport: 'websocket' }).transport, 'websocket');
    assert.equal(parse(undefined, FLAGS, { TUNNEL_TRANSPORT: 'webtransport' }).transport, 'webtransport');
    const all = 'must be one of auto, quic, webtransport, websocket';
    has(problems(undefined, { ...FLAGS, transport: 'udp' }), '--transport', all);
    has(problems('gateway: https://api.a.test\nrunnerId: r\ntransport: masque\n'), 'transport', all);
  });

  it('lets variables win over the file, and flags over variables', () => {
    const env = {
      TUNNEL_RUNNER_ID: 'from-variable',
      TUNNEL_LOG_LEVEL: 'warn',
      TUNNEL_INTERNAL: 'unix:/run/tunnel.sock',
      TUNNEL_STATE_DIR: 'elsewhere',
      TUNNEL_ENVIRONMENTS: '[{"id":"more","ports":[{"port":5000}]}]',
    };
    const config = parse(FILE, { logLevel: 'error', expose: ['6000'], environment: 'third' }, env);
    assert.deepEqual([config.runnerId, config.logLevel, config.stateDir], ['from-variable', 'error', '/srv/elsewhere']);
    assert.deepEqual(config.internal, { kind: 'unix', path: '/run/tunnel.sock' });
    assert.deepEqual(
      config.environments.map(({ id }) => id),
      ['demo', 'more', 'third'],
    );
  });

  it('tells all faults at once, with path and line', () => {
    const found = problems(`gateway: https://gateway.localhost
runnerID: runner-1
drainTimeout: soon
internal: nowhere
environments:
  - id: Demo
    host: 0.0.0.0
    port: []
    ports:
      - { port: 80, protokol: http }
      - { port: 3000 }
      - { port: 3000, admission: all }
  - id: other
    host: 169.254.169.254
  - id: other
`);
    has(found, '1 gateway', 'did you mean https://api.gateway.localhost?');
    has(found, '2 runnerID', 'did you mean runnerId?');
    has(found, 'runnerId', 'is missing');
    has(found, '3 drainTimeout', '30s');
    has(found, '4 internal', 'host:port');
    has(found, '6 environments[0].id', 'lower-case');
    has(found, '8 environments[0].port', 'did you mean ports?');
    has(found, '10 environments[0].ports[0].port', '1024 to 65535');
    has(found, '10 environments[0].ports[0].protokol', 'did you mean protocol?');
    has(found, '12 environments[0].ports[2].admission');
  });

  it('tells a port and an environment that stand twice, and hosts that are never dialled', () => {
    const environments = (text: string): string[] => problems(`${FILE.split('environments:')[0]}environments: ${text}`);
    has(
      environments('[{ id: a, ports: [{ port: 3000 }, { port: 3000 }] }]'),
      'environments[0].ports[1].port',
      'port 3000 stands twice',
    );
    has(environments('[{ id: a }, { id: a }]'), 'environments[1].id', 'environment a stands twice');
    has(environments('[{ id: a, ports: [{ port: 22999 }] }]'), 'not 22999');
    has(environments('[{ id: a, host: 0.0.0.0 }]'), 'environments[0].host', 'write 127.0.0.1');
    has(environments('[{ id: a, host: "fe80::1" }]'), 'environments[0].host', 'never connected to');
    has(environments('[{ id: a, host: "127.1" }]'), 'environments[0].host');
    has(environments('[{ id: a, host: "http://x" }]'), 'environments[0].host');
    has(environments('demo'), 'environments');
  });

  it('tells broken YAML with the line, and nothing that only follows from it', () => {
    const found = problems('gateway: https://api.x.test\nrunnerId: [a\nstateDir: b\n');
    assert.ok(found.length > 0);
    assert.ok(
      found.every((problem) => /^[23] : /.test(problem)),
      found.join('\n'),
    );
    has(problems('- a\n- b\n'), '1 ', 'key: value');
    has(problems('gateway: a\ngateway: b\n'), '2 ', 'unique');
  });

  it('tells wrong flags by the name of the flag', () => {
    const flags = (over: ConfigFlags): string[] => problems(undefined, { ...FLAGS, ...over });
    has(flags({ gateway: 'http://api.x.test' }), '--gateway', 'did you mean https://api.x.test?');
    has(flags({ runner: 'NO' }), '--runner', 'lower-case');
    has(flags({ expose: ['x'] }), '--expose', '"x"');
    has(flags({ expose: ['80'] }), '--expose', '1024');
    has(flags({ expose: ['3000', '3000:https'] }), '--expose', 'twice');
    has(flags({ expose: ['3000'], admission: 'all' }), '--admission', 'everyone, organization, creator_only');
    has(flags({ expose: ['3000'], environment: 'A' }), '--environment', 'lower-case');
    has(flags({ expose: ['3000'], host: '0.0.0.0' }), '--host', '127.0.0.1');
    has(flags({ environment: 'a' }), '--environment', '--expose');
    has(flags({ internal: 'x' }), '--internal', 'host:port');
    has(problems(undefined, {}), 'gateway', 'https://api.<domain>');
    has(
      problems(undefined, FLAGS, { TUNNEL_EXCHANGE_TOKEN: 'x', TUNNEL_EXCHANGE_TOKEN_FILE: 'y' }),
      'TUNNEL_EXCHANGE_TOKEN',
      'keep one',
    );
    has(problems(undefined, FLAGS, { TUNNEL_ENVIRONMENTS: '{' }), 'TUNNEL_ENVIRONMENTS', 'JSON');
  });

  it('never repeats a secret', () => {
    try {
      parse('exchangeToken: [canary]\n', {}, { TUNNEL_EXCHANGE_TOKEN_FILE: 'f', TUNNEL_EXCHANGE_TOKEN: 'canary' });
      assert.fail('it was taken');
    } catch (error) {
      assert.ok(error instanceof ConfigError);
      assert.ok(!error.message.includes('canary'));
    }
  });

  it('takes the proxy from the variables that other programs use, and tells what is wrong with them', () => {
    const env = { HTTPS_PROXY: 'http://me:secret@proxy.example:3128', NO_PROXY: 'gateway.localhost,10.0.0.0/8' };
    const { proxy } = parse(undefined, FLAGS, env);
    assert.equal(proxy.server?.url, 'http://proxy.example:3128');
    assert.equal(proxy.exceptions.length, 2);
    const found = problems('stateDi: x\n', FLAGS, { https_proxy: 'http://me:secret@' });
    has(found, '- https_proxy: is not the URL of a proxy');
    has(found, 'stateDi', 'did you mean stateDir');
    assert.doesNotMatch(found.join(), /secret/);
  });

  it('mentions variables that look like a slip, and leaves those of others alone', () => {
    assert.deepEqual(suspiciousVariables({ TUNNEL_GATWAY: 'x', TUNNEL_TOKEN: 'y', PATH: 'z', TUNNEL_CA: 'c' }), [
      'the variable TUNNEL_GATWAY is not used; did you mean TUNNEL_GATEWAY?',
    ]);
  });

  it('finds the running client by what concerns that alone', () => {
    const endpoint = parseClientEndpoint({ flags: { internal: '[::1]:1234' }, env: {}, cwd: '/srv' });
    assert.deepEqual(endpoint, { stateDir: '/srv/runner-state', internal: { kind: 'tcp', host: '::1', port: 1234 } });
  });
});

describe('environments of a file that has changed', () => {
  it('are read without the rest, and their faults told', () => {
    assert.deepEqual(
      parseEnvironmentsOfFile({ path: 'f', text: 'environments: [{ id: a }]' }).map(({ id }) => id),
      ['a'],
    );
    assert.deepEqual(parseEnvironmentsOfFile({ path: 'f', text: '' }), []);
    for (const text of ['environments: [', 'environments: [{ id: a, prots: [] }]', 'environments: [{ id: A }]']) {
      assert.throws(() => parseEnvironmentsOfFile({ path: 'f', text }), ConfigError, text);
    }
  });
});

describe('URL of a gateway', () => {
  it('is https, a name that begins with api., and nothing else', () => {
    assert.deepEqual(parseGatewayUrl('https://API.Gateway.localhost:8443/'), {
      origin: 'https://api.gateway.localhost:8443',
      host: 'api.gateway.localhost',
      port: 8443,
    });
    assert.equal(parseGatewayUrl('https://api.gateway.example').port, 443);
    const wrong: [string, RegExp][] = [
      ['api.gateway.example:8443', /did you mean https:\/\/api\.gateway\.example:8443\?/],
      ['http://api.gateway.example', /over https: did you mean https:\/\/api\.gateway\.example\?/],
      ['https://gateway.example', /did you mean https:\/\/api\.gateway\.example\?/],
      ['https://api.gateway.example/v1', /ends behind the host: did you mean https:\/\/api\.gateway\.example\?/],
      ['https://api.gateway.example/?a', /ends behind the host/],
      ['https://user:secret@api.gateway.example', /no user name/],
      ['https://127.0.0.1:8443', /a name and not an address/],
      ['https://[::1]:8443', /a name and not an address/],
      ['ftp://api.gateway.example', /not the URL of a gateway/],
      ['nonsense', /it looks like https:\/\/api\./],
    ];
    for (const [text, message] of wrong) assert.throws(() => parseGatewayUrl(text), message, text);
  });
});

it('takes a receiver of metrics from file and variable, and no password in its URL', () => {
  const env = { TUNNEL_GATEWAY: 'https://api.gateway.example', TUNNEL_RUNNER_ID: 'my-runner' };
  const withVariable = (value: string) =>
    parseClientConfig({ env: { ...env, TUNNEL_REMOTE_WRITE: value }, cwd: '/work' }).remoteWrite;
  const url = 'https://metrics.example/api/v1/write';
  const none = { username: undefined, passwordFile: undefined };
  assert.deepEqual(withVariable(url), { url, ...none });
  assert.deepEqual(withVariable(JSON.stringify({ url, username: 'me', passwordFile: 'secret' })), {
    url,
    username: 'me',
    passwordFile: '/work/secret',
  });
  const text = `remoteWrite: { url: '${url}', username: me, passwordFile: secret }`;
  assert.equal(
    parseClientConfig({ env, cwd: '/', file: { path: '/etc/c.yaml', text } }).remoteWrite?.passwordFile,
    '/etc/secret',
  );
  const wrong: readonly (readonly [string, RegExp])[] = [
    ['https://me:canary@metrics.example/', /TUNNEL_REMOTE_WRITE: must not contain a password/],
    ['ftp://metrics.example/', /TUNNEL_REMOTE_WRITE: must be an http or https URL/],
    ['{ broken', /must be \{ url, username, passwordFile \}/],
    [JSON.stringify({ url, passwordFile: 'secret' }), /needs a username too/],
  ];
  for (const [value, message] of wrong) {
    assert.throws(
      () => withVariable(value),
      (error: Error) => message.test(error.message) && !error.message.includes('canary'),
      value,
    );
  }
});

it('suggests what was meant, and nothing far off', () => {
  assert.equal(suggest('runner_id', ['gateway', 'runnerId']), 'runnerId');
  assert.equal(suggest('gatway', ['gateway', 'runnerId']), 'gateway');
  assert.equal(suggest('colour', ['gateway', 'runnerId']), undefined);
});

it('has the version of its package', () => {
  const { version } = JSON.parse(
    readFileSync(join(import.meta.dirname, '../../tunnel-client/package.json'), 'utf8'),
  ) as { version: string };
  assert.equal(VERSION, version);
});
