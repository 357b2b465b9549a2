/** `GET /events`: what happens to the client, as server-sent events (WHATWG HTML, section 9.2). */
import type { ServerResponse } from 'node:http';
import type { RunnerClient } from './client.ts';

/** Subscribers at once. Beyond it 503. */
const MAX_SUBSCRIBERS = 32;
/** What may wait for a slow subscriber, bytes. Beyond it the connection is cut; a client of events connects again. */
const MAX_WAITING_BYTES = 1 << 20;
/** A comment is sent as often, ms, so that both ends notice when the other is gone. */
const HEARTBEAT_MS = 15_000;

export interface EventSubscribers {
  /** Answers with a stream of events. Returns what sends one to it alone; undefined: there are too many, 503. */
  add(response: ServerResponse): ((event: string, data: unknown) => void) | undefined;
  publish(event: string, data: unknown): void;
  close(): void;
}

const formatEvent = (event: string, data: unknown): string => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;

export const createEventSubscribers = (): EventSubscribers => {
  const subscribers = new Set<ServerResponse>();
  const write = (response: ServerResponse, text: string): void => {
    if (response.writableLength > MAX_WAITING_BYTES) return void response.destroy();
    response.write(text);
  };
  const heartbeat = setInterval(() => {
    for (const response of subscribers) write(response, ': still here\n\n');
  }, HEARTBEAT_MS).unref();
  return {
    add(response) {
      if (subscribers.size >= MAX_SUBSCRIBERS) {
        response.writeHead(503, { 'retry-after': '5' }).end();
        return undefined;
      }
      subscribers.add(response);
      response.once('close', () => subscribers.delete(response));
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      return (event, data) => write(response, formatEvent(event, data));
    },
    publish(event, data) {
      const text = formatEvent(event, data);
      for (const response of subscribers) write(response, text);
    },
    close() {
      clearInterval(heartbeat);
      for (const response of subscribers) response.end();
    },
  };
};

export interface EventStream {
  subscribe(response: ServerResponse): void;
  close(): void;
}

export const createEventStream = (client: RunnerClient): EventStream => {
  const subscribers = createEventSubscribers();
  const { publish } = subscribers;
  const onLeg = (event: unknown): void => publish('leg', event);
  const onState = (state: unknown): void => publish('state', { state });
  const onEnvironment = (event: unknown): void => publish('environment', event);
  const onError = (_error: Error, problem: unknown): void => publish('error', problem);
  client.on('leg', onLeg);
  client.on('state', onState);
  client.on('environment', onEnvironment);
  client.on('error', onError);

  return {
    subscribe(response) {
      // Everything that happened before; from here on nothing is missed.
      subscribers.add(response)?.('status', client.status());
    },
    close() {
      client.off('leg', onLeg);
      client.off('state', onState);
      client.off('environment', onEnvironment);
      client.off('error', onError);
      subscribers.close();
    },
  };
};
