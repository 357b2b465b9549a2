/**
 * What tests need beyond npm packages. A test file names its needs in a comment among its first lines:
 *
 *     // needs: chromium, netns
 *
 * `test/run.ts` installs what is missing where it may, and leaves out the files whose needs are not met.
 */
import { spawnSync, type SpawnSyncOptions } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

interface Need {
  /** Debian packages that bring it; none when it is not a matter of packages. */
  readonly packages: readonly string[];
  readonly isMet: () => boolean;
  /** What to do where no package helps. */
  readonly hint?: string;
}

/** A probe runs a small command; one that has not answered by then counts as "not met". */
const PROBE_TIMEOUT_MS = 5_000;

const isExecutable = (path: string): boolean => {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // missing or not executable: both mean "go on looking"
  }
};

/** Full path of a program on the PATH (and in the `sbin` directories, which ordinary users do not have there). */
export const findProgram = (name: string): string | undefined =>
  [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin']
    .filter(Boolean)
    .map((directory) => join(directory, name))
    .find(isExecutable);

const CHROMIUM_NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
const CHROMIUM_MAC = '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome';

export const findChromium = (): string | undefined => {
  const onPath = CHROMIUM_NAMES.map(findProgram).find((path) => path !== undefined);
  return onPath ?? (existsSync(CHROMIUM_MAC) ? CHROMIUM_MAC : undefined);
};

const succeeds = (command: string, ...args: string[]): boolean =>
  spawnSync(command, args, { stdio: 'ignore', timeout: PROBE_TIMEOUT_MS }).status === 0;

const program = (name: string, ...packages: string[]): Need => ({
  packages,
  isMet: () => findProgram(name) !== undefined,
});

export const NGINX_STREAM_MODULE = '/usr/lib/nginx/modules/ngx_stream_module.so';

export const NEEDS = {
  chromium: { packages: ['chromium'], isMet: () => findChromium() !== undefined },
  bwrap: program('bwrap', 'bubblewrap'),
  curl: program('curl', 'curl'),
  jq: program('jq', 'jq'),
  openssl: program('openssl', 'openssl'),
  haproxy: program('haproxy', 'haproxy'),
  iproute2: program('ip', 'iproute2'),
  nginx: program('nginx', 'nginx'),
  /** Its module that passes TCP through is a package of its own. */
  'nginx-stream': {
    packages: ['nginx', 'libnginx-mod-stream'],
    isMet: () => findProgram('nginx') !== undefined && existsSync(NGINX_STREAM_MODULE),
  },
  sslscan: program('sslscan', 'sslscan'),
  dnsmasq: program('dnsmasq', 'dnsmasq-base'),
  python3: program('python3', 'python3-minimal'),
  prometheus: program('prometheus', 'prometheus'),
  promtool: program('promtool', 'prometheus'),
  /** Gives a command a terminal of its own. */
  script: program('script', 'bsdutils'),
  systemd: program('systemd-analyze', 'systemd'),
  kubectl: program('kubectl', 'kubernetes-client'),
  tun: { packages: [], isMet: () => existsSync('/dev/net/tun'), hint: 'the device /dev/net/tun' },
  /** The variant that can inspect TLS (`ssl-bump`); the plain one of the package `squid` cannot. */
  squid: {
    packages: ['squid-openssl'],
    isMet: () => findProgram('squid') !== undefined && existsSync('/usr/lib/squid/security_file_certgen'),
  },
  root: { packages: [], isMet: () => process.getuid?.() === 0, hint: 'run as root' },
  /** Network namespaces: own addresses and low ports without touching the machine. */
  netns: {
    packages: ['iproute2', 'util-linux'],
    isMet: () => findProgram('ip') !== undefined && succeeds('unshare', '--net', 'true'),
    hint: 'run as root, in a container with the capability SYS_ADMIN',
  },
} as const satisfies Record<string, Need>;

export type NeedName = keyof typeof NEEDS;

/** Lines at the top of a test file in which `needs:` is looked for. */
const NEEDS_HEADER_LINES = 5;

/** The needs that a test file declares. Throws on a name that is not in {@link NEEDS}: a slip must not skip a file. */
export const parseNeeds = (source: string, file: string): NeedName[] => {
  const header = source.split('\n', NEEDS_HEADER_LINES).join('\n');
  const names = (/^\/\/ needs:(.*)$/m.exec(header)?.[1] ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter(Boolean);
  for (const name of names) {
    if (!Object.hasOwn(NEEDS, name)) {
      throw new Error(`${file} needs "${name}", which is none of: ${Object.keys(NEEDS).join(', ')}`);
    }
  }
  return names as NeedName[];
};

export const unmetNeeds = (names: Iterable<NeedName>): NeedName[] =>
  [...new Set(names)].filter((name) => !NEEDS[name].isMet());

export const describeNeed = (name: NeedName): string => {
  const need: Need = NEEDS[name];
  return need.hint ? `${name} (${need.hint})` : name;
};

const isDebian = (): boolean =>
  existsSync('/etc/os-release') && /^ID(?:_LIKE)?=.*debian/m.test(readFileSync('/etc/os-release', 'utf8'));

/** The Debian packages that would meet `names`. */
export const packagesFor = (names: readonly NeedName[]): string[] => [
  ...new Set(names.flatMap((name): readonly string[] => NEEDS[name].packages)),
];

export const installCommand = (packages: readonly string[]): string =>
  `apt-get update && apt-get install -y --no-install-recommends ${packages.join(' ')}`;

/**
 * Installs Debian packages; what apt-get says goes to `output`. `not-allowed`: this is no Debian, or not root, so
 * nothing was tried.
 */
export const installPackages = (
  packages: readonly string[],
  output: 'stdout' | 'stderr' = 'stdout',
): 'installed' | 'not-allowed' | 'failed' => {
  if (process.getuid?.() !== 0 || !isDebian() || findProgram('apt-get') === undefined) return 'not-allowed';
  const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const options: SpawnSyncOptions = { stdio: ['inherit', output === 'stdout' ? 1 : 2, 2], env: environment };
  // An update that fails in part (one unreachable mirror) may still be enough: the install tells.
  spawnSync('apt-get', ['update', '-q'], options);
  const result = spawnSync('apt-get', ['install', '-y', '-q', '--no-install-recommends', ...packages], options);
  return result.status === 0 ? 'installed' : 'failed';
};
