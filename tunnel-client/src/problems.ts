import type * as z from 'zod';

/** One fault of a configuration or a request. */
export interface Problem {
  /** `environments[0].ports[1].port`; empty for the whole. */
  readonly path: string;
  readonly message: string;
  /** Line of the file, from 1, where it stands in one. */
  readonly line?: number;
}

/** Everything that is wrong, at once. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly problems: readonly Problem[];
  constructor(problems: readonly Problem[], options: { source?: string; cause?: unknown } = {}) {
    const where = (line: number | undefined): string =>
      line === undefined ? '' : `${options.source ?? 'line'}:${line}: `;
    const lines = problems.map(
      ({ path, message, line }) => `  ${where(line)}${path === '' ? '' : `${path}: `}${message}`,
    );
    super(`The configuration of the tunnel client is not usable:\n${lines.join('\n')}`, { cause: options.cause });
    this.problems = problems;
  }
}

export const formatPath = (path: readonly PropertyKey[]): string =>
  path.reduce<string>(
    (text, part) => (typeof part === 'number' ? `${text}[${part}]` : `${text}${text === '' ? '' : '.'}${String(part)}`),
    '',
  );

/** Problems of a failed zod check, in the words of a person. */
export const zodProblems = (
  error: z.ZodError,
  at: readonly PropertyKey[] = [],
): (Problem & { parts: PropertyKey[] })[] =>
  error.issues.map((issue) => {
    const parts = [...at, ...issue.path];
    return { parts, path: formatPath(parts), message: issue.message };
  });

/** Changes of one character between two words (Levenshtein). */
const distance = (a: string, b: string): number => {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
};

/** A word that is so far off is another word, not a slip. */
const MAX_SLIPS = 2;

/** What the person who wrote `word` may have meant. */
export const suggest = (word: string, known: readonly string[]): string | undefined => {
  const normal = (text: string): string => text.toLowerCase().replaceAll(/[-_]/g, '');
  const ranked = known.map((candidate) => ({ candidate, off: distance(normal(word), normal(candidate)) }));
  const best = ranked.sort((a, b) => a.off - b.off)[0];
  return best && best.off <= Math.min(MAX_SLIPS, best.candidate.length - 1) ? best.candidate : undefined;
};

export const unknownKey = (key: string, known: readonly string[]): string => {
  const meant = suggest(key, known);
  return meant === undefined ? `unknown; known are ${known.join(', ')}` : `unknown; did you mean ${meant}?`;
};
