/** A real gateway in the process of the test: ports 0, state in a temporary directory, every log line kept. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { request as httpsRequest, type RequestOptions } from 'node:https';
import type { IncomingHttpHeaders } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock, type Clock } from '../../shared/src/clock.ts';
import type { GatewayAddress } from '../../shared/src/protocol/messages.ts';
import type { IdentityKey } from '../../shared/src/identity/keys.ts';
import { parseGatewayConfig, type GatewayConfig } from '../../gateway/src/config.ts';
import type { Directory } from '../../gateway/src/directory/directory.ts';
import { startGateway, StartError, type Gateway } from '../../gateway/src/gateway.ts';
import type { GatewayLimits } from '../../gateway/src/limits.ts';
import { createLogger, type Logger } from '../../gateway/src/observability/log.ts';

export const DOMAIN = 'gateway.localhost';

export type LogLine = Readonly<Record<string, unknown>> & { readonly level: string; readonly msg: string };

export interface KeptLog {
  readonly log: Logger;
  readonly lines: readonly LogLine[];
  /** The first line that fits, also one that was there before the call. */
  waitFor(fits: (line: LogLine) => boolean, timeoutMs?: number): Promise<LogLine>;
}

/** A line that does not come within this will not come, ms. */
export const LOG_TIMEOUT_MS = 15_000;

export const keepLog = (): KeptLog => {
  const lines: LogLine[] = [];
  const waiters = new Set<(line: LogLine) => void>();
  const log = createLogger({
    level: 'debug',
    destination: {
      write(text: string) {
        const line = JSON.parse(text) as LogLine;
        lines.push(line);
        for (const waiter of [...waiters]) waiter(line);
      },
    },
  });
  return {
    log,
    lines,
    waitFor: (fits, timeoutMs = LOG_TIMEOUT_MS) =>
      new Promise((resolve, reject) => {
        const found = lines.find(fits);
        if (found) return resolve(found);
        const timer = setTimeout(() => {
          waiters.delete(waiter);
          const tail = lines.slice(-10).map((line) => JSON.stringify(line));
          reject(new Error(`the line of the log did not come; the last ones are\n${tail.join('\n')}`));
        }, timeoutMs);
        const waiter = (line: LogLine): void => {
          if (!fits(line)) return;
          clearTimeout(timer);
          waiters.delete(waiter);
          resolve(line);
        };
        waiters.add(waiter);
      }),
  };
};

export interface GatewayOptions {
  /** Absent: a new temporary directory, removed with the gateway. */
  readonly stateDir?: string;
  readonly clock?: Clock;
  readonly key?: IdentityKey;
  /** Shared with another gateway; absent: one of its own. */
  readonly directory?: Directory;
  readonly otherGateways?: () => readonly GatewayAddress[];
  readonly httpsPort?: number;
  readonly quicPort?: number;
  readonly limits?: Partial<GatewayLimits>;
  /** Anything else of the configuration. */
  readonly config?: Partial<GatewayConfig>;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

export interface TestGateway extends KeptLog {
  readonly gateway: Gateway;
  readonly stateDir: string;
  readonly httpsPort: number;
  readonly quicPort: number;
  /** URL of the API, for runners. */
  readonly url: string;
  /** PEM of the self-signed certificate, for runners. */
  readonly ca: string;
  readonly internalToken: string;
  /** One HTTP/1.1 request to `host`, on a connection of its own. */
  request(
    host: string,
    path?: string,
    options?: RequestOptions & { readonly payload?: string | Buffer },
  ): Promise<Answer>;
  /** To the internal listener, with the token unless `headers` say otherwise. */
  internal(path: string, headers?: Record<string, string>): Promise<Response>;
  close(options?: { drainTimeoutMs?: number }): Promise<void>;
}

/** Host name of a port of an environment. */
export const portHost = (environmentId: string, port = 3000): string => `${port}--${environmentId}.${DOMAIN}`;

/** A request that hangs for so long is a failure, ms. */
const REQUEST_TIMEOUT_MS = 20_000;

export const fetchOnce = (
  port: number,
  host: string,
  path = '/',
  options: RequestOptions & { readonly payload?: string | Buffer } = {},
): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const { payload, ...rest } = options;
    const request = httpsRequest(
      {
        host: '127.0.0.1',
        port,
        servername: host,
        path,
        agent: false,
        rejectUnauthorized: false,
        timeout: REQUEST_TIMEOUT_MS,
        ...rest,
        headers: { host: `${host}:${port}`, ...rest.headers },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: Buffer.concat(chunks).toString('utf8'),
          }),
        );
      },
    );
    request.on('timeout', () => request.destroy(new Error('the gateway did not answer in time')));
    request.on('error', reject);
    request.end(payload);
  });

export const testConfig = (stateDir: string, options: GatewayOptions = {}): GatewayConfig => {
  const defaults = parseGatewayConfig(undefined, {});
  return {
    ...defaults,
    domains: [DOMAIN],
    listeners: {
      https: [{ host: '127.0.0.1', port: options.httpsPort ?? 0 }],
      quic: [{ host: '127.0.0.1', port: options.quicPort ?? 0 }],
      http: [],
      internal: { kind: 'tcp', host: '127.0.0.1', port: 0 },
    },
    publicPort: undefined,
    stateDir,
    drainTimeoutMs: 5_000,
    ...options.config,
    limits: { ...defaults.limits, ...options.limits },
  };
};

export const startTestGateway = async (options: GatewayOptions = {}): Promise<TestGateway> => {
  const stateDir = options.stateDir ?? (await mkdtemp(join(tmpdir(), 'gateway-test-')));
  const kept = keepLog();
  const gateway = await startGateway(
    testConfig(stateDir, options),
    {
      log: kept.log,
      clock: options.clock ?? systemClock,
      ...(options.key ? { key: options.key } : {}),
      ...(options.directory ? { directory: options.directory } : {}),
      ...(options.otherGateways ? { otherGateways: options.otherGateways } : {}),
    },
    { signal: new AbortController().signal },
  );
  const httpsPort = gateway.addresses.https[0]?.port ?? 0;
  const internalToken = (await readFile(join(stateDir, 'internal.token'), 'utf8')).trim();
  return {
    ...kept,
    gateway,
    stateDir,
    httpsPort,
    quicPort: gateway.addresses.quic[0]?.port ?? 0,
    url: `https://api.${DOMAIN}:${httpsPort}`,
    ca: await readFile(join(stateDir, 'self-signed', 'certificate.pem'), 'utf8').catch(() => ''),
    internalToken,
    request: (host, path, requestOptions) => fetchOnce(httpsPort, host, path, requestOptions),
    internal(path, headers = { authorization: `Bearer ${internalToken}` }) {
      const { internal } = gateway.addresses;
      if (internal.kind === 'unix') throw new TypeError('the internal listener is a Unix socket');
      return fetch(`http://127.0.0.1:${internal.port}${path}`, { headers: { connection: 'close', ...headers } });
    },
    async close(closeOptions = { drainTimeoutMs: 0 }) {
      await gateway.close(closeOptions);
      if (options.stateDir === undefined) await rm(stateDir, { recursive: true, force: true });
    },
  };
};

/** A name that no other test uses. */
export const uniqueName = (prefix: string): string => `${prefix}-${randomBytes(4).toString('hex')}`;

/** How long the UDP port of a gateway of this process can stay taken after its end: the draining period of QUIC, ms. */
const PORT_FREE_MS = 10_000;

/**
 * Starts a gateway at the ports of one that has ended in this process. What a process of its own gives back when it
 * ends, its native QUIC endpoint gives back a moment later here.
 */
export const startTestGatewayAgain = async (options: GatewayOptions): Promise<TestGateway> => {
  const end = performance.now() + PORT_FREE_MS;
  for (;;) {
    try {
      return await startTestGateway(options);
    } catch (error) {
      if (!(error instanceof StartError) || error.option !== 'listeners.quic' || performance.now() > end) throw error;
    }
  }
};
