import type { MakePair } from '../support/legs.ts';
import { createWebTransportEnds } from '../support/tcp-pair.ts';
import { legCompliance } from './leg.ts';
import { legPeerCompliance } from './leg-peer.ts';

const webTransportPair: MakePair = async () => {
  const ends = await createWebTransportEnds();
  return { ...(await ends.connect()), close: ends.close };
};

legCompliance('WebTransport', webTransportPair);
legPeerCompliance('WebTransport', webTransportPair);
