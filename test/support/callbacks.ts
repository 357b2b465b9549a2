/**
 * Runner hosts without a whole gateway around them: a real edge, the callback host, a real registry and directory, and
 * runners that come over legs in memory. What a runner does with a stream is the test's.
 */
import { once } from 'node:events';
import { connect as connectH2, type ClientHttp2Session } from 'node:http2';
import { connect } from 'node:net';
import { createCallbackHost, type CallbackHost } from '../../gateway/src/oauth/callback-host.ts';
import { GATEWAY_LIMITS, type GatewayLimits } from '../../gateway/src/limits.ts';
import type { Clock } from '../../shared/src/clock.ts';
import { systemClock } from '../../shared/src/clock.ts';
import type { IncomingTunnelStream } from '../../shared/src/protocol/leg.ts';
import { splice } from '../../tunnel-client/src/splice.ts';
import { plainConnection } from '../../tunnel-client/src/upstream.ts';
import { startEdge, type EdgeUnderTest } from './edge.ts';
import { fetchOnce, type Answer } from './gateway.ts';
import { startTunnels, type Tunnels } from './tunnels.ts';

export const CALLBACK_PATH = '/oauth/github/callback';

export interface CallbackWorld {
  readonly tunnels: Tunnels;
  readonly edge: EdgeUnderTest;
  readonly callbacks: CallbackHost;
  request(runnerId: string, path: string, options?: Parameters<typeof fetchOnce>[3]): Promise<Answer>;
  connectH2(runnerId: string): Promise<ClientHttp2Session>;
  close(): Promise<void>;
}

export const startCallbackWorld = async (
  options: { clock?: Clock; limits?: Partial<GatewayLimits> } = {},
): Promise<CallbackWorld> => {
  const tunnels = await startTunnels(options);
  const { registry, directory, log } = tunnels;
  const callbacks = await createCallbackHost(
    { registry, directory, log, clock: options.clock ?? systemClock },
    { ...GATEWAY_LIMITS, ...options.limits },
  );
  const edge = await startEdge({
    handlers: {
      apex: (_request, _response, exchange) => exchange.fail('not_found'),
      api: (_request, _response, exchange) => exchange.fail('not_found'),
      runner: (exchange, runnerId) => callbacks.serve(exchange, runnerId),
    },
  });
  const sessions = new Set<ClientHttp2Session>();
  const hostOf = (runnerId: string): string => `${runnerId}.${edge.domains[0]}`;
  return {
    tunnels,
    edge,
    callbacks,
    request: (runnerId, path, requestOptions) => fetchOnce(edge.port, hostOf(runnerId), path, requestOptions),
    async connectH2(runnerId) {
      const session = connectH2(`https://${hostOf(runnerId)}:${edge.port}`, {
        ca: edge.ca,
        lookup: (_name, lookupOptions, callback) =>
          lookupOptions.all ? callback(null, [{ address: '127.0.0.1', family: 4 }]) : callback(null, '127.0.0.1', 4),
      });
      sessions.add(session);
      await once(session, 'connect');
      return session;
    },
    async close() {
      for (const session of sessions) session.destroy();
      await edge.close();
      await callbacks.close();
      await tunnels.close();
    },
  };
};

/** What a tunnel client does with the streams of logins: each is joined to a connection to the runner's service. */
export const toService =
  (port: number) =>
  (stream: IncomingTunnelStream): void => {
    if (stream.target.kind !== 'oauth') return stream.refuse('forbidden_target');
    const socket = connect(port, '127.0.0.1');
    socket.once('error', () => stream.refuse('refused'));
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      stream.accept();
      splice(stream, plainConnection(socket), () => undefined);
    });
  };
