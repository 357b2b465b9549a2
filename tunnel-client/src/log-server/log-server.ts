/**
 * The built-in log server: answers tunnel streams to the log port of environments whose log is a file or a command. It
 * opens no port; each stream is a connection of an HTTP server in this process, and carries one response.
 *
 *     GET /logs            all of it as newline text, and then what comes
 *       ?follow=false      only what there is
 *       ?tail=100          from the last 100 lines on
 *       ?since=OFFSET      goes on there: the header Log-Offset plus the bytes that were read
 *     Accept: text/event-stream         each line an event with an id, which Last-Event-ID goes on from
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Clock } from '../../../shared/src/clock.ts';
import type { IncomingTunnelStream, Leg } from '../../../shared/src/protocol/leg.ts';
import type { Logger } from '../logger.ts';
import { createBlockCache } from './block-cache.ts';
import { createCommandSource } from './command-source.ts';
import { createHistoryStore } from './file-history.ts';
import { createFileSource } from './file-source.ts';
import { followLog } from './follower.ts';
import { EVENT_FORMAT, TEXT_FORMAT } from './log-format.ts';
import { type LogRequest, parseLogRequest } from './log-request.ts';
import type { LogSettings, LogSource, LogSourceStats } from './log-source.ts';

/** Responses at once, of all logs: each holds up to 100 KiB. Beyond it 503. */
const MAX_FOLLOWERS = 1_024;
/** What a refused reader is told to wait, seconds. */
const RETRY_AFTER_SECONDS = 5;

export interface LogServerDeps {
  readonly clock: Clock;
  readonly log: Logger;
}

export interface LogServerOptions {
  /** Keeps where the logs were, over restarts. */
  readonly stateDir: string;
  /** Environment variables of log commands; absent: those of the process. */
  readonly commandVariables?: Readonly<Record<string, string | undefined>> | undefined;
}

export interface LogServer {
  /** Gives an environment its log, or takes it away. Who follows another one than before gets to its end. */
  configure(environmentId: string, settings: LogSettings | undefined): void;
  has(environmentId: string): boolean;
  environments(): readonly string[];
  /** Answers an accepted stream. */
  serve(stream: IncomingTunnelStream): void;
  /** The leg is about to go: what it carries ends at the end of a line, and goes on over another leg. */
  endLeg(leg: Leg): void;
  /** The same for all legs, and for what still comes. */
  drain(): void;
  stats(environmentId: string): (LogSourceStats & { readonly followers: number }) | undefined;
  close(): Promise<void>;
}

interface Entry {
  readonly settings: LogSettings;
  readonly source: LogSource;
}

interface Follower {
  readonly leg: Leg;
  readonly entry: Entry;
  readonly stop: AbortController;
}

const sendProblem = (response: ServerResponse, status: number, code: string, message: string): void => {
  const body = `${JSON.stringify({ error: { code, message } })}\n`;
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
  response.end(body);
};

export const createLogServer = (deps: LogServerDeps, options: LogServerOptions): LogServer => {
  const { clock, log } = deps;
  const cache = createBlockCache();
  const entries = new Map<string, Entry>();
  const followers = new Set<Follower>();
  const endedLegs = new WeakSet<Leg>();
  const closing = new Set<Promise<void>>();
  let isDraining = false;

  const createSource = (environmentId: string, settings: LogSettings): LogSource => {
    if ('command' in settings) {
      const { command } = settings;
      return createCommandSource({ clock, log, variables: options.commandVariables }, { command, environmentId });
    }
    const history = createHistoryStore({ stateDir: options.stateDir, environmentId });
    return createFileSource({ clock, log, cache, history }, { path: settings.file });
  };

  const endFollowers = (which: (follower: Follower) => boolean): void => {
    for (const follower of followers) if (which(follower)) follower.stop.abort();
  };

  const remove = (environmentId: string): void => {
    const entry = entries.get(environmentId);
    if (!entry) return;
    entries.delete(environmentId);
    endFollowers((follower) => follower.entry === entry);
    const done = entry.source
      .close()
      .catch((error: unknown) => log.warn({ err: error, environmentId }, 'a log could not be closed'))
      .finally(() => closing.delete(done));
    closing.add(done);
  };

  const respond = async (
    request: IncomingMessage,
    response: ServerResponse,
    { follow, format, start }: LogRequest,
    { leg, entry, stop }: Follower,
  ): Promise<void> => {
    const { source } = entry;
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    if (isDraining || endedLegs.has(leg)) stop.abort();
    const cursor = await source.cursor(start);
    try {
      const kind = format === 'events' ? EVENT_FORMAT : TEXT_FORMAT;
      response.writeHead(200, {
        'content-type': kind.contentType,
        'log-offset': cursor.offset,
        // For proxies on the way that would collect a response.
        'x-accel-buffering': 'no',
      });
      if (request.method === 'HEAD') return void response.end();
      response.flushHeaders();
      await followLog(
        { clock },
        { source, cursor, response, format: kind, follow, gone: gone.signal, stop: stop.signal },
      );
    } finally {
      cursor.close();
    }
  };

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const stream = request.socket as unknown as IncomingTunnelStream;
    const { environmentId, requestId } = stream.target;
    const parsed = parseLogRequest(request);
    if ('status' in parsed) {
      if (parsed.status === 405) response.setHeader('allow', 'GET, HEAD');
      return sendProblem(response, parsed.status, parsed.code, parsed.message);
    }
    const entry = entries.get(environmentId);
    if (!entry) return sendProblem(response, 404, 'not_found', 'this environment has no log any more');
    if (followers.size >= MAX_FOLLOWERS) {
      response.setHeader('retry-after', RETRY_AFTER_SECONDS);
      return sendProblem(response, 503, 'limit', 'too many readers follow logs of this runner');
    }
    const follower: Follower = { leg: stream.leg, entry, stop: new AbortController() };
    followers.add(follower);
    try {
      try {
        await entry.source.open(parsed.start);
      } catch (error) {
        log.warn({ err: error, environmentId, requestId }, 'a log cannot be opened');
        const code = (error as NodeJS.ErrnoException).code ?? 'unknown';
        return sendProblem(response, 502, 'log_unreadable', `the log of this environment cannot be read (${code})`);
      }
      try {
        await respond(request, response, parsed, follower);
      } finally {
        entry.source.release();
      }
    } finally {
      followers.delete(follower);
    }
  };

  // Each stream carries one response: its end is the end of the stream.
  const server = createServer({ keepAliveTimeout: 0 }, (request, response) => {
    response.setHeader('connection', 'close');
    response.setHeader('cache-control', 'no-store');
    response.setHeader('x-content-type-options', 'nosniff');
    answer(request, response).catch((error: unknown) => {
      const { environmentId, requestId } = (request.socket as unknown as IncomingTunnelStream).target;
      log.warn({ err: error, environmentId, requestId }, 'a log could not be read on');
      // No clean end: who reads knows that something is missing.
      response.destroy();
    });
  });

  return {
    configure(environmentId, settings) {
      const before = entries.get(environmentId);
      if (JSON.stringify(before?.settings) === JSON.stringify(settings)) return;
      remove(environmentId);
      if (settings) entries.set(environmentId, { settings, source: createSource(environmentId, settings) });
    },
    has: (environmentId) => entries.has(environmentId),
    environments: () => [...entries.keys()],
    serve: (stream) => void server.emit('connection', stream),
    endLeg(leg) {
      endedLegs.add(leg);
      endFollowers((follower) => follower.leg === leg);
    },
    drain() {
      isDraining = true;
      endFollowers(() => true);
    },
    stats(environmentId) {
      const entry = entries.get(environmentId);
      if (!entry) return undefined;
      return { ...entry.source.stats(), followers: [...followers].filter((one) => one.entry === entry).length };
    },
    async close() {
      isDraining = true;
      endFollowers(() => true);
      for (const environmentId of [...entries.keys()]) remove(environmentId);
      await Promise.all(closing);
    },
  };
};
