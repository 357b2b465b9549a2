/** The built-in log server behind real legs in memory, and readers that speak HTTP over their streams. */
import { EventEmitter } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock, type Clock } from '../../shared/src/clock.ts';
import { LOG_PORT } from '../../shared/src/hostname.ts';
import { environmentSchema } from '../../shared/src/protocol/messages.ts';
import { createDialer, type Dialer } from '../../tunnel-client/src/dialer.ts';
import { createLogServer, type LogServer } from '../../tunnel-client/src/log-server/log-server.ts';
import type { LogSettings } from '../../tunnel-client/src/log-server/log-source.ts';
import { type Logger, silentLogger } from '../../tunnel-client/src/logger.ts';
import { createResolver } from '../../tunnel-client/src/resolver.ts';
import { memoryPair } from './connection-pairs.ts';
import { type LegPair, makeLegs, never, target } from './legs.ts';

/** What does not come within this will not come, ms. */
const WAIT_MS = 15_000;

export interface ReadOptions {
  readonly path?: string;
  readonly method?: string;
  readonly headers?: Record<string, string>;
  readonly environmentId?: string;
  /** Absent: the first leg of the world. */
  readonly leg?: LegPair;
}

export interface LogReader {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly response: IncomingMessage;
  /** Of Log-Offset. */
  readonly offset: number;
  /** Bytes so far. */
  body(): Buffer;
  length(): number;
  text(): string;
  /** Waits until the body contains `text`. */
  contains(text: string): Promise<void>;
  onData(listener: () => void): void;
  /** Resolves with the whole body at its clean end; rejects when it is cut off. */
  readonly ended: Promise<string>;
  /** Leaves. */
  close(): void;
}

/** Reads a response as it comes. */
export const readLog = (response: IncomingMessage): LogReader => {
  let chunks: Buffer[] = [];
  let length = 0;
  const changes = new EventEmitter().setMaxListeners(0);
  const body = (): Buffer => {
    chunks = [Buffer.concat(chunks)];
    return chunks[0] as Buffer;
  };
  response.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    length += chunk.length;
    changes.emit('data', chunk);
  });
  const ended = new Promise<string>((resolve, reject) => {
    response.once('end', () => resolve(body().toString('utf8')));
    response.once('error', reject);
    response.once('close', () => reject(new Error('the reader has left')));
  });
  ended.catch(() => undefined);
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    response,
    offset: Number(response.headers['log-offset']),
    body,
    length: () => length,
    text: () => body().toString('utf8'),
    contains: (text) =>
      new Promise((resolve, reject) => {
        let seen = body();
        const timer = setTimeout(() => reject(new Error(`"${text}" did not come`)), WAIT_MS);
        const look = (chunk: Buffer): void => {
          // What came before has been searched, but for what may be the beginning of the text.
          seen = Buffer.concat([seen.subarray(Math.max(0, seen.length - Buffer.byteLength(text))), chunk]);
          if (!seen.includes(text)) return;
          clearTimeout(timer);
          changes.off('data', look);
          resolve();
        };
        changes.on('data', look);
        if (seen.includes(text)) look(seen);
      }),
    onData: (listener) => void changes.on('data', listener),
    ended,
    close: () => response.destroy(),
  };
};

export interface LogWorld {
  readonly directory: string;
  readonly stateDir: string;
  readonly server: LogServer;
  readonly dialer: Dialer;
  readonly leg: LegPair;
  newLeg(): Promise<LegPair>;
  /** The head of a response; its body is not read. */
  ask(options?: ReadOptions): Promise<IncomingMessage>;
  read(options?: ReadOptions): Promise<LogReader>;
  /** The whole body of a response that ends. */
  all(path: string, options?: ReadOptions): Promise<string>;
  close(): Promise<void>;
}

export const startLogWorld = async (
  settings: (directory: string) => LogSettings | undefined,
  options: { clock?: Clock; log?: Logger; directory?: string } = {},
): Promise<LogWorld> => {
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'logs-test-')));
  const stateDir = join(directory, 'state');
  const { clock = systemClock, log = silentLogger } = options;
  const server = createLogServer({ clock, log }, { stateDir });
  server.configure('demo', settings(directory));
  const environment = environmentSchema.parse({ id: 'demo', logs: 'builtin' });
  const dialer = createDialer({
    clock: systemClock,
    log,
    resolver: createResolver({ clock: systemClock }),
    environment: (id) => (id === 'demo' ? environment : undefined),
    ownPorts: () => [],
    logs: server,
  });
  const legs: LegPair[] = [];
  const newLeg = async (): Promise<LegPair> => {
    const leg = await makeLegs(memoryPair, { runnerHandlers: { onStream: (stream) => dialer.handle(stream) } });
    legs.push(leg);
    return leg;
  };
  const leg = await newLeg();

  const ask = ({ path = '/logs', method = 'GET', headers = {}, ...rest }: ReadOptions = {}): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const stream = (rest.leg ?? leg).gateway.openStream(
        target({ kind: 'logs', environmentId: rest.environmentId ?? 'demo', port: LOG_PORT }),
        { signal: never },
      );
      const outgoing = request({
        createConnection: () => stream,
        path,
        method,
        headers: { host: '22999--demo.gateway.localhost', ...headers },
      });
      outgoing.once('response', resolve);
      outgoing.once('error', reject);
      outgoing.end();
    });
  return {
    directory,
    stateDir,
    server,
    dialer,
    leg,
    newLeg,
    ask,
    read: async (readOptions) => readLog(await ask(readOptions)),
    all: async (path, readOptions) => readLog(await ask({ path, ...readOptions })).ended,
    async close() {
      dialer.abort();
      await server.close();
      for (const each of legs) await each.close();
      if (options.directory === undefined) await rm(directory, { recursive: true, force: true });
    },
  };
};

export interface LogEvent {
  readonly event: string;
  readonly data: string;
  readonly id: string | undefined;
}

/** The events of a stream that has come so far, as an EventSource sees them; what has no data is none. */
export const parseEvents = (text: string): LogEvent[] =>
  text
    .split('\n\n')
    .slice(0, -1)
    .flatMap((block): LogEvent[] => {
      const fields = block.split('\n').filter((line) => !line.startsWith(':'));
      const valuesOf = (name: string): string[] =>
        fields.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2));
      const data = valuesOf('data');
      if (data.length === 0) return [];
      return [{ event: valuesOf('event')[0] ?? 'message', data: data.join('\n'), id: valuesOf('id').at(-1) }];
    });
