/**
 * Loads the native QUIC binding of this platform (quinn and rustls, `@chainsafe/libp2p-quic-*` 2.1.1) and types what
 * is used of it. The umbrella package is left out on purpose: it brings a whole peer-to-peer stack along.
 *
 * Never call a method of `NativeServer` after its `abort()` has settled: `port()` then panics in native code, which
 * ends the process.
 */
import { createRequire } from 'node:module';
import { TransportError } from '../errors.ts';

export interface NativeConfigOptions {
  readonly privateKeyProto: Uint8Array;
  /** Accepted and ignored by the binding; `maxIdleTimeout` ends a handshake. */
  readonly handshakeTimeout: number;
  readonly maxIdleTimeout: number;
  readonly keepAliveInterval: number;
  readonly maxConcurrentStreamLimit: number;
  readonly maxStreamData: number;
  readonly maxConnectionData: number;
  readonly receiveBufferSize: number;
  readonly sendBufferSize: number;
}

/** Opaque; holds the TLS identity, which costs a key pair and a certificate to make. */
export type NativeConfig = object;

export interface NativeStream {
  /** At most `length` bytes; null at the end, and also when read again after a reset was reported. */
  read(length: number): Promise<Uint8Array | null>;
  write(bytes: Uint8Array): Promise<void>;
  /** Waits for a write under way; so does `resetWrite`. */
  finishWrite(): Promise<void>;
  resetWrite(): Promise<void>;
  /** Waits for a read under way. */
  stopRead(): Promise<void>;
}

export interface NativeConnectionStats {
  readonly udpTxBytes: number;
  readonly udpRxBytes: number;
  readonly udpRxDatagrams: number;
  readonly frameRxConnectionClose: number;
  readonly pathSentPackets: number;
  readonly pathLostPackets: number;
}

export interface NativeConnection {
  outboundStream(): Promise<NativeStream>;
  inboundStream(): Promise<NativeStream>;
  closed(): Promise<void>;
  abort(): void;
  /** Whole milliseconds. */
  rtt(): number;
  stats(): NativeConnectionStats;
  remoteMultiaddr(): string;
}

export interface NativeServer {
  port(): number;
  inboundConnection(): Promise<NativeConnection>;
  abort(): Promise<void>;
  stats(): { readonly acceptedHandshakes: number };
}

export interface NativeClient {
  outboundConnection(ip: string, port: number): Promise<NativeConnection>;
  abort(): void;
}

export interface NativeQuic {
  readonly QuinnConfig: new (options: NativeConfigOptions) => NativeConfig;
  readonly Server: new (config: NativeConfig, ip: string, port: number) => NativeServer;
  /** Family 0 is IPv4, 1 is IPv6. */
  readonly Client: new (config: NativeConfig, family: 0 | 1) => NativeClient;
}

export interface Platform {
  readonly platform: string;
  readonly arch: string;
  /** Linux only: whether the C library is musl rather than glibc. */
  readonly musl: boolean;
}

const PACKAGE_PREFIX = '@chainsafe/libp2p-quic-';
/** The one whose classes are described above; a test compares it with package.json. */
export const QUIC_PACKAGE_VERSION = '2.1.1';
const PLATFORMS: ReadonlySet<string> = new Set([
  'darwin-arm64',
  'darwin-x64',
  'linux-arm64-gnu',
  'linux-arm64-musl',
  'linux-x64-gnu',
  'linux-x64-musl',
  'win32-x64-msvc',
]);

/** The package with the binding for a platform, or undefined where none is published. */
export const quicPackageName = ({ platform, arch, musl }: Platform): string | undefined => {
  const abi = platform === 'linux' ? (musl ? '-musl' : '-gnu') : platform === 'win32' ? '-msvc' : '';
  const name = `${platform}-${arch}${abi}`;
  return PLATFORMS.has(name) ? PACKAGE_PREFIX + name : undefined;
};

const isMusl = (): boolean => {
  if (process.platform !== 'linux') return false;
  // A full report asks the name server for the name of both ends of every socket, one by one, and holds the event loop
  // meanwhile: where no name server answers, 5 s and more for each.
  const report = process.report as NodeJS.ProcessReport & { excludeNetwork: boolean };
  const { excludeNetwork } = report;
  report.excludeNetwork = true;
  try {
    // A musl build of Node names no glibc here. 3 ms, once per listener or dialer.
    const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } };
    return header?.glibcVersionRuntime === undefined;
  } finally {
    report.excludeNetwork = excludeNetwork;
  }
};

export interface LoadDeps {
  readonly platform: Platform;
  readonly require: (name: string) => unknown;
}

/** Loads the binding. Throws {@link TransportError} `not_available` that names the package when there is none. */
export const loadQuic = (deps?: LoadDeps): NativeQuic => {
  const platform = deps?.platform ?? { platform: process.platform, arch: process.arch, musl: isMusl() };
  const name = quicPackageName(platform);
  const unavailable = (message: string, cause?: unknown): TransportError =>
    new TransportError(message, { by: 'local', code: 'not_available', cause });
  if (name === undefined) {
    throw unavailable(`QUIC is not available on ${platform.platform}/${platform.arch}: no package is built for it`);
  }
  try {
    return (deps?.require ?? createRequire(import.meta.url))(name) as NativeQuic;
  } catch (cause) {
    const isMissing = (cause as NodeJS.ErrnoException).code === 'MODULE_NOT_FOUND';
    throw unavailable(
      isMissing
        ? `QUIC needs the package ${name}, which is not installed: npm install ${name}@${QUIC_PACKAGE_VERSION}`
        : `QUIC is not available: the package ${name} cannot be loaded`,
      cause,
    );
  }
};

/** Why there is no QUIC on this machine; undefined where there is. */
export const whyNoQuic = (deps?: LoadDeps): TransportError | undefined => {
  try {
    loadQuic(deps);
    return undefined;
  } catch (error) {
    if (error instanceof TransportError) return error;
    throw error;
  }
};
