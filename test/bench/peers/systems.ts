/** What is compared: the gateway over each transport, the peers, and the upstream without any tunnel. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { spawnSync } from 'node:child_process';
import type { Namespace } from '../../support/namespaces.ts';
import { cleanEnvironment } from '../../support/processes.ts';
import { type Certificate, edgeConfig, startNginx } from './nginx.ts';
import type { Program } from '../program.ts';
import { runProgram, startProgram } from './program.ts';
import {
  DIRECT_HOST,
  DOMAIN,
  EDGE_ADDRESS,
  ENVIRONMENT,
  hostOf,
  type Service,
  SERVICES,
  setCongestionControl,
  TLS_PORT_DISTANCE,
  type Topology,
} from './topology.ts';

const ROOT = resolve(import.meta.dirname, '../../..');
const GATEWAY = join(ROOT, 'gateway/src/main.ts');
const TUNNEL_CLIENT = join(ROOT, 'tunnel-client/src/main.ts');
/** A command that has not ended by then hangs, ms. */
const COMMAND_TIMEOUT_MS = 30_000;
/** A system that has not answered by then will not, ms. */
const READY_TIMEOUT_MS = 30_000;
const READY_CHECK_MS = 100;

/** In the order of the table. */
export const SYSTEM_NAMES = [
  'direct',
  'nginx-nebula',
  'nginx-ssh',
  'nginx-ssh-plain',
  'gateway-quic',
  'gateway-webtransport',
] as const;
export type SystemName = (typeof SYSTEM_NAMES)[number];
export const SYSTEM_LABELS: Readonly<Record<SystemName, string>> = {
  direct: 'no tunnel',
  'nginx-nebula': 'nginx + Nebula',
  'nginx-ssh': 'nginx + ssh -R',
  'nginx-ssh-plain': 'ssh -R, plain nginx',
  'gateway-quic': 'gateway, QUIC',
  'gateway-webtransport': 'gateway, WebTransport',
};

export interface System {
  readonly name: SystemName;
  /** `https://HOST:PORT` of a service of the upstream. */
  url(service: Service): string;
  /** Absent: it has no gateway. */
  readonly gateway?: Program;
  readonly tunnelClient?: Program;
  stop(): Promise<void>;
}

export interface SystemOptions {
  readonly topology: Topology;
  /** For its files; exists. */
  readonly directory: string;
  readonly certificate: Certificate;
  /** Where profiles of gateway and tunnel client are written. */
  readonly profileDirectory?: string;
}

/** Why a system is not measured here. */
export class NotAvailableError extends Error {
  override readonly name = 'NotAvailableError';
}

const command = async (namespace: Namespace, ...words: string[]): Promise<string> => {
  const { code, stdout, stderr } = await runProgram(namespace, words, COMMAND_TIMEOUT_MS);
  if (code !== 0) throw new Error(`${words.join(' ')} failed: ${stderr}${stdout}`);
  return stdout;
};

/** Resolves when every service of the upstream answers through the system. */
const answers = async (topology: Topology, system: System): Promise<System> => {
  const end = Date.now() + READY_TIMEOUT_MS;
  for (const service of ['web', 'sink'] as const) {
    for (;;) {
      const words = ['curl', '-sk', '-m', '5', '-o', '/dev/null', '-w', '%{http_code}', `${system.url(service)}/`];
      const { stdout } = await runProgram(topology.edge, words, COMMAND_TIMEOUT_MS);
      if (stdout === '200') break;
      if (Date.now() > end) {
        await system.stop();
        throw new Error(`${SYSTEM_LABELS[system.name]} does not answer for ${service}: HTTP status ${stdout}`);
      }
      await new Promise((later) => setTimeout(later, READY_CHECK_MS));
    }
  }
  return system;
};

const direct = ({ topology }: SystemOptions): Promise<System> =>
  answers(topology, {
    name: 'direct',
    url: (service) => `https://${DIRECT_HOST}:${SERVICES[service] + TLS_PORT_DISTANCE}`,
    stop: () => Promise.resolve(),
  });

const at =
  (port: number) =>
  (service: Service): string =>
    `https://${hostOf(service)}:${port}`;

/** Ports of the edges, at the address of the edge. */
const PORTS = {
  nebula: 9_441,
  'nginx-ssh': 9_442,
  'nginx-ssh-plain': 9_445,
  quic: 9_443,
  webtransport: 9_444,
  auto: 9_446,
} as const;

const NEBULA = {
  network: '10.88.0.0/24',
  edge: '10.88.0.1',
  runner: '10.88.0.2',
  port: 4_242,
  device: 'nebula1',
  mtu: 1_300,
} as const;

/** Buffers as its sample configuration proposes for much traffic; the cipher is the one for processors with AES. */
const nebulaConfig = (directory: string, name: 'edge' | 'runner'): object => ({
  pki: { ca: `${directory}/ca.crt`, cert: `${directory}/${name}.crt`, key: `${directory}/${name}.key` },
  static_host_map: { [NEBULA.edge]: [`${EDGE_ADDRESS}:${NEBULA.port}`] },
  lighthouse: { am_lighthouse: name === 'edge', hosts: name === 'edge' ? [] : [NEBULA.edge] },
  listen: { host: '0.0.0.0', port: NEBULA.port, read_buffer: 10_485_760, write_buffer: 10_485_760 },
  cipher: 'aes',
  punchy: { punch: true },
  tun: { dev: NEBULA.device, mtu: NEBULA.mtu, tx_queue: 500 },
  logging: { level: 'warning', format: 'text' },
  firewall: {
    outbound: [{ port: 'any', proto: 'any', host: 'any' }],
    inbound: [{ port: 'any', proto: 'any', host: 'any' }],
  },
});

const nebula = async ({ topology, directory, certificate }: SystemOptions): Promise<System> => {
  const programs: Program[] = [];
  const stop = async (): Promise<void> => void (await Promise.all(programs.map((program) => program.stop())));
  await command(
    topology.edge,
    ...['nebula-cert', 'ca', '-name', 'bench'],
    ...['-out-crt', `${directory}/ca.crt`, '-out-key', `${directory}/ca.key`],
  );
  for (const name of ['edge', 'runner'] as const) {
    await command(
      topology.edge,
      ...['nebula-cert', 'sign', '-name', name, '-ip', `${NEBULA[name]}/24`],
      ...['-ca-crt', `${directory}/ca.crt`, '-ca-key', `${directory}/ca.key`],
      ...['-out-crt', `${directory}/${name}.crt`, '-out-key', `${directory}/${name}.key`],
    );
    await writeFile(`${directory}/${name}.yml`, JSON.stringify(nebulaConfig(directory, name)));
    programs.push(startProgram(topology[name], ['nebula', '-config', `${directory}/${name}.yml`]));
  }
  for (const name of ['edge', 'runner'] as const) {
    // The device appears when Nebula has started.
    const isUp = () =>
      command(topology[name], 'ip', 'route', 'get', NEBULA[name === 'edge' ? 'runner' : 'edge']).then(
        (text) => text.includes(NEBULA.device),
        () => false,
      );
    for (const end = Date.now() + READY_TIMEOUT_MS; !(await isUp());) {
      if (Date.now() > end) throw new Error(`Nebula does not start: ${programs.map((one) => one.output()).join('')}`);
      await new Promise((later) => setTimeout(later, READY_CHECK_MS));
    }
    const route = [NEBULA.network, 'dev', NEBULA.device, 'src', NEBULA[name], 'mtu', String(NEBULA.mtu)];
    await setCongestionControl(topology[name], route, topology.congestionControl);
  }
  const target = (service: Service): string => `${NEBULA.runner}:${SERVICES[service]}`;
  programs.push(
    await startNginx(topology.edge, join(directory, 'nginx'), (at) =>
      edgeConfig(at, certificate, PORTS.nebula, target),
    ),
  );
  return answers(topology, { name: 'nginx-nebula', url: at(PORTS.nebula), stop });
};

/** The cipher of ssh that is fastest on processors with AES, and the one most like that of QUIC. */
const SSH_CIPHER = 'aes128-gcm@openssh.com';

/** `nginx-ssh-plain` is what most recipes have: nginx opens a connection to the upstream for each request. */
const ssh = async (
  { topology, directory, certificate }: SystemOptions,
  name: 'nginx-ssh' | 'nginx-ssh-plain',
): Promise<System> => {
  // Port of sshd, and how much the forwarded ports at the edge are above those of the services.
  const [sshdPort, distance] = name === 'nginx-ssh' ? [2_222, 100] : [2_223, 200];
  const programs: Program[] = [];
  const stop = async (): Promise<void> => void (await Promise.all(programs.map((program) => program.stop())));
  for (const file of ['host', 'user']) {
    await command(topology.edge, 'ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', `${directory}/${file}`);
  }
  await writeFile(
    `${directory}/sshd.conf`,
    [
      `ListenAddress ${EDGE_ADDRESS}:${sshdPort}`,
      `HostKey ${directory}/host`,
      `AuthorizedKeysFile ${directory}/user.pub`,
      ...['PermitRootLogin prohibit-password', 'PasswordAuthentication no', 'UsePAM no', 'StrictModes no'],
      'PidFile none',
      '',
    ].join('\n'),
  );
  const sshd = (await command(topology.edge, 'sh', '-c', 'command -v sshd')).trim(); // it wants its whole path
  const server = startProgram(topology.edge, [sshd, '-D', '-e', '-f', `${directory}/sshd.conf`]);
  programs.push(server);
  await server.waitFor(/Server listening on/);
  const forwards = Object.values(SERVICES).flatMap((port) => ['-R', `127.0.0.1:${port + distance}:127.0.0.1:${port}`]);
  programs.push(
    startProgram(topology.runner, [
      ...['ssh', '-F', '/dev/null', '-N', '-T', '-i', `${directory}/user`, '-c', SSH_CIPHER],
      ...['-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', '-o', 'ExitOnForwardFailure=yes'],
      ...['-o', 'IdentitiesOnly=yes', '-p', String(sshdPort), ...forwards, `root@${EDGE_ADDRESS}`],
    ]),
    await startNginx(topology.edge, join(directory, 'nginx'), (at) =>
      edgeConfig(at, certificate, PORTS[name], (service) => `127.0.0.1:${SERVICES[service] + distance}`, {
        isPlain: name === 'nginx-ssh-plain',
      }),
    ),
  );
  return answers(topology, { name, url: at(PORTS[name]), stop });
};

/** Whether this tunnel client can be told which transport to use. */
const canChooseTransport = (): boolean =>
  spawnSync(process.execPath, [TUNNEL_CLIENT, 'run', '--help'], {
    encoding: 'utf8',
    env: cleanEnvironment(),
  }).stdout.includes('--transport');

/** UDP ports of the gateways; 4242 is Nebula's here. */
const QUIC_PORTS = { quic: 4_243, webtransport: 4_244, auto: 4_245 } as const;

export interface GatewayOptions extends SystemOptions {
  readonly transport: 'quic' | 'webtransport' | 'auto';
  readonly limits?: Readonly<Record<string, number>>;
}

export interface GatewayFiles {
  readonly config: string;
  readonly stateDir: string;
  readonly quicPort: number;
  readonly httpsPort: number;
}

/** A gateway at the edge. Started again with the same directory it is the same gateway. */
export const startGateway = async (options: GatewayOptions): Promise<Program & { readonly files: GatewayFiles }> => {
  const { topology, directory, certificate, transport } = options;
  const files: GatewayFiles = {
    config: join(directory, 'gateway.yaml'),
    stateDir: join(directory, 'gateway'),
    quicPort: QUIC_PORTS[transport],
    httpsPort: PORTS[transport],
  };
  await writeFile(
    files.config,
    JSON.stringify({
      domains: [DOMAIN],
      listeners: {
        https: [`${EDGE_ADDRESS}:${files.httpsPort}`],
        quic: [`${EDGE_ADDRESS}:${files.quicPort}`],
        internal: '127.0.0.1:0',
      },
      tls: certificate,
      stateDir: files.stateDir,
      drainTimeout: '0s',
      limits: options.limits ?? {},
    }),
  );
  const program = startProgram(topology.edge, [
    ...nodeWith(options.profileDirectory, `gateway-${transport}`),
    ...[GATEWAY, 'serve', '--config', files.config],
  ]);
  await program.waitFor(/the gateway serves/);
  return { ...program, files };
};

/** Node, told to write a profile of itself when it ends. */
const nodeWith = (profileDirectory: string | undefined, name: string): string[] => [
  process.execPath,
  ...(profileDirectory === undefined
    ? []
    : ['--cpu-prof', `--cpu-prof-dir=${profileDirectory}`, `--cpu-prof-name=${name}.cpuprofile`]),
];

export interface GatewaySystem extends System {
  readonly gateway: Program & { readonly files: GatewayFiles };
}

export const startGatewaySystem = async (options: GatewayOptions): Promise<GatewaySystem> => {
  const { topology, directory, certificate, transport } = options;
  const isChoice = canChooseTransport();
  if (transport !== 'quic' && !isChoice) {
    throw new NotAvailableError('this tunnel client has no option "--transport"');
  }
  const program = await startGateway(options);
  const { config, httpsPort } = program.files;
  const created = await command(
    topology.edge,
    ...[process.execPath, GATEWAY, 'runner', 'create', '--name', 'bench', '--config', config, '--json'],
  );
  const runner = JSON.parse(created) as { id: string; exchangeToken: string };
  const clientConfig = join(directory, 'tunnel-client.yaml');
  await writeFile(
    clientConfig,
    JSON.stringify({
      gateway: `https://api.${DOMAIN}:${httpsPort}`,
      runnerId: runner.id,
      exchangeToken: runner.exchangeToken,
      stateDir: join(directory, 'runner'),
      ca: certificate.certificate,
      internal: '127.0.0.1:0',
      ...(isChoice ? { transport } : {}),
      environments: [
        {
          id: ENVIRONMENT,
          ports: Object.values(SERVICES).map((port) => ({ port, protocol: 'http', admission: 'everyone' })),
        },
      ],
    }),
  );
  const tunnelClient = startProgram(topology.runner, [
    ...nodeWith(options.profileDirectory, `tunnel-client-${transport}`),
    ...[TUNNEL_CLIENT, 'run', '--config', clientConfig],
  ]);
  const stop = async (): Promise<void> => void (await Promise.all([tunnelClient.stop(), program.stop()]));
  try {
    await tunnelClient.waitFor(new RegExp(`https://${hostOf('echo')}`));
  } catch (error) {
    await stop();
    throw error;
  }
  const name = transport === 'webtransport' ? 'gateway-webtransport' : 'gateway-quic';
  const system = { name, url: at(httpsPort), gateway: program, tunnelClient, stop } as const;
  await answers(topology, system);
  return system;
};

const STARTERS: Readonly<Record<SystemName, (options: SystemOptions) => Promise<System>>> = {
  direct,
  'nginx-nebula': nebula,
  'nginx-ssh': (options) => ssh(options, 'nginx-ssh'),
  'nginx-ssh-plain': (options) => ssh(options, 'nginx-ssh-plain'),
  'gateway-quic': (options) => startGatewaySystem({ ...options, transport: 'quic' }),
  'gateway-webtransport': (options) => startGatewaySystem({ ...options, transport: 'webtransport' }),
};

/** Resolves when the system answers. Rejects with {@link NotAvailableError} where it cannot be had. */
export const startSystem = async (name: SystemName, options: SystemOptions): Promise<System> => {
  const directory = join(options.directory, name);
  await mkdir(directory, { recursive: true });
  return STARTERS[name]({ ...options, directory });
};
