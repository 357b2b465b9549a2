/**
 * A container file without a container engine: its stages are read, and carried out into directories, so that what is
 * tested is what the file says. Knows the instructions that our file uses, and no others.
 */
import { spawnSync, type ChildProcess } from 'node:child_process';
import { cpSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import process from 'node:process';
import { cleanEnvironment } from './processes.ts';

export interface Instruction {
  readonly name: string;
  readonly text: string;
}

export interface Stage {
  readonly name: string;
  readonly base: string;
  readonly instructions: readonly Instruction[];
}

const KNOWN = ['COPY', 'RUN', 'WORKDIR', 'ENV', 'USER', 'VOLUME', 'EXPOSE', 'STOPSIGNAL', 'HEALTHCHECK'];
const KNOWN_AT_END = ['ENTRYPOINT', 'CMD'];

/** Throws on an instruction that nobody here knows: what is not carried out is not tested. */
export const parseContainerFile = (text: string): Stage[] => {
  const lines = text
    .replace(/^#.*\n/gm, '')
    .replace(/\\\n/g, ' ')
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean);
  const variables: Record<string, string> = {};
  const stages: (Stage & { instructions: Instruction[] })[] = [];
  for (const line of lines) {
    const [name = '', ...rest] = line.split(/\s+/);
    const value = rest.join(' ').replace(/\$\{(\w+)\}/g, (all, key: string) => variables[key] ?? all);
    if (name === 'ARG') {
      const [key = '', set = ''] = value.split('=');
      variables[key] = set;
    } else if (name === 'FROM') {
      const [, base = '', stage = ''] = /^(\S+) AS (\S+)$/.exec(value) ?? [];
      stages.push({ name: stage, base, instructions: [] });
    } else if ([...KNOWN, ...KNOWN_AT_END].includes(name)) {
      stages.at(-1)?.instructions.push({ name, text: value });
    } else throw new Error(`${name} is not known here: ${line}`);
  }
  return stages;
};

/** The text of the only instruction of this name. */
export const only = (stage: Stage, name: string): string => {
  const found = stage.instructions.filter((instruction) => instruction.name === name);
  if (found.length !== 1) throw new Error(`${stage.name} has ${found.length} times ${name}`);
  return found[0]?.text ?? '';
};

/** Variables that ENV sets. */
export const variablesOf = (stage: Stage): Record<string, string> =>
  Object.fromEntries(
    stage.instructions
      .filter(({ name }) => name === 'ENV')
      .flatMap(({ text }) => text.split(' '))
      .map((pair) => [pair.split('=')[0] ?? '', pair.split('=').slice(1).join('=')]),
  );

const NODE_PLACE = '/opt/node/bin';

export interface SandboxOptions {
  /** What the tree's own directories look like from inside; nothing else can be written. */
  readonly writable: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Runs as this user and group, without any privilege. */
  readonly uid?: number;
}

/**
 * The command line that runs `command` with `root` laid over this machine's programs: the directories at the top of
 * `root` hide those of the machine, everything is read-only but what is said.
 */
export const sandboxed = (root: string, command: readonly string[], options: SandboxOptions): readonly string[] => {
  const own = new Set(readdirSync(root));
  const machine = readdirSync('/').filter(
    (name) => !own.has(name) && !['proc', 'dev', 'sys', 'tmp', 'opt'].includes(name),
  );
  const links = machine.filter((name) => lstatSync(join('/', name)).isSymbolicLink());
  return [
    'bwrap',
    ...['--tmpfs', '/', '--proc', '/proc', '--dev', '/dev', '--tmpfs', '/tmp'],
    // Whatever runs inside ends with the sandbox.
    ...['--unshare-pid', '--die-with-parent'],
    ...links.flatMap((name) => ['--symlink', readlinkSync(join('/', name)), join('/', name)]),
    ...machine
      .filter((name) => !links.includes(name))
      .flatMap((name) => ['--ro-bind', join('/', name), join('/', name)]),
    ...[...own].flatMap((name) => ['--ro-bind', join(root, name), join('/', name)]),
    ...options.writable.flatMap((path) => ['--bind', join(root, path), path]),
    ...['--ro-bind', dirname(process.execPath), NODE_PLACE],
    ...['--remount-ro', '/', '--chdir', options.cwd ?? '/'],
    ...['--setenv', 'PATH', `${NODE_PLACE}:${process.env['PATH'] ?? ''}`],
    ...Object.entries(options.env ?? {}).flatMap(([name, value]) => ['--setenv', name, value]),
    ...(options.uid === undefined
      ? ['--cap-add', 'CAP_CHOWN', '--cap-add', 'CAP_FOWNER', '--cap-add', 'CAP_DAC_OVERRIDE', '--', ...command]
      : [
          ...[
            '--cap-add',
            'CAP_SETUID',
            '--cap-add',
            'CAP_SETGID',
            '--',
            'setpriv',
            '--no-new-privs',
            '--inh-caps=-all',
          ],
          ...[`--reuid=${options.uid}`, `--regid=${options.uid}`, '--clear-groups', '--', ...command],
        ]),
  ];
};

const childrenOf = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);

/** Asks the program in a sandbox to end: the sandbox itself passes no signals on. */
export const endSandboxed = (sandbox: ChildProcess): void => {
  if (sandbox.pid === undefined || sandbox.exitCode !== null) return;
  let pids = [sandbox.pid];
  for (let below = pids; below.length > 0; below = below.flatMap(childrenOf)) pids = below;
  for (const pid of pids) process.kill(pid, 'SIGTERM');
};

/** Directories at the top that instructions may write. */
const TOP_DIRECTORIES = ['app', 'var'];
/** Packages are fetched where none is cached: ms. */
const RUN_TIMEOUT_MS = 180_000;

const copy = (from: string, to: string, options: { readonly intoDirectory: boolean }): void => {
  const target = options.intoDirectory ? join(to, basename(from)) : to;
  mkdirSync(dirname(target), { recursive: true });
  cpSync(from, target, {
    recursive: true,
    verbatimSymlinks: true,
    filter: (path) =>
      !['node_modules', 'dist'].includes(basename(path)) || path.startsWith(from + '/dist') || from.endsWith('dist'),
  });
};

/**
 * Carries out a stage and those that it copies from, below `directory`. Returns the root of its tree. `context` is the
 * directory that COPY takes from.
 */
export const buildStage = (
  stages: readonly Stage[],
  name: string,
  places: { readonly context: string; readonly directory: string; readonly npmCache: string },
): string => {
  const stage = stages.find((candidate) => candidate.name === name);
  if (!stage) throw new Error(`there is no stage ${name}`);
  const root = join(places.directory, name);
  // A stage that two others copy from is built once.
  if (readdirSync(places.directory).includes(name)) return root;
  for (const top of TOP_DIRECTORIES) mkdirSync(join(root, top, ...(top === 'var' ? ['lib'] : [])), { recursive: true });
  let cwd = '/';
  for (const { name: instruction, text } of stage.instructions) {
    if (instruction === 'WORKDIR') cwd = text;
    if (instruction === 'COPY') {
      const words = text.split(' ').filter((word) => !word.startsWith('--'));
      const fromStage = /--from=(\S+)/.exec(text)?.[1];
      const source = fromStage === undefined ? places.context : buildStage(stages, fromStage, places);
      const to = words.pop() ?? '';
      for (const word of words) {
        const from = join(source, isAbsolute(word) ? word.slice(1) : word);
        if (fromStage === undefined) {
          copy(from, join(root, resolve(cwd, to)), { intoDirectory: to.endsWith('/') });
        } else {
          cpSync(from, join(root, resolve(cwd, to)), { recursive: true, verbatimSymlinks: true });
        }
      }
    }
    if (instruction === 'RUN') {
      const env = { npm_config_cache: '/npm-cache', npm_config_prefer_offline: 'true' };
      const [program = '', ...args] = sandboxed(root, ['sh', '-ec', text], {
        writable: TOP_DIRECTORIES.map((top) => `/${top}`),
        env,
        cwd,
      });
      const withCache = [...args.slice(0, args.indexOf('--remount-ro')), '--bind', places.npmCache, '/npm-cache'];
      const result = spawnSync(program, [...withCache, ...args.slice(args.indexOf('--remount-ro'))], {
        encoding: 'utf8',
        env: cleanEnvironment(),
        timeout: RUN_TIMEOUT_MS,
      });
      if (result.status !== 0)
        throw new Error(`RUN ${text} failed:\n${result.stdout}${result.stderr}`, { cause: result.error });
    }
  }
  return root;
};
