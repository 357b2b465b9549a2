/** Environments of a file, of `TUNNEL_ENVIRONMENTS` and of `--expose`. Pure. */
import { resolve } from 'node:path';
import * as z from 'zod';
import { ADMISSIONS } from '../../shared/src/protocol/messages.ts';
import type { ConfigFlags } from './config-sources.ts';
import { type EnvironmentSettings, parseEnvironments } from './environments.ts';
import { type Problem, zodProblems } from './problems.ts';

/** A log file is found where the text stands that names it. */
export const withLogsAt = (base: string, environment: EnvironmentSettings): EnvironmentSettings =>
  environment.logs && 'file' in environment.logs
    ? { ...environment, logs: { file: resolve(base, environment.logs.file) } }
    : environment;

export const checkEnvironments = (
  input: unknown,
): { environments: readonly EnvironmentSettings[]; problems: (Problem & { parts: PropertyKey[] })[] } => {
  try {
    return { environments: parseEnvironments(input), problems: [] };
  } catch (error) {
    if (!(error instanceof z.ZodError)) throw error;
    return { environments: [], problems: zodProblems(error, ['environments']) };
  }
};

export const FLAG_OF_ENVIRONMENT: Readonly<Record<string, string>> = { id: '--environment', host: '--host' };

/** One environment from `--expose 3000[:https]` and its companions, checked with the others later. */
export const exposedByFlags = (
  flags: ConfigFlags,
  runnerId: unknown,
): { environment?: unknown; problems: Problem[] } => {
  const problems: Problem[] = [];
  const expose = flags.expose ?? [];
  if (expose.length === 0) {
    for (const flag of ['environment', 'admission', 'host'] as const) {
      if (flags[flag] !== undefined) problems.push({ path: `--${flag}`, message: 'says something only with --expose' });
    }
    return { problems };
  }
  if (flags.admission !== undefined && !(ADMISSIONS as readonly string[]).includes(flags.admission)) {
    problems.push({ path: '--admission', message: `must be one of ${ADMISSIONS.join(', ')}` });
  }
  const admission = problems.length === 0 ? flags.admission : undefined;
  const ports = expose.flatMap((text) => {
    const match = /^(\d{1,5})(?::(http|https))?$/.exec(text);
    if (!match) {
      problems.push({ path: '--expose', message: `"${text}" must be PORT, PORT:http or PORT:https` });
      return [];
    }
    return [
      { port: Number(match[1]), protocol: match[2] ?? 'http', ...(admission === undefined ? {} : { admission }) },
    ];
  });
  const id = flags.environment ?? runnerId;
  return { environment: { id, ...(flags.host === undefined ? {} : { host: flags.host }), ports }, problems };
};

export const environmentsOfVariable = (text: string | undefined): { list: unknown[]; problems: Problem[] } => {
  if (text === undefined || text === '') return { list: [], problems: [] };
  try {
    const list: unknown = JSON.parse(text);
    if (Array.isArray(list)) return { list, problems: [] };
  } catch {
    // Reported below, without the text.
  }
  return { list: [], problems: [{ path: 'TUNNEL_ENVIRONMENTS', message: 'must be a JSON array of environments' }] };
};
