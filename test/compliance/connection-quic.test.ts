import { QUIC_LIMITS } from '../../shared/src/transport/quic-limits.ts';
import { createQuicEnds } from '../support/quic-pair.ts';
import { connectionCompliance } from './connection.ts';

for (const host of ['127.0.0.1', '::1']) {
  connectionCompliance(
    `QUIC on ${host}`,
    async () => {
      const ends = await createQuicEnds({ host });
      const keys = { dialler: ends.keys.dialer.publicKey, acceptor: ends.keys.listener.publicKey };
      return { ...(await ends.connect()), keys, close: ends.close };
    },
    { streams: QUIC_LIMITS.streams, unreadBytes: QUIC_LIMITS.streamWindowBytes },
  );
}
