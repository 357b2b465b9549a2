/** Tells a person what the client does, one line an event. */
import type { RunnerClient } from '../client.ts';
import type { EnvironmentSettings } from '../environments.ts';
import { transportSentence } from '../transport.ts';
import { formatDuration } from './amounts.ts';

/** The same problem is not told again within this time, ms. */
const REPEAT_MS = 60_000;

const time = (): string => new Date().toLocaleTimeString('en-GB');

/** What is announced but cannot be opened by anybody yet. */
export const closedPortNotice = (environments: readonly EnvironmentSettings[]): string | undefined => {
  const closed = environments.flatMap(({ id, ports }) =>
    ports
      .filter(({ admission }) => admission !== 'everyone')
      .map(({ port, admission }) => `${id}:${port} (${admission})`),
  );
  if (closed.length === 0) return undefined;
  return (
    `Nobody can open ${closed.join(', ')}: that needs sign-in, which gateways do not have yet. ` +
    'To share a port with everyone who has the link, set its admission to everyone (--admission everyone).'
  );
};

export const reportTo = (client: RunnerClient, print: (line: string) => void): void => {
  const told = new Map<string, number>();
  const say = (mark: string, text: string): void => print(`${time()} ${mark} ${text}`);
  const portsOf = (id: string): ReadonlyMap<number, string> =>
    new Map(
      client.environments
        .list()
        .filter((environment) => environment.id === id)
        .flatMap(({ host, ports }) =>
          ports.map(({ port, protocol, admission }) => [port, `${protocol}://${host}:${port} (${admission})`] as const),
        ),
    );

  client.on('leg', (event) => {
    switch (event.type) {
      case 'up':
        say('+', `connected to gateway ${event.gatewayId} at ${event.remoteAddress} (${event.transport})`);
        if (event.reason !== 'first') say('·', transportSentence(event.transport, event.reason));
        if (event.inspected) say('!', 'TLS is inspected on the way: whoever does it can read what the tunnel carries');
        return undefined;
      case 'suspect':
        return say('!', `gateway ${event.gatewayId} is silent; connecting again beside it`);
      case 'recovered':
        return say('+', `gateway ${event.gatewayId} answers again`);
      case 'drained':
        return say('·', `gateway ${event.gatewayId} asks for a new connection`);
      case 'left':
        return undefined;
      case 'down':
        return say('-', `connection to gateway ${event.gatewayId} ended: ${event.reason ?? event.code}`);
    }
  });
  client.on('environment', ({ id, accepted, code, message, urls }) => {
    if (!accepted) return say('!', `environment ${id} was refused: ${message ?? code ?? 'no reason was given'}`);
    if (message !== undefined) say('!', `environment ${id}: ${message}`);
    const ports = portsOf(id);
    if (urls.length === 0) say('+', `environment ${id} is known to the gateway; it exposes no port`);
    for (const { port, url } of urls) say('+', `${url}  →  ${ports.get(port) ?? port}`);
  });
  client.on('error', (_error, { message, retryInMs }) => {
    const now = performance.now();
    if (now - (told.get(message) ?? -Infinity) < REPEAT_MS) return;
    if (told.size > 100) told.clear();
    told.set(message, now);
    const again = retryInMs === undefined || retryInMs < 1_000 ? '' : ` (tried again in ${formatDuration(retryInMs)})`;
    say('!', `${message}${again}`);
  });
};
