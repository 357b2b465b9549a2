// needs: kubectl
/**
 * The Kubernetes manifests: rendered, they fit the schemas of their kinds, refer to what is there, and give the programs
 * what they read. Nothing is deployed.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request, type IncomingMessage } from 'node:http';
import { networkInterfaces, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, it } from 'node:test';
import { parseGatewayConfig } from '../../gateway/src/config.ts';
import { listenInternal } from '../../gateway/src/observability/internal-listener.ts';
import { createKey, privateKeyToJwk } from '../../shared/src/identity/keys.ts';
import { parseClientConfig } from '../../tunnel-client/src/config.ts';
import { suspiciousVariables } from '../../tunnel-client/src/config-sources.ts';
import { manifestFaults, renderOverlay, type Manifest } from '../support/kubernetes.ts';

const OVERLAYS = resolve(import.meta.dirname, '../../deploy/kubernetes/overlays');

interface Container {
  readonly name: string;
  readonly image: string;
  readonly env?: readonly { readonly name: string; readonly value?: string }[];
  readonly envFrom?: readonly { readonly configMapRef: { readonly name: string } }[];
  readonly ports?: readonly {
    readonly name: string;
    readonly containerPort: number;
    readonly hostPort?: number;
    readonly protocol: string;
  }[];
  readonly securityContext: Readonly<Record<string, unknown>>;
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string; readonly subPath?: string }[];
  readonly [probe: `${string}Probe`]:
    { readonly httpGet: { readonly path: string; readonly port: string } } | undefined;
}
interface PodSpec {
  readonly containers: readonly Container[];
  readonly volumes: readonly {
    readonly name: string;
    readonly configMap?: { readonly name: string };
    readonly persistentVolumeClaim?: { readonly claimName: string };
  }[];
  readonly terminationGracePeriodSeconds: number;
  readonly securityContext: Readonly<Record<string, unknown>>;
}
interface Service {
  readonly type?: string;
  readonly externalTrafficPolicy?: string;
  readonly selector: Readonly<Record<string, string>>;
  readonly ports: readonly { readonly port: number; readonly targetPort: string; readonly protocol: string }[];
}

const rendered = new Map<string, Manifest[]>();
for (const name of ['standalone', 'cloud-load-balancer', 'sidecar'])
  rendered.set(name, await renderOverlay(join(OVERLAYS, name)));
const manifestsOf = (overlay: string): Manifest[] => rendered.get(overlay) ?? [];
const find = (overlay: string, kind: string, name?: string): Manifest => {
  const found = manifestsOf(overlay).find(
    (each) => each.kind === kind && (name === undefined || each.metadata.name === name),
  );
  assert.ok(found, `${overlay} has no ${kind} ${name ?? ''}`);
  return found;
};
const specOf = <T>(manifest: Manifest): T => manifest['spec'] as T;
const templateOf = (overlay: string) =>
  specOf<{ strategy?: { type: string }; template: { metadata: { labels: Record<string, string> }; spec: PodSpec } }>(
    find(overlay, 'Deployment'),
  ).template;
const containerOf = (overlay: string, name: string): Container => {
  const found = templateOf(overlay).spec.containers.find((each) => each.name === name);
  assert.ok(found, name);
  return found;
};
const variablesOf = (overlay: string, container: Container): Record<string, string> => ({
  ...Object.assign(
    {},
    ...(container.envFrom ?? []).map(
      ({ configMapRef }) => find(overlay, 'ConfigMap', configMapRef.name)['data'] as Record<string, string>,
    ),
  ),
  ...Object.fromEntries(
    (container.env ?? []).flatMap(({ name, value }) => (value === undefined ? [] : [[name, value] as const])),
  ),
});
const selects = (selector: Readonly<Record<string, string>>, labels: Readonly<Record<string, string>>): boolean =>
  Object.entries(selector).every(([key, value]) => labels[key] === value);

for (const [overlay, manifests] of rendered) {
  describe(`the overlay ${overlay}`, () => {
    it('fits the schemas of its kinds', async () => {
      assert.deepEqual((await Promise.all(manifests.map(manifestFaults))).flat(), []);
    });

    it('has no privileges, and writes into volumes alone', () => {
      const { spec } = templateOf(overlay);
      assert.equal(spec.securityContext['runAsNonRoot'], true);
      assert.equal(spec.securityContext['runAsUser'], 1_000);
      for (const { securityContext, image } of spec.containers) {
        assert.deepEqual(securityContext, {
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        });
        assert.match(image, /:\d+\.\d+\.\d+$/);
      }
    });

    it('refers to volumes, maps, claims and ports that are there', () => {
      const { spec } = templateOf(overlay);
      const volumes = new Set(spec.volumes.map(({ name }) => name));
      for (const { configMap, persistentVolumeClaim } of spec.volumes) {
        if (configMap) find(overlay, 'ConfigMap', configMap.name);
        if (persistentVolumeClaim) find(overlay, 'PersistentVolumeClaim', persistentVolumeClaim.claimName);
      }
      for (const container of spec.containers) {
        for (const mount of container.volumeMounts ?? []) assert.ok(volumes.has(mount.name), mount.name);
        for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe'] as const) {
          const port = container[probe]?.httpGet.port;
          assert.ok(port === undefined || container.ports?.some(({ name }) => name === port), probe);
        }
      }
    });
  });
}

for (const overlay of ['standalone', 'cloud-load-balancer']) {
  describe(`the gateway of ${overlay}`, () => {
    const container = containerOf(overlay, 'gateway');
    const { spec, metadata } = templateOf(overlay);

    it('knows its variables, and has more time to end than it takes', () => {
      const config = parseGatewayConfig(undefined, variablesOf(overlay, container));
      assert.equal(config.drainDelayMs, 15_000);
      assert.ok(spec.terminationGracePeriodSeconds * 1_000 > config.drainDelayMs + config.drainTimeoutMs);
      const mounts = (container.volumeMounts ?? []).map(({ mountPath }) => mountPath);
      for (const path of [config.stateDir, config.tls[0]?.certificate ?? '', config.tls[0]?.key ?? ''])
        assert.ok(
          mounts.some((mount) => path.startsWith(`${mount}/`)),
          path,
        );
      const { host: anywhere, port } = config.listeners.internal as { host: string; port: number };
      assert.equal(anywhere, '0.0.0.0', 'probes come by the address of the pod');
      const ports = new Map(container.ports?.map((each) => [each.name, each.containerPort]));
      assert.equal(ports.get('internal'), port);
      assert.equal(ports.get('https'), config.listeners.https[0]?.port);
      assert.equal(ports.get('quic'), config.listeners.quic[0]?.port);
    });

    it('gets a certificate that is replaced while it runs: a directory, which Kubernetes keeps up to date', () => {
      assert.ok((container.volumeMounts ?? []).every(({ subPath }) => subPath === undefined));
    });

    it('is never there twice: the directory is one file', () => {
      assert.equal(specOf<{ strategy: { type: string } }>(find(overlay, 'Deployment')).strategy.type, 'Recreate');
    });

    it('is selected by its services, policy and budget; the services reach its ports', () => {
      const services = manifestsOf(overlay)
        .filter(({ kind }) => kind === 'Service')
        .map(specOf<Service>);
      for (const { selector, ports } of services) {
        assert.ok(selects(selector, metadata.labels));
        for (const { targetPort, protocol } of ports)
          assert.ok(
            container.ports?.some((each) => each.name === targetPort && each.protocol === protocol),
            targetPort,
          );
      }
      const open = services.flatMap(({ ports }) => ports.map(({ protocol, port }) => `${protocol} ${port}`));
      assert.deepEqual(open.sort(), ['TCP 443', 'TCP 8443', 'TCP 9090', 'UDP 4242']);
      const policy = specOf<{ podSelector: { matchLabels: Record<string, string> } }>(find(overlay, 'NetworkPolicy'));
      assert.ok(selects(policy.podSelector.matchLabels, metadata.labels));
      const budget = specOf<{ selector: { matchLabels: Record<string, string> } }>(
        find(overlay, 'PodDisruptionBudget'),
      );
      assert.ok(selects(budget.selector.matchLabels, metadata.labels));
      const monitor = specOf<{ selector: { matchLabels: Record<string, string> }; endpoints: { port: string }[] }>(
        find(overlay, 'ServiceMonitor'),
      );
      const scraped = manifestsOf(overlay).filter(
        ({ kind, metadata: { labels = {} } }: Manifest & { metadata: { labels?: Record<string, string> } }) =>
          kind === 'Service' && selects(monitor.selector.matchLabels, labels),
      );
      assert.deepEqual(
        scraped.map(({ metadata: { name } }) => name),
        ['gateway-internal'],
      );
      assert.equal(monitor.endpoints[0]?.port, 'internal');
    });
  });
}

it('each overlay of the gateway is reached in its own way', () => {
  const ports = containerOf('standalone', 'gateway').ports ?? [];
  assert.deepEqual(
    ports.map(({ name, hostPort }) => [name, hostPort]),
    [
      ['https', 443],
      ['quic', 4_242],
      ['internal', undefined],
    ],
  );
  for (const name of ['gateway-https', 'gateway-quic']) {
    // Any other policy hides the addresses of clients behind those of nodes.
    const { type, externalTrafficPolicy } = specOf<Service>(find('cloud-load-balancer', 'Service', name));
    assert.deepEqual([type, externalTrafficPolicy], ['LoadBalancer', 'Local']);
  }
  assert.equal(specOf<Service>(find('cloud-load-balancer', 'Service', 'gateway-internal')).type, undefined);
});

it('the tunnel client of the sidecar knows its variables and its file, and has the time to end', (t) => {
  const container = containerOf('sidecar', 'tunnel-client');
  const directory = mkdtempSync(join(tmpdir(), 'gitpod-sidecar-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const file = (find('sidecar', 'ConfigMap')['data'] as Record<string, string>)['tunnel-client.yaml'] ?? '';
  writeFileSync(join(directory, 'tunnel-client.yaml'), file);
  const key = JSON.stringify(privateKeyToJwk(createKey()));
  const env: Record<string, string> = {
    ...variablesOf('sidecar', container),
    TUNNEL_KEY: key,
    TUNNEL_EXCHANGE_TOKEN: 'token',
  };
  assert.deepEqual(suspiciousVariables(env), []);
  assert.equal(env['TUNNEL_CONFIG'], '/config/tunnel-client.yaml');
  const config = parseClientConfig({
    env,
    flags: {},
    cwd: '/',
    file: { path: join(directory, 'tunnel-client.yaml'), text: file },
  });
  assert.ok(templateOf('sidecar').spec.terminationGracePeriodSeconds * 1_000 > config.drainTimeoutMs);
});

it('faults are seen', async () => {
  const deployment = JSON.stringify(find('standalone', 'Deployment'));
  for (const [from, to, fault] of [
    [
      '"automountServiceAccountToken"',
      '"automountToken"',
      'Deployment gateway/spec/template/spec/automountToken is not known',
    ],
    [
      '"containerPort":8443',
      '"containerPort":"https"',
      'Deployment gateway/spec/template/spec/containers/0/ports/0/containerPort: type',
    ],
    ['"selector"', '"selectors"', 'Deployment gateway/spec/selectors is not known'],
  ] as const) {
    assert.ok(deployment.includes(from), from);
    const faults = await manifestFaults(JSON.parse(deployment.replace(from, to)) as Manifest);
    assert.ok(faults.includes(fault), `${fault}\n${faults.join('\n')}`);
  }
});

it('probes and scrapes reach what is open by the address of the pod and by any name; nothing else is reached so', async (t) => {
  const pod = Object.values(networkInterfaces())
    .flat()
    .find((each) => each?.family === 'IPv4' && !each.internal)?.address;
  if (pod === undefined) return t.skip('this machine has no address but that of loopback');
  const listener = await listenInternal(
    {
      token: 'token',
      notReady: () => undefined,
      metrics: { text: async () => Promise.resolve('up 1\n'), contentType: 'text/plain' },
      status: () => ({}),
    },
    { kind: 'tcp', host: '0.0.0.0', port: 0 },
  );
  t.after(() => listener.close());
  const port = listener.address.kind === 'tcp' ? listener.address.port : 0;
  const statusOf = async (path: string, host: string): Promise<number | undefined> => {
    const asked = request({ host: pod, port, path, headers: { host }, agent: false }).end();
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    response.resume();
    return response.statusCode;
  };
  for (const path of ['/livez', '/readyz', '/metrics'])
    for (const host of [`${pod}:${port}`, `gateway-internal.gitpod-gateway.svc:${port}`])
      assert.equal(await statusOf(path, host), 200, `${host}${path}`);
  assert.equal(await statusOf('/status', `${pod}:${port}`), 401);
  assert.equal(await statusOf('/status', `gateway-internal.gitpod-gateway.svc:${port}`), 403);
});
