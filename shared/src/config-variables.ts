/** Variables of the process environment as part of a configuration: each key of it is also a variable. */
import { resolve } from 'node:path';
import { suggest } from './suggestion.ts';

export interface Variable {
  /** Path in the configuration: `listeners.https`. */
  readonly key: string;
  /** `list`: separated by commas, `[]` is an empty one. `path`: of a file, relative to the working directory. */
  readonly kind: 'text' | 'number' | 'list' | 'json' | 'path';
}

type Tree = Record<string, unknown>;

const isTree = (value: unknown): value is Tree => typeof value === 'object' && value !== null && !Array.isArray(value);

/** `limits.headersTimeoutMs` → `LIMITS_HEADERS_TIMEOUT_MS`. */
const toName = (key: string): string =>
  key
    .split('.')
    .map((part) => part.replace(/(?<=[a-z0-9])(?=[A-Z])/g, '_').toUpperCase())
    .join('_');

const read = (value: string, kind: Variable['kind']): unknown => {
  switch (kind) {
    case 'list':
      return value.trim() === '[]' ? [] : value.split(',').map((item) => item.trim());
    case 'number':
      return /^\d+$/.test(value) ? Number(value) : value;
    case 'json':
      return JSON.parse(value);
    case 'path':
      return resolve(value);
    case 'text':
      return value;
  }
};

const put = (tree: Tree, key: string, value: unknown): void => {
  const parts = key.split('.');
  const last = parts.pop()!;
  let parent = tree;
  for (const part of parts) {
    const child = parent[part];
    parent = parent[part] = isTree(child) ? child : {};
  }
  parent[last] = value;
};

/**
 * Puts the variables that begin with `prefix` into `tree`, over what stands there; empty ones count as absent. What is
 * wrong, unknown names too, is told to `report`. Names that `foreign` matches are nobody's business here.
 * Returns which variable each key came from.
 */
export const applyVariables = (
  tree: Tree,
  env: Readonly<Record<string, string | undefined>>,
  options: { readonly prefix: string; readonly variables: readonly Variable[]; readonly foreign: RegExp },
  report: (name: string, message: string) => void,
): ReadonlyMap<string, string> => {
  const known = new Map(options.variables.map((variable) => [options.prefix + toName(variable.key), variable]));
  const sources = new Map<string, string>();
  for (const name of Object.keys(env).sort()) {
    const value = env[name];
    if (!name.startsWith(options.prefix) || options.foreign.test(name) || value === undefined || value === '') continue;
    const variable = known.get(name);
    if (!variable) {
      const suggestion = suggest(name, known.keys());
      report(name, `unknown variable${suggestion === undefined ? '' : `; did you mean ${suggestion}?`}`);
      continue;
    }
    sources.set(variable.key, name);
    try {
      put(tree, variable.key, read(value, variable.kind));
    } catch {
      report(name, 'is not valid JSON');
    }
  }
  return sources;
};
