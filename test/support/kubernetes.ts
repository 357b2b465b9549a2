/** Kubernetes manifests without a cluster: rendered by kubectl, and compared with the schemas of their kinds. */
import { parseAllDocuments } from 'yaml';
import { runProcess } from './processes.ts';

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly [key: string]: unknown;
}

export const renderOverlay = async (directory: string): Promise<Manifest[]> => {
  const { code, stdout, stderr } = await runProcess('kubectl', ['kustomize', directory]);
  if (code !== 0 || stderr !== '') throw new Error(`kubectl kustomize ${directory}:\n${stderr}`);
  return parseAllDocuments(stdout).map((document) => document.toJS() as Manifest);
};

/** By `apiVersion kind`: the validator of the kind. The kinds that we use, and no others. */
const SCHEMAS: Readonly<Record<string, readonly [packageName: string, file: string]>> = {
  'apps/v1 Deployment': ['kubernetes-models', 'IoK8sApiAppsV1Deployment'],
  'v1 Service': ['kubernetes-models', 'IoK8sApiCoreV1Service'],
  'v1 ConfigMap': ['kubernetes-models', 'IoK8sApiCoreV1ConfigMap'],
  'v1 Namespace': ['kubernetes-models', 'IoK8sApiCoreV1Namespace'],
  'v1 PersistentVolumeClaim': ['kubernetes-models', 'IoK8sApiCoreV1PersistentVolumeClaim'],
  'networking.k8s.io/v1 NetworkPolicy': ['kubernetes-models', 'IoK8sApiNetworkingV1NetworkPolicy'],
  'policy/v1 PodDisruptionBudget': ['kubernetes-models', 'IoK8sApiPolicyV1PodDisruptionBudget'],
  'monitoring.coreos.com/v1 ServiceMonitor': [
    '@kubernetes-models/prometheus-operator',
    'ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1ServiceMonitor',
  ],
};

interface Validator {
  (data: unknown): boolean;
  readonly errors?: readonly { readonly instancePath: string; readonly keyword: string }[] | null;
}

/**
 * A copy of `value` that notes which of its fields nobody looked at. The schemas allow unknown fields, which a cluster
 * drops or refuses; the validators read every field that they know.
 */
const watchReads = (value: unknown, place: string, unread: Set<string>): unknown => {
  if (typeof value !== 'object' || value === null) return value;
  const copy = (
    Array.isArray(value)
      ? value.map((each, index) => watchReads(each, `${place}/${index}`, unread))
      : Object.fromEntries(
          Object.entries(value).map(([key, each]) => [key, watchReads(each, `${place}/${key}`, unread)]),
        )
  ) as Record<string, unknown>;
  if (Array.isArray(value)) return copy;
  for (const key of Object.keys(value)) unread.add(`${place}/${key}`);
  return new Proxy(copy, {
    get(target, key, receiver): unknown {
      unread.delete(`${place}/${String(key)}`);
      return Reflect.get(target, key, receiver);
    },
  });
};

/** What is wrong with it, one line each: of the wrong type, missing, or not known. */
export const manifestFaults = async (manifest: Manifest): Promise<string[]> => {
  const kind = `${manifest.apiVersion} ${manifest.kind}`;
  const name = `${manifest.kind} ${manifest.metadata.name}`;
  const [packageName, file] = SCHEMAS[kind] ?? [];
  if (packageName === undefined) return [`${name}: ${kind} is not known here`];
  // One of the packages does not export its schemas.
  const url = new URL(`./_schemas/${file}.js`, import.meta.resolve(packageName));
  const { validate } = (await import(url.href)) as { readonly validate: Validator };
  const unread = new Set<string>();
  validate(watchReads(manifest, '', unread));
  return [
    ...(validate.errors ?? []).map((error) => `${name}${error.instancePath}: ${error.keyword}`),
    ...[...unread].map((field) => `${name}${field} is not known`),
  ];
};
