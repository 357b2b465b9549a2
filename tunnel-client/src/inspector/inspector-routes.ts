/**
 * The inspector at the internal listener:
 *
 *     GET    /inspector                                             the page, and its files below: open, they tell nothing
 *     POST   /inspector/session                                     the internal token in exchange for a session
 *     GET    /v1/inspector/environments                             those of which requests are kept
 *     GET    /v1/inspector/environments/ID/requests                 newest first
 *     DELETE /v1/inspector/environments/ID/requests                 forgets them
 *     GET    /v1/inspector/environments/ID/requests/RID             all of one
 *     POST   /v1/inspector/environments/ID/requests/RID/replay      sends it again; the id of the new one
 *     GET    /v1/inspector/environments/ID/events                   server-sent events: requests, as they change
 *
 * All but the first two need the token or a session of it: these are the data of users. A session is good for nothing
 * else of the listener. Where the option is off there is nothing of it.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import * as z from 'zod';
import type { Clock } from '../../../shared/src/clock.ts';
import { isId } from '../../../shared/src/hostname.ts';
import { isAuthorized } from '../../../shared/src/identity/internal-token.ts';
import { createPageSessions, type PageSessions } from '../../../shared/src/identity/page-session.ts';
import { PAGE_POLICY, readPageFiles } from '../../../shared/src/page-files.ts';
import { createEventSubscribers, type EventSubscribers } from '../event-stream.ts';
import { HttpProblem, readBody, sendJson } from '../internal-http.ts';
import type { Logger } from '../logger.ts';
import { type Inspector, ReplayError } from './inspector.ts';
import { KEPT_REQUESTS } from './request-store.ts';

export interface InspectorRoutes {
  owns(path: string): boolean;
  /** Whether a request needs no token: it is for what is open, or has a session. */
  isAllowed(request: IncomingMessage, path: string): boolean;
  /** Rejects with HttpProblem. */
  answer(request: IncomingMessage, response: ServerResponse, path: string): Promise<void>;
  close(): void;
}

/** Body of a request for a session, bytes: it carries the token. Beyond it 413. */
const MAX_SESSION_BODY_BYTES = 1_024;
const SESSION_HEADER = 'inspector-key';
const SESSION_PATH = '/inspector/session';

const PAGE_HEADERS = {
  'content-security-policy': PAGE_POLICY,
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
};

const REPLAY_STATUS: Readonly<Record<ReplayError['code'], number>> = {
  not_found: 404,
  not_replayable: 409,
  too_many: 429,
  unreachable: 502,
};

const notFound = (): HttpProblem => new HttpProblem(404, 'not_found', 'there is nothing here');

interface Resource {
  readonly environmentId: string;
  readonly what: 'requests' | 'events';
  readonly id: string | undefined;
  readonly replay: boolean;
}
const RESOURCE = /^\/v1\/inspector\/environments\/([^/]+)\/(?:(events)|requests(?:\/(\d{1,15})(\/replay)?)?)$/;

const parseResource = (path: string): Resource | undefined => {
  const [whole, environmentId = '', events, id, replay] = RESOURCE.exec(path) ?? [];
  if (whole === undefined || !isId(environmentId)) return undefined;
  return { environmentId, what: events === undefined ? 'requests' : 'events', id, replay: replay !== undefined };
};

const allowOnly = (methods: readonly string[], request: IncomingMessage, response: ServerResponse): string => {
  const method = request.method === 'HEAD' ? 'GET' : (request.method ?? '');
  if (methods.includes(method)) return method;
  response.setHeader('allow', methods.join(', '));
  throw new HttpProblem(405, 'method_not_allowed', 'this method is not allowed here');
};

const portOf = (request: IncomingMessage): number => request.socket.localPort ?? 0;

const openSession = async (
  { sessions, token }: { sessions: PageSessions; token: string },
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> => {
  const body = z.object({ token: z.string() }).safeParse(await readBody(request, MAX_SESSION_BODY_BYTES));
  const shown = body.success ? body.data.token.trim() : '';
  if (!isAuthorized(`Bearer ${shown}`, token)) throw new HttpProblem(401, 'unauthorized', 'this is not the token');
  const { setCookie, key } = sessions.open(portOf(request));
  response.setHeader('set-cookie', setCookie);
  sendJson(response, 200, { key });
};

const sendEvents = (
  inspector: Inspector,
  subscribers: EventSubscribers,
  response: ServerResponse,
  environmentId: string,
): void => {
  const send = subscribers.add(response);
  if (!send) return;
  // What is kept first; from here on nothing is missed.
  send('requests', inspector.list(environmentId));
  const stop = inspector.watch(environmentId, (changed) => send('requests', changed));
  response.once('close', stop);
};

/** Everything that needs the token. */
const answerData = async (
  { inspector, subscribers, log }: { inspector: Inspector; subscribers: EventSubscribers; log: Logger },
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
): Promise<void> => {
  if (path === '/v1/inspector/environments') {
    allowOnly(['GET'], request, response);
    return sendJson(response, 200, { environments: inspector.environments(), keptRequests: KEPT_REQUESTS });
  }
  const resource = parseResource(path);
  if (!resource) throw notFound();
  const { environmentId, what, id, replay } = resource;
  if (what === 'events') {
    allowOnly(['GET'], request, response);
    return sendEvents(inspector, subscribers, response, environmentId);
  }
  if (id === undefined) {
    const method = allowOnly(['GET', 'DELETE'], request, response);
    if (method === 'GET') return sendJson(response, 200, { requests: inspector.list(environmentId) });
    inspector.clear(environmentId);
    return void response.writeHead(204).end();
  }
  if (!replay) {
    allowOnly(['GET'], request, response);
    const found = await inspector.get(environmentId, id);
    if (!found) throw new HttpProblem(404, 'not_found', 'the request is not, or no longer, kept');
    return sendJson(response, 200, found);
  }
  allowOnly(['POST'], request, response);
  try {
    const replayId = await inspector.replay(environmentId, id);
    log.info({ environmentId, inspectedId: id, replayId }, 'a request was sent again at the inspector');
    return sendJson(response, 201, { id: replayId });
  } catch (error) {
    if (error instanceof ReplayError) throw new HttpProblem(REPLAY_STATUS[error.code], error.code, error.message);
    throw error;
  }
};

export const createInspectorRoutes = (deps: {
  readonly inspector: Inspector | undefined;
  readonly clock: Clock;
  readonly log: Logger;
  readonly token: string;
}): InspectorRoutes => {
  const { inspector, clock, log, token } = deps;
  const owns = (path: string): boolean => /^\/(?:v1\/)?inspector(?:\/|$)/.test(path);
  if (!inspector) {
    return {
      owns,
      // That it is off is no secret.
      isAllowed: () => true,
      answer: () =>
        Promise.reject(new HttpProblem(404, 'inspector_off', 'the inspector is off; `inspector: true` turns it on')),
      close: () => undefined,
    };
  }
  const files = readPageFiles({
    directory: new URL('./page/', import.meta.url),
    path: '/inspector',
    html: 'inspector.html',
    folder: '/inspector',
    others: ['inspector.css', 'api.js', 'body.js', 'details.js', 'format.js', 'list.js', 'main.js'],
  });
  const sessions = createPageSessions({ clock, token }, { name: 'tunnel_client_inspector' });
  const subscribers = createEventSubscribers();
  return {
    owns,
    isAllowed: (request, path) =>
      files.has(path) ||
      path === SESSION_PATH ||
      sessions.isOpen({ cookie: request.headers.cookie, key: request.headers[SESSION_HEADER] }, portOf(request)),
    async answer(request, response, path) {
      const file = files.get(path);
      if (file) {
        allowOnly(['GET'], request, response);
        const headers = { ...PAGE_HEADERS, 'content-type': file.contentType, 'content-length': file.body.length };
        return void response.writeHead(200, headers).end(file.body);
      }
      if (path === SESSION_PATH) {
        allowOnly(['POST'], request, response);
        return openSession({ sessions, token }, request, response);
      }
      return answerData({ inspector, subscribers, log }, request, response, path);
    },
    close: () => subscribers.close(),
  };
};
