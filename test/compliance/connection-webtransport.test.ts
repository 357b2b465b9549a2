import { WEBTRANSPORT_LIMITS } from '../../shared/src/transport/webtransport-limits.ts';
import { createWebTransportEnds } from '../support/tcp-pair.ts';
import { connectionCompliance } from './connection.ts';

connectionCompliance(
  'WebTransport',
  async () => {
    const ends = await createWebTransportEnds();
    return { ...(await ends.connect()), keys: undefined, close: ends.close };
  },
  // Places are never given back: 256 streams in the life of a connection, see docs/decisions/0005-webtransport.md.
  { streams: undefined, unreadBytes: WEBTRANSPORT_LIMITS.streamWindowBytes },
);
