import { WEBSOCKET_LIMITS } from '../../shared/src/transport/websocket-limits.ts';
import { createWebSocketEnds } from '../support/tcp-pair.ts';
import { connectionCompliance } from './connection.ts';

connectionCompliance(
  'WebSocket',
  async () => {
    const ends = await createWebSocketEnds();
    return { ...(await ends.connect()), keys: undefined, close: ends.close };
  },
  { streams: WEBSOCKET_LIMITS.streams, unreadBytes: WEBSOCKET_LIMITS.streamWindowBytes },
);
