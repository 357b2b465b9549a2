import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import { describe, it } from 'node:test';
import { ConfigError, parseGatewayConfig } from '../../gateway/src/config.ts';
import { GATEWAY_LIMITS } from '../../gateway/src/limits.ts';
import { suggest } from '../../shared/src/suggestion.ts';
import { parseDuration, parseSize } from '../../shared/src/units.ts';

const problemsOf = (yaml: string | undefined, env: Record<string, string> = {}): [string, string][] => {
  try {
    parseGatewayConfig(yaml, env);
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    for (const { path, message } of error.problems) assert.ok(error.message.includes(`  ${path}: ${message}`));
    return error.problems.map(({ path, message }) => [path, message]);
  }
  return [];
};
/** The one problem of a configuration. */
const problemOf = (yaml: string | undefined, env: Record<string, string> = {}): [string, string] => {
  const problems = problemsOf(yaml, env);
  assert.equal(problems.length, 1, JSON.stringify(problems));
  return problems[0]!;
};

describe('gateway configuration', () => {
  it('has the defaults of a gateway that stands alone', () => {
    assert.deepEqual(parseGatewayConfig(undefined, {}), {
      domains: ['gateway.localhost'],
      listeners: {
        https: [{ host: '::', port: 8443 }],
        quic: [
          { host: '0.0.0.0', port: 4242 },
          { host: '::', port: 4242 },
        ],
        http: [],
        internal: { kind: 'tcp', host: '127.0.0.1', port: 9090 },
      },
      publicPort: undefined,
      advertise: { quic: [], tcp: [] },
      name: undefined,
      region: undefined,
      tls: [],
      stateDir: resolve('state'),
      directory: { type: 'embedded' },
      authority: undefined,
      signIn: undefined,
      organizations: {},
      cors: [],
      everyonePorts: { interstitial: false, noindex: false },
      limits: { ...GATEWAY_LIMITS },
      drainDelayMs: 0,
      drainTimeoutMs: 30_000,
      trustedProxies: [],
      proxyProtocol: 'optional',
      logLevel: 'info',
      accessLog: { enabled: true, sample: 1 },
      tracing: undefined,
    });
    assert.deepEqual(parseGatewayConfig('# nothing\n', {}), parseGatewayConfig(undefined, {}));
  });

  it('takes the share of requests to log from 0 to 1', () => {
    const env = { GATEWAY_ACCESS_LOG_SAMPLE: '0.05' };
    assert.deepEqual(parseGatewayConfig(undefined, env).accessLog, { enabled: true, sample: 0.05 });
    assert.throws(
      () => parseGatewayConfig('accessLog: { sample: 10 }', {}),
      /accessLog\.sample: must be a number from 0 to 1/,
    );
    assert.throws(() => parseGatewayConfig('accessLog: { sampel: 1 }', {}), /did you mean sample/);
  });

  it('is read from YAML, with paths relative to the file', () => {
    const yaml = `
domains: [Gateway.Example, eu.gateway.example.]
listeners: { https: ["0.0.0.0:443", ":8443"], quic: ["[::1]:0"], http: [":80"], internal: "unix:run/internal.sock" }
publicPort: 443
advertise: { quic: ["198.51.100.7:4242"] }
tls: { certificate: tls/cert.pem, key: /abs/key.pem }
stateDir: ./state
organizations: { acme: { portSharing: false, highestAdmission: organization, limits: { legsPerRunner: 3 } } }
limits: { headersTimeoutMs: 3s, tlsHandshakeTimeoutMs: 2500, maxApiBodyBytes: 4KiB }
drainDelay: 5s
drainTimeout: 1m30s
trustedProxies: [10.0.0.0/8, "::1"]
logLevel: debug
`;
    const config = parseGatewayConfig(yaml, {}, { path: '/etc/gateway/config.yaml' });
    assert.deepEqual(config.domains, ['gateway.example', 'eu.gateway.example']);
    assert.deepEqual(config.listeners, {
      https: [
        { host: '0.0.0.0', port: 443 },
        { host: '::', port: 8443 },
      ],
      quic: [{ host: '::1', port: 0 }],
      http: [{ host: '::', port: 80 }],
      internal: { kind: 'unix', path: '/etc/gateway/run/internal.sock' },
    });
    assert.deepEqual(config.tls, [{ certificate: '/etc/gateway/tls/cert.pem', key: '/abs/key.pem' }]);
    assert.equal(config.stateDir, '/etc/gateway/state');
    assert.deepEqual(config.organizations, {
      acme: {
        portSharing: false,
        highestAdmission: 'organization',
        allowInspectedTls: true,
        limits: { legsPerRunner: 3 },
      },
    });
    assert.deepEqual(config.limits, {
      ...GATEWAY_LIMITS,
      headersTimeoutMs: 3_000,
      tlsHandshakeTimeoutMs: 2_500,
      maxApiBodyBytes: 4_096,
    });
    assert.deepEqual([config.drainDelayMs, config.drainTimeoutMs], [5_000, 90_000]);
    assert.deepEqual([config.publicPort, config.advertise.quic], [443, ['198.51.100.7:4242']]);
    assert.deepEqual([config.trustedProxies, config.logLevel], [['10.0.0.0/8', '::1'], 'debug']);
  });

  it('takes every key from a variable as well, over the file', () => {
    const config = parseGatewayConfig(
      'domains: [a.test]\nlimits: { legs: 5, legsPerRunner: 6 }\ntls: { certificate: a, key: b }\n',
      {
        GATEWAY_DOMAINS: 'b.test, c.test',
        GATEWAY_LISTENERS_HTTPS: '[::]:443,0.0.0.0:8443',
        GATEWAY_LISTENERS_QUIC: '127.0.0.1:1',
        GATEWAY_LISTENERS_HTTP: '[]',
        GATEWAY_LISTENERS_INTERNAL: 'unix:/run/x.sock',
        GATEWAY_PUBLIC_PORT: '443',
        GATEWAY_ADVERTISE_QUIC: '[2001:db8::1]:4242',
        GATEWAY_TLS_KEY: '/tls/key.pem',
        GATEWAY_STATE_DIR: 'elsewhere',
        GATEWAY_DIRECTORY_TYPE: 'embedded',
        GATEWAY_ORGANIZATIONS: '{"acme":{"portSharing":false}}',
        GATEWAY_LIMITS_HEADERS_TIMEOUT_MS: '3s',
        GATEWAY_LIMITS_LEGS: '7',
        GATEWAY_DRAIN_DELAY: '2s',
        GATEWAY_DRAIN_TIMEOUT: '0',
        GATEWAY_TRUSTED_PROXIES: '10.0.0.1',
        GATEWAY_LOG_LEVEL: '',
        PATH: '/bin',
      },
      { path: '/etc/gateway/config.yaml' },
    );
    assert.deepEqual(config.domains, ['b.test', 'c.test']);
    assert.deepEqual(config.listeners.https[1], { host: '0.0.0.0', port: 8443 });
    assert.deepEqual(config.listeners.quic, [{ host: '127.0.0.1', port: 1 }]);
    assert.deepEqual(config.listeners.http, []);
    assert.deepEqual(config.listeners.internal, { kind: 'unix', path: '/run/x.sock' });
    assert.equal(config.publicPort, 443);
    assert.deepEqual(config.advertise.quic, ['[2001:db8::1]:4242']);
    assert.deepEqual(config.tls, [{ certificate: '/etc/gateway/a', key: '/tls/key.pem' }]);
    assert.equal(config.stateDir, resolve('elsewhere'));
    assert.equal(config.organizations['acme']!.portSharing, false);
    assert.deepEqual([config.limits.headersTimeoutMs, config.limits.legs, config.limits.legsPerRunner], [3_000, 7, 6]);
    assert.deepEqual([config.drainDelayMs, config.drainTimeoutMs, config.logLevel], [2_000, 0, 'info']);
  });

  it('has a variable for every key', () => {
    const toName = (key: string): string => key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
    for (const name of Object.keys(GATEWAY_LIMITS)) {
      const variable = `GATEWAY_LIMITS_${toName(name)}`;
      const { limits } = parseGatewayConfig(undefined, { [variable]: '77' });
      assert.equal(limits[name as keyof typeof limits], 77, variable);
    }
  });

  it('leaves alone what Kubernetes sets for a service named "gateway"', () => {
    const env = {
      GATEWAY_PORT: 'tcp://10.0.0.1:443',
      GATEWAY_PORT_443_TCP_ADDR: '10.0.0.1',
      GATEWAY_SERVICE_HOST: '10.0.0.1',
      GATEWAY_SERVICE_PORT_HTTPS: '443',
      GATEWAY_CONFIG: '/etc/gateway.yaml',
    };
    assert.deepEqual(parseGatewayConfig(undefined, env), parseGatewayConfig(undefined, {}));
  });

  it('is frozen, and shares nothing with the defaults', () => {
    const config = parseGatewayConfig(undefined, {});
    assert.ok(Object.isFrozen(config) && Object.isFrozen(config.listeners.https[0]) && Object.isFrozen(config.limits));
    assert.notEqual(config.limits, GATEWAY_LIMITS);
  });

  it('names all faults at once, each with its path', () => {
    const problems = problemsOf(
      'domain: [x]\nlisteners: { htps: [], https: ["nope"] }\nlimits: { legs: 0 }\ndrainDelay: 3\n',
      { GATEWAY_LIMITS_LEGS_PER_RUNNE: '1', GATEWAY_PUBLIC_PORT: '70000' },
    );
    assert.deepEqual(
      new Set(problems.map(([path]) => path)),
      new Set([
        'domain',
        'listeners.htps',
        'listeners.https.0',
        'limits.legs',
        'drainDelay',
        'GATEWAY_LIMITS_LEGS_PER_RUNNE',
        'GATEWAY_PUBLIC_PORT',
      ]),
    );
    assert.equal(problems.length, 7);
  });

  it('proposes the key that was meant', () => {
    assert.deepEqual(problemOf('domain: [a.test]'), ['domain', 'unknown key; did you mean domains?']);
    assert.deepEqual(problemOf('limits: { headerTimeoutMs: 3s }')[1], 'unknown key; did you mean headersTimeoutMs?');
    assert.deepEqual(problemOf('tls: [{ certificate: a, key: b, cert: c }]')[0], 'tls.0.cert');
    assert.deepEqual(problemOf('organizations: { acme: { portSharin: true } }'), [
      'organizations.acme.portSharin',
      'unknown key; did you mean portSharing?',
    ]);
    assert.equal(problemOf('qqqqqq: 1')[1], 'unknown key');
    assert.match(problemOf(undefined, { GATEWAY_DOMAIN: 'x' })[1], /did you mean GATEWAY_DOMAINS\?/);
  });

  it('that is broken YAML names line and column', () => {
    assert.match(problemOf('domains: [a.test]\ndomains: [b.test]\n')[0], /^line 2, column 1$/);
    assert.ok(problemsOf('domains: [\nstateDir: }\n').every(([path]) => /^line \d+, column \d+$/.test(path)));
    assert.match(problemOf('- a\n- b\n')[1], /keys and values/);
    assert.equal(problemOf(undefined, { GATEWAY_TLS: '{' })[0], 'GATEWAY_TLS');
  });

  it('that is a bomb of aliases is refused', () => {
    const levels = Array.from(
      { length: 9 },
      (_, index) => `a${index + 1}: &a${index + 1} [${Array.from({ length: 9 }, () => `*a${index}`).join(', ')}]`,
    );
    assert.throws(() => parseGatewayConfig(['a0: &a0 [x]', ...levels].join('\n'), {}), ConfigError);
  });

  it('with a wrong value says what is right', () => {
    const cases: [string, string, RegExp][] = [
      ['domains: []', 'domains', /at least one/],
      ['domains: ["*.a.test"]', 'domains.0', /without scheme, port and/],
      ['domains: ["https://a.test"]', 'domains.0', /is no domain/],
      ['domains: [192.0.2.1]', 'domains.0', /is no domain/],
      ['domains: [a.test, A.test]', 'domains', /twice/],
      ['listeners: { https: [] }', 'listeners.https', /at least one/],
      ['listeners: { https: ["8443"] }', 'listeners.https.0', /host:port/],
      ['listeners: { https: ["::1:8443"] }', 'listeners.https.0', /\[address\]:port/],
      ['listeners: { https: [":70000"] }', 'listeners.https.0', /0 to 65535/],
      ['listeners: { https: [":1"], http: [":1"] }', 'listeners', /\[::\]:1 stands twice/],
      ['listeners: { quic: ["localhost:4242"] }', 'listeners.quic.0', /addresses only/],
      ['listeners: { internal: "unix:" }', 'listeners.internal', /path is missing/],
      ['advertise: { quic: ["a.test:0"] }', 'advertise.quic.0', /nobody can dial/],
      ['tls: { certificate: a }', 'tls.0.key', /./],
      ['stateDir: ""', 'stateDir', /./],
      ['directory: { type: nats }', 'directory.type', /embedded/],
      ['organizations: { "a/b": {} }', 'organizations.a/b', /./],
      ['drainTimeout: 3', 'drainTimeout', /number and a unit/],
      ['drainTimeout: 25h', 'drainTimeout', /longer than 24h/],
      ['trustedProxies: [10.0.0.0/33]', 'trustedProxies.0', /neither/],
      ['trustedProxies: [0.0.0.0/0]', 'trustedProxies.0', /everybody/],
      ['trustedProxies: ["::/0"]', 'trustedProxies.0', /everybody/],
      ['proxyProtocol: required', 'proxyProtocol', /trustedProxies/],
      ['proxyProtocol: maybe', 'proxyProtocol', /./],
      [
        '{ listeners: { https: [":8443"], http: [":80"] }, publicPort: 443, trustedProxies: [10.0.0.2] }',
        'advertise.tcp',
        /tunnel\.gateway\.localhost:8443/,
      ],
      ['limits: { legs: 1.5 }', 'limits.legs', /whole number/],
      ['limits: { headersTimeoutMs: 3x }', 'limits.headersTimeoutMs', /30s/],
      ['limits: { headersTimeoutMs: 30d }', 'limits.headersTimeoutMs', /at most/],
      ['logLevel: loud', 'logLevel', /./],
    ];
    for (const [yaml, path, message] of cases) {
      const problem = problemOf(yaml);
      assert.equal(problem[0], path, yaml);
      assert.match(problem[1], message, yaml);
    }
  });
});

describe('units', () => {
  it('are parsed exactly or not at all', () => {
    assert.deepEqual(
      ['0', '500ms', '1.5s', '1m30s', '2h', '1d'].map(parseDuration),
      [0, 500, 1_500, 90_000, 7_200_000, 86_400_000],
    );
    for (const text of ['', '5', '-5s', '5 s', 's', '5sx', '1e3s']) assert.equal(parseDuration(text), undefined, text);
    assert.deepEqual(['512B', '16KiB', '4MiB', '1GiB'].map(parseSize), [512, 16_384, 4_194_304, 1_073_741_824]);
    for (const text of ['', '5', '5KB', '1.5KiB', '-1B']) assert.equal(parseSize(text), undefined, text);
  });
});

describe('suggestions', () => {
  it('are near, or none', () => {
    const known = ['domains', 'listeners', 'limits'];
    assert.equal(suggest('domian', known), 'domains');
    assert.equal(suggest('LIMITS', known), 'limits');
    assert.equal(suggest('something', known), undefined);
    assert.equal(suggest('x'.repeat(10_000), known), undefined);
  });
});

it('origins that share sessions are exact, and a near miss is named', () => {
  const corsOf = (text: string): readonly string[] => parseGatewayConfig(text, {}).cors;
  assert.deepEqual(corsOf(''), []);
  assert.deepEqual(corsOf('cors: same-creator'), ['same-creator']);
  assert.deepEqual(corsOf('cors: [same-creator, "https://app.example:8443"]'), [
    'same-creator',
    'https://app.example:8443',
  ]);
  assert.deepEqual(parseGatewayConfig(undefined, { GATEWAY_CORS: 'same-creator,https://app.example' }).cors, [
    'same-creator',
    'https://app.example',
  ]);
  assert.throws(() => corsOf('cors: https://app.example/'), /did you mean https:\/\/app\.example\?/);
  for (const entry of ['"*"', 'http://app.example', 'app.example', 'null', 'everyone', 'https://App.example']) {
    assert.throws(() => corsOf(`cors: [${entry}]`), /cors\.0|must be text/, entry);
  }
});
