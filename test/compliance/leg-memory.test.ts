import { memoryConnectionPair } from '../../shared/src/transport/memory.ts';
import type { MakePair } from '../support/legs.ts';
import { legCompliance } from './leg.ts';
import { legPeerCompliance } from './leg-peer.ts';

const memoryPair: MakePair = (keys) => {
  const pair = memoryConnectionPair({ diallerKey: keys.dialler.publicKey, acceptorKey: keys.acceptor.publicKey });
  return Promise.resolve({
    ...pair,
    async close() {
      pair.dialler.close();
      pair.acceptor.close();
      await Promise.all([pair.dialler.closed, pair.acceptor.closed]);
    },
  });
};

legCompliance('memory', memoryPair);
legPeerCompliance('memory', memoryPair);
