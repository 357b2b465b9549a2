/** A configuration file as it was written: its values, where they stand, and what cannot be right about its keys. */
import { LineCounter, parseDocument } from 'yaml';
import { ENVIRONMENT_KEYS, LOG_KEYS, PORT_KEYS } from './environments.ts';
import { formatPath, type Problem, unknownKey } from './problems.ts';

export interface FileContent {
  readonly values: Readonly<Record<string, unknown>>;
  readonly problems: readonly Problem[];
  /** Line of a value, or of the nearest thing around it. */
  line(path: readonly PropertyKey[]): number | undefined;
}

export const EMPTY_FILE: FileContent = { values: {}, problems: [], line: () => undefined };

export const readYaml = (text: string): FileContent => {
  const lineCounter = new LineCounter();
  const document = parseDocument(text, { lineCounter, prettyErrors: false });
  const syntax = document.errors.map((error) => ({
    path: '',
    message: error.message,
    line: lineCounter.linePos(error.pos[0]).line,
  }));
  if (syntax.length > 0) return { ...EMPTY_FILE, problems: syntax };
  let values: unknown;
  try {
    values = document.toJS() ?? {};
  } catch (error) {
    // More aliases than a configuration has any use for.
    return {
      ...EMPTY_FILE,
      problems: [{ path: '', message: error instanceof Error ? error.message : 'is not valid' }],
    };
  }
  if (typeof values !== 'object' || Array.isArray(values)) {
    return { ...EMPTY_FILE, problems: [{ path: '', message: 'the file must hold `key: value` lines', line: 1 }] };
  }
  const line = (path: readonly PropertyKey[]): number | undefined => {
    for (let length = path.length; length > 0; length--) {
      const node = document.getIn(path.slice(0, length), true) as { range?: [number, number, number] } | undefined;
      if (node?.range) return lineCounter.linePos(node.range[0]).line;
    }
    return undefined;
  };
  return { values: values as Record<string, unknown>, problems: [], line };
};

const OAUTH_KEYS: readonly string[] = ['target'];

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Keys that nobody reads: most often a slip of the pen. */
const unknownKeys = (values: Readonly<Record<string, unknown>>, fileKeys: readonly string[]): PropertyKey[][] => {
  const found: PropertyKey[][] = [];
  const check = (value: unknown, at: PropertyKey[], known: readonly string[]): void => {
    if (!isRecord(value)) return;
    for (const key of Object.keys(value)) if (!known.includes(key)) found.push([...at, key]);
  };
  check(values, [], fileKeys);
  check(values['oauth'], ['oauth'], OAUTH_KEYS);
  const environments: readonly unknown[] = Array.isArray(values['environments']) ? values['environments'] : [];
  environments.forEach((environment, index) => {
    check(environment, ['environments', index], ENVIRONMENT_KEYS);
    if (isRecord(environment)) check(environment['logs'], ['environments', index, 'logs'], LOG_KEYS);
    const ports: readonly unknown[] =
      isRecord(environment) && Array.isArray(environment['ports']) ? environment['ports'] : [];
    ports.forEach((port, position) => check(port, ['environments', index, 'ports', position], PORT_KEYS));
  });
  return found;
};

const knownAt = (path: readonly PropertyKey[], fileKeys: readonly string[]): readonly string[] => {
  if (path.length === 1) return fileKeys;
  if (path[0] === 'oauth') return OAUTH_KEYS;
  if (path[2] === 'logs') return path.length === 3 ? ENVIRONMENT_KEYS : LOG_KEYS;
  return path.includes('ports') ? PORT_KEYS : ENVIRONMENT_KEYS;
};

export const fileProblems = (file: FileContent, fileKeys: readonly string[]): Problem[] => [
  ...file.problems,
  ...unknownKeys(file.values, fileKeys).map((path) => ({
    path: formatPath(path),
    message: unknownKey(String(path.at(-1)), knownAt(path, fileKeys)),
    ...lineAt(file, path),
  })),
];

export const lineAt = (file: FileContent, path: readonly PropertyKey[]): { line?: number } => {
  const line = file.line(path);
  return line === undefined ? {} : { line };
};
