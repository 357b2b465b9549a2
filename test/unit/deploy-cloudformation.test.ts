/**
 * The CloudFormation templates: under every kind of parameters each type, property and reference exists in the published
 * resource types, and what the programs get is what they read. Nothing is deployed.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { describe, it, type TestContext } from 'node:test';
import { loadAwsServiceSpec } from '@aws-cdk/aws-service-spec';
import { parseGatewayConfig } from '../../gateway/src/config.ts';
import { createKey, privateKeyToJwk } from '../../shared/src/identity/keys.ts';
import { parseClientConfig } from '../../tunnel-client/src/config.ts';
import { suspiciousVariables } from '../../tunnel-client/src/config-sources.ts';
import { evaluateTemplate, parseTemplate, type Stack, type Template, type Values } from '../support/cloudformation.ts';
import { runProcess } from '../support/processes.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const textOf = (name: string): string => readFileSync(join(ROOT, 'deploy/cloudformation', `${name}.yaml`), 'utf8');
const spec = await loadAwsServiceSpec();
const templates = { gateway: parseTemplate(textOf('gateway')), runner: parseTemplate(textOf('runner')) };

const zones = (count: number): Values => ({
  AvailabilityZones: ['zone-a', 'zone-b', 'zone-c'].slice(0, count),
  InstanceSubnets: ['subnet-1', 'subnet-2', 'subnet-3'].slice(0, count),
});
const gatewayValues = (count: number, others: Values = {}): Values => ({
  VpcId: 'vpc-1',
  ...zones(count),
  LoadBalancerSubnets: ['subnet-4', 'subnet-5', 'subnet-6'].slice(0, count),
  DomainName: 'gateway.example.com',
  GatewayCertificateArn: 'arn:aws:secretsmanager:eu-central-1:123456789012:secret:gateway-AbCdEf',
  Image: '123456789012.dkr.ecr.eu-central-1.amazonaws.com/gateway:0.1.0',
  ...others,
});
const runnerValues = (others: Values = {}): Values => ({
  RunnerId: '01a1fa50-8aa0-7fbb-a997-001649445d19',
  ExchangeToken: 'token',
  ApiEndpoint: 'https://api.gateway.example.com',
  RunnerKey: `${JSON.stringify(privateKeyToJwk(createKey()))}\n`,
  VpcId: 'vpc-1',
  ...zones(2),
  Image: '123456789012.dkr.ecr.eu-central-1.amazonaws.com/tunnel-client:0.1.0',
  ...others,
});
/** The load balancer ends TLS. */
const ACM = {
  CertificateArn: 'arn:aws:acm:eu-central-1:123456789012:certificate/0123-45',
  LoadBalancerNetworks: '10.0.0.0/24,10.0.1.0/24',
};
const PROXY = { HttpsProxy: 'http://proxy.company.com:8080', HttpProxy: 'http://proxy.company.com:8080' };

const PRIVATE = { GatewayEndpointService: 'com.amazonaws.vpce.eu-central-1.vpce-svc-0123456789abcdef0' };
const REMOTE_WRITE = {
  RemoteWriteUrl: 'https://prometheus.example.com/api/v1/write',
  RemoteWriteUsername: 'runners',
  RemoteWritePassword: 'sesame',
};

const INTERNET = { LoadBalancerVisibility: 'internet-facing' };
const VARIANTS: readonly { readonly name: string; readonly template: Template; readonly values: Values }[] = [
  ...[1, 2, 3].flatMap((count) => [
    { name: `gateway, internal, zones: ${count}`, template: templates.gateway, values: gatewayValues(count) },
    {
      name: `gateway, for the internet, zones: ${count}`,
      template: templates.gateway,
      values: gatewayValues(count, INTERNET),
    },
  ]),
  {
    name: 'gateway with a security group of its owner',
    template: templates.gateway,
    values: gatewayValues(2, { LoadBalancerSecurityGroup: 'sg-0123456789abcdef0', TaskSize: 'large' }),
  },
  {
    name: 'gateway whose load balancer ends TLS',
    template: templates.gateway,
    values: gatewayValues(2, { ...INTERNET, ...ACM }),
  },
  { name: 'runner', template: templates.runner, values: runnerValues() },
  {
    name: 'runner with everything',
    template: templates.runner,
    values: runnerValues({
      ...PROXY,
      EnvironmentSecurityGroup: 'sg-0123456789abcdef0',
      CustomCaCertificate: '{{resolve:ssm:/ca}}',
      ...PRIVATE,
      ...REMOTE_WRITE,
    }),
  },
  {
    name: 'gateway with private endpoints',
    template: templates.gateway,
    values: gatewayValues(2, {
      PrivateLinkPrincipals: 'arn:aws:iam::123456789012:root,arn:aws:iam::210987654321:root',
    }),
  },
];

type Properties = Record<string, unknown>;
const propertiesOf = (stack: Stack, name: string): Properties => stack.resources[name]?.Properties ?? {};
const ofType = (stack: Stack, type: string): Properties[] =>
  Object.values(stack.resources)
    .filter(({ Type }) => Type === type)
    .map(({ Properties: properties }) => properties ?? {});

interface ContainerDefinition {
  readonly Name: string;
  readonly EntryPoint?: readonly string[];
  readonly Environment?: readonly { readonly Name: string; readonly Value: string }[];
  readonly Secrets?: readonly { readonly Name: string }[];
  readonly HealthCheck?: { readonly Command: readonly string[] };
  readonly StopTimeout?: number;
  readonly ReadonlyRootFilesystem?: boolean;
}
const containerOf = (stack: Stack, name: string): ContainerDefinition => {
  const all = propertiesOf(stack, 'TaskDefinition')['ContainerDefinitions'] as ContainerDefinition[];
  const found = all.find(({ Name }) => Name === name);
  assert.ok(found, name);
  return found;
};
const variablesOf = ({ Environment = [] }: ContainerDefinition): Record<string, string> =>
  Object.fromEntries(Environment.map(({ Name, Value }) => [Name, Value]));

/** Runs the program of a container that prepares files, with `place` instead of the directory in the container. */
const prepare = async (t: TestContext, container: ContainerDefinition, place: string, env: Record<string, string>) => {
  const directory = mkdtempSync(join(tmpdir(), 'gitpod-prepare-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const [, ...args] = container.EntryPoint ?? [];
  const own = `${process.getuid?.()}, ${process.getgid?.()}`;
  const script = args.map((text) => text.replaceAll(place, directory).replaceAll('1000, 1000', own));
  assert.deepEqual(await runProcess(process.execPath, script, { env }), { code: 0, stdout: '', stderr: '' });
  return directory;
};

describe('the CloudFormation templates', () => {
  for (const { name, template, values } of VARIANTS) {
    it(`${name}: everything exists in CloudFormation and is complete`, () => {
      const { faults, refusals, outputs } = evaluateTemplate(spec, template, values);
      assert.deepEqual([...faults, ...refusals], []);
      for (const value of Object.values(outputs)) assert.equal(typeof value, 'string');
    });
  }

  for (const [name, template] of Object.entries(templates)) {
    it(`${name}: each parameter has a place in the form and a use, and secrets are not shown`, () => {
      const form = template.Metadata['AWS::CloudFormation::Interface'];
      const placed = form.ParameterGroups.flatMap(({ Parameters }) => Parameters);
      assert.deepEqual(placed.toSorted(), Object.keys(template.Parameters).sort());
      for (const labelled of Object.keys(form.ParameterLabels)) assert.ok(placed.includes(labelled), labelled);
      const body = JSON.stringify([template.Conditions, template.Resources, template.Outputs]);
      // The zones of the runner are asked for beside their subnets, which decide.
      for (const used of placed.filter((each) => each !== 'AvailabilityZones'))
        assert.ok(body.includes(`"Ref":"${used}"`) || body.includes(`\${${used}}`), used);
    });
  }
  it('the secrets among the parameters are not shown', () => {
    const hidden = Object.entries(templates.runner.Parameters).filter(([, { NoEcho }]) => NoEcho);
    assert.deepEqual(hidden.map(([name]) => name).sort(), ['ExchangeToken', 'RemoteWritePassword', 'RunnerKey']);
  });

  it('faults are seen', () => {
    const faultsWith = (from: string, to: string): readonly string[] => {
      const text = textOf('gateway');
      assert.ok(text.includes(from), from);
      return evaluateTemplate(spec, parseTemplate(text.replace(from, to)), gatewayValues(2)).faults;
    };
    for (const [from, to, fault] of [
      ['Type: AWS::ECS::Cluster', 'Type: AWS::ECS::Clusters', 'Cluster: there is no type AWS::ECS::Clusters'],
      ['Encrypted: true', 'Encrypt: true', 'FileSystem.Encrypt is not known'],
      ['Encrypted: true', 'Encrypted: 5', 'FileSystem.Encrypted is 5, which is no boolean'],
      ['Path: /gateway', 'Paths: /gateway', 'StateDirectory.RootDirectory.Paths is not known'],
      [
        'FileSystemId: !Ref FileSystem',
        'FileSystemId: !Ref Files',
        'StateDirectory: there is no parameter or resource Files',
      ],
      [
        '!GetAtt LoadBalancer.DNSName',
        '!GetAtt LoadBalancer.Name',
        'output LoadBalancerDNS: LoadBalancer has no attribute Name',
      ],
      ['[0, !Ref InstanceSubnets]', '[5, !Ref InstanceSubnets]', 'FirstMountTarget: Fn::Select 5 of 2'],
      ['Condition: HasThirdZone', 'Condition: HasZone', 'ThirdMountTarget: there is no condition HasZone'],
      ['- RedirectListener', '- HttpListener', 'Service depends on HttpListener, which is not there'],
      [
        '- IsInternetFacing',
        '- MakesSecurityGroup',
        'output TunnelAddresses: FirstAddress is not made under these conditions',
      ],
    ] as const) {
      const found = faultsWith(from, to);
      assert.ok(found.includes(fault), `${fault}\n${found.join('\n')}`);
    }
    const withoutGroup = faultsWith('      Domain: vpc\n', '');
    assert.deepEqual(withoutGroup, [], 'what is not required may be left out');
    const withoutVpc = faultsWith('      FileSystemId: !Ref FileSystem\n', '');
    assert.ok(withoutVpc.includes('StateDirectory.FileSystemId is missing'), withoutVpc.join('\n'));
  });
});

describe('the template of the gateway', () => {
  const stack = evaluateTemplate(spec, templates.gateway, gatewayValues(3, INTERNET));

  it('has four listeners, and asks for health over TCP 8443', () => {
    const listeners = ofType(stack, 'AWS::ElasticLoadBalancingV2::Listener');
    assert.deepEqual(listeners.map(({ Protocol, Port }) => `${String(Protocol)} ${String(Port)}`).sort(), [
      'TCP 443',
      'TCP 80',
      'TCP 8443',
      'UDP 4242',
    ]);
    for (const group of ofType(stack, 'AWS::ElasticLoadBalancingV2::TargetGroup')) {
      assert.deepEqual([group['HealthCheckProtocol'], group['HealthCheckPort']], ['TCP', '8443']);
    }
  });

  it('tells addresses that stay, or the name of the load balancer where there are none', () => {
    const three = ['First', 'Second', 'Third'].map((each) => `<${each}Address.PublicIp>`);
    assert.equal(stack.outputs['TunnelAddresses'], three.map((each) => `${each}:4242`).join(','));
    assert.equal(stack.outputs['HttpsAddresses'], three.map((each) => `${each}:443`).join(','));
    const one = evaluateTemplate(spec, templates.gateway, gatewayValues(1, INTERNET));
    assert.equal(one.outputs['TunnelAddresses'], '<FirstAddress.PublicIp>:4242');
    const internal = evaluateTemplate(spec, templates.gateway, gatewayValues(3));
    assert.deepEqual(ofType(internal, 'AWS::EC2::EIP'), []);
    assert.equal(internal.outputs['HttpsAddresses'], '<LoadBalancer.DNSName>:443');
    for (const { outputs } of [stack, internal]) assert.equal(outputs['LoadBalancerDNS'], '<LoadBalancer.DNSName>');
  });

  it('gives the gateway variables that it knows, and more time to end than it takes', () => {
    const container = containerOf(stack, 'gateway');
    const config = parseGatewayConfig(undefined, variablesOf(container));
    assert.deepEqual(config.domains, ['gateway.example.com']);
    assert.equal(config.publicPort, 443);
    assert.equal(config.drainDelayMs, 15_000);
    assert.ok((container.StopTimeout ?? 0) * 1_000 > config.drainDelayMs + config.drainTimeoutMs);
    assert.ok(container.ReadonlyRootFilesystem);
    assert.deepEqual(config.listeners.internal, { kind: 'tcp', host: '127.0.0.1', port: 9_090 });
  });

  it('believes a load balancer that ends TLS, which tells clients on each port', () => {
    const ended = evaluateTemplate(spec, templates.gateway, gatewayValues(2, ACM));
    const listeners = ofType(ended, 'AWS::ElasticLoadBalancingV2::Listener');
    const browsers = listeners.find(({ Port }) => Port === 443)!;
    assert.equal(browsers['Protocol'], 'TLS');
    assert.deepEqual(browsers['Certificates'], [{ CertificateArn: ACM.CertificateArn }]);
    const groups = ofType(ended, 'AWS::ElasticLoadBalancingV2::TargetGroup').filter(
      ({ Protocol }) => Protocol === 'TCP',
    );
    for (const group of groups) {
      const attributes = group['TargetGroupAttributes'] as { Key: string; Value: string }[];
      assert.equal(attributes.find(({ Key }) => Key === 'proxy_protocol_v2.enabled')?.Value, 'true');
    }
    const config = parseGatewayConfig(undefined, variablesOf(containerOf(ended, 'gateway')));
    assert.deepEqual(config.trustedProxies, ACM.LoadBalancerNetworks.split(','));
    assert.equal(config.proxyProtocol, 'required');
    assert.deepEqual(config.advertise.tcp, ['tunnel.gateway.example.com:8443']);
    const { refusals } = evaluateTemplate(
      spec,
      templates.gateway,
      gatewayValues(2, { ...ACM, LoadBalancerNetworks: '' }),
    );
    assert.deepEqual(refusals, ['EndOfTlsNeedsNetworks']);
    const own = parseGatewayConfig(undefined, variablesOf(containerOf(stack, 'gateway')));
    assert.deepEqual([own.trustedProxies, own.listeners.http.length], [[], 1]);
  });

  it('offers private endpoints to those who were named, and to nobody else', () => {
    const principals = ['arn:aws:iam::123456789012:root', 'arn:aws:iam::210987654321:role/runners'];
    const values = gatewayValues(2, { PrivateLinkPrincipals: principals.join(',') });
    const offering = evaluateTemplate(spec, templates.gateway, values);
    assert.equal(propertiesOf(offering, 'EndpointService')['AcceptanceRequired'], true);
    assert.deepEqual(propertiesOf(offering, 'EndpointServicePermissions')['AllowedPrincipals'], principals);
    const pattern = new RegExp(String(templates.runner.Parameters['GatewayEndpointService']?.AllowedPattern));
    const name = String(offering.outputs['EndpointServiceName']).replace('<EndpointService>', 'vpce-svc-0a1b');
    assert.match(name, pattern);
    assert.equal(stack.outputs['EndpointServiceName'], 'none');
    assert.deepEqual(ofType(stack, 'AWS::EC2::VPCEndpointService'), []);
  });

  it('never lets two tasks write the directory', () => {
    const service = propertiesOf(stack, 'Service');
    const { MinimumHealthyPercent, MaximumPercent } = service['DeploymentConfiguration'] as Properties;
    assert.deepEqual([service['DesiredCount'], MinimumHealthyPercent, MaximumPercent], [1, 0, 100]);
  });

  it('makes files of the certificate, that the gateway alone can read', async (t) => {
    const directory = await prepare(t, containerOf(stack, 'certificate'), '/tls', { CERTIFICATE: 'one', KEY: 'two' });
    assert.equal(readFileSync(join(directory, 'certificate.pem'), 'utf8'), 'one\n');
    assert.equal(readFileSync(join(directory, 'key.pem'), 'utf8'), 'two\n');
    assert.equal(statSync(join(directory, 'key.pem')).mode & 0o777, 0o600);
  });
});

describe('the template of the runner', () => {
  const stack = evaluateTemplate(spec, templates.runner, runnerValues());
  const full = evaluateTemplate(
    spec,
    templates.runner,
    runnerValues({ ...PROXY, CustomCaCertificate: '{{resolve:ssm:/gitpod/ca-cert}}' }),
  );

  it('gives the tunnel client variables that it knows', () => {
    const secrets = { TUNNEL_KEY: String(runnerValues()['RunnerKey']), TUNNEL_EXCHANGE_TOKEN: 'token' };
    for (const { container, ca } of [
      { container: containerOf(stack, 'tunnel-client'), ca: undefined },
      { container: containerOf(full, 'tunnel-client'), ca: '/var/lib/tunnel-client/ca.pem' },
    ]) {
      assert.deepEqual(container.Secrets?.map(({ Name }) => Name).sort(), Object.keys(secrets).sort());
      const env: Record<string, string> = { ...variablesOf(container), ...secrets };
      assert.deepEqual(suspiciousVariables(env), []);
      assert.equal(env['TUNNEL_CA'], ca);
      assert.equal(env['TUNNEL_INTERNAL'], '127.0.0.1:9090');
      const withoutFiles = Object.fromEntries(Object.entries(env).filter(([name]) => name !== 'TUNNEL_CA'));
      const config = parseClientConfig({ env: withoutFiles, flags: {}, cwd: '/' });
      assert.ok((container.StopTimeout ?? 0) * 1_000 > config.drainTimeoutMs);
      assert.equal(container.HealthCheck?.Command.at(-1), 'health');
    }
    assert.equal(variablesOf(containerOf(full, 'tunnel-client'))['HTTPS_PROXY'], PROXY.HttpsProxy);
  });

  it('starts the new task before it stops the old one', () => {
    const { MinimumHealthyPercent, MaximumPercent } = propertiesOf(stack, 'Service')[
      'DeploymentConfiguration'
    ] as Properties;
    assert.deepEqual([MinimumHealthyPercent, MaximumPercent], [100, 200]);
  });

  it('has the rules that the documents ask for', () => {
    const rules = (list: unknown): string[] =>
      (list as Properties[]).map(
        ({ IpProtocol, FromPort, ToPort }) => `${String(IpProtocol)} ${String(FromPort)}-${String(ToPort)}`,
      );
    const outbound = ['tcp 443-443', 'tcp 8443-8443', 'udp 4242-4242'];
    assert.deepEqual(rules(propertiesOf(stack, 'RunnerSecurityGroup')['SecurityGroupEgress']), outbound);
    assert.deepEqual(rules(propertiesOf(full, 'RunnerSecurityGroup')['SecurityGroupEgress']), [
      ...outbound,
      'tcp 8080-8080',
    ]);
    assert.equal(propertiesOf(stack, 'RunnerSecurityGroup')['SecurityGroupIngress'], undefined);
    const inbound = propertiesOf(stack, 'DefaultEnvironmentSecurityGroup')['SecurityGroupIngress'] as Properties[];
    assert.deepEqual(rules(inbound), ['tcp 29222-29222', 'tcp 22999-22999', 'tcp 1024-65535']);
    assert.deepEqual(
      inbound.map(({ CidrIp, SourceSecurityGroupId }) => CidrIp ?? SourceSecurityGroupId),
      ['0.0.0.0/0', '<RunnerSecurityGroup.GroupId>', '<RunnerSecurityGroup.GroupId>'],
    );
  });

  it('sends metrics where it is told to, with a password that stands in no variable of the client', async (t) => {
    const pushing = evaluateTemplate(spec, templates.runner, runnerValues(REMOTE_WRITE));
    const client = containerOf(pushing, 'tunnel-client');
    assert.ok(!JSON.stringify(client).includes('sesame'));
    const env = { ...variablesOf(client), TUNNEL_KEY: String(runnerValues()['RunnerKey']) };
    const { remoteWrite } = parseClientConfig({ env, flags: {}, cwd: '/' });
    assert.equal(remoteWrite?.url, REMOTE_WRITE.RemoteWriteUrl);
    assert.equal(remoteWrite.username, 'runners');
    const prepared = await prepare(t, containerOf(pushing, 'prepare'), '/var/lib/tunnel-client', {
      REMOTE_WRITE_PASSWORD: 'sesame',
    });
    const file = join(prepared, 'remote-write-password');
    assert.equal(remoteWrite.passwordFile, '/var/lib/tunnel-client/remote-write-password');
    assert.equal(readFileSync(file, 'utf8'), 'sesame\n');
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const { RemoteWriteUrl } = REMOTE_WRITE;
    const open = evaluateTemplate(spec, templates.runner, runnerValues({ RemoteWriteUrl }));
    assert.equal(variablesOf(containerOf(open, 'tunnel-client'))['TUNNEL_REMOTE_WRITE'], RemoteWriteUrl);
    for (const incomplete of [
      { ...REMOTE_WRITE, RemoteWriteUrl: '' },
      { ...REMOTE_WRITE, RemoteWritePassword: '' },
    ]) {
      const { refusals } = evaluateTemplate(spec, templates.runner, runnerValues(incomplete));
      assert.deepEqual(refusals, ['RemoteWriteNeedsAll']);
    }
  });

  it('reaches the gateway by a private endpoint under its own names, where there is one', () => {
    const near = evaluateTemplate(
      spec,
      templates.runner,
      runnerValues({ ...PRIVATE, ApiEndpoint: 'https://api.gateway.example.com:443/' }),
    );
    const names = (type: string): unknown[] => ofType(near, type).map(({ Name }) => Name);
    const expected = ['api.gateway.example.com', 'tunnel.gateway.example.com'];
    assert.deepEqual(names('AWS::Route53::HostedZone'), expected);
    assert.deepEqual(names('AWS::Route53::RecordSet'), expected);
    const { AliasTarget: alias } = propertiesOf(near, 'ApiRecord');
    const entry = '<GatewayEndpoint.DnsEntries>';
    assert.deepEqual(alias, { HostedZoneId: `${entry}[0]`, DNSName: `${entry}[1]` });
    assert.deepEqual(ofType(stack, 'AWS::EC2::VPCEndpoint'), []);
    assert.deepEqual(ofType(stack, 'AWS::Route53::HostedZone'), []);
  });

  it('refuses a proxy without exceptions', () => {
    const refused = evaluateTemplate(spec, templates.runner, runnerValues({ ...PROXY, NoProxy: '' }));
    assert.deepEqual(refused.refusals, ['ProxyNeedsExceptions']);
  });

  it('makes a file of the additional root', async (t) => {
    const container = containerOf(full, 'prepare');
    const withCa = await prepare(t, container, '/var/lib/tunnel-client', { CUSTOM_CA: 'root' });
    assert.equal(readFileSync(join(withCa, 'ca.pem'), 'utf8'), 'root\n');
    assert.equal(statSync(withCa).mode & 0o777, 0o700);
  });
});
