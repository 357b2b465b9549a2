import { createQuicDialer, listenQuic } from '../../shared/src/transport/quic.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import { never, type MakePair } from '../support/legs.ts';
import { legCompliance } from './leg.ts';
import { legPeerCompliance } from './leg-peer.ts';

const quicPair: MakePair = async (keys) => {
  const accepted = Promise.withResolvers<Connection>();
  const listener = await listenQuic({ host: '127.0.0.1', port: 0, key: keys.acceptor, onConnection: accepted.resolve });
  const client = createQuicDialer({ key: keys.dialler });
  const dialler = await client.dial({ host: '127.0.0.1', port: listener.address.port }, { signal: never });
  const acceptor = await accepted.promise;
  return {
    dialler,
    acceptor,
    async close() {
      dialler.close();
      acceptor.close();
      client.close();
      await listener.close();
    },
  };
};

legCompliance('QUIC', quicPair);
legPeerCompliance('QUIC', quicPair);
