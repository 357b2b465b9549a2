/** Connected ends for legs. */
import { memoryConnectionPair } from '../../shared/src/transport/memory.ts';
import type { MakePair } from './legs.ts';
import { createQuicEnds } from './quic-pair.ts';

export const memoryPair: MakePair = (keys) => {
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

export const quicPair: MakePair = async (keys) => {
  const ends = await createQuicEnds({ keys: { listener: keys.acceptor, dialer: keys.dialler } });
  const pair = await ends.connect();
  return {
    ...pair,
    async close() {
      pair.dialler.close();
      pair.acceptor.close();
      await ends.close();
    },
  };
};
