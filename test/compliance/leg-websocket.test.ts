import type { MakePair } from '../support/legs.ts';
import { createWebSocketEnds } from '../support/tcp-pair.ts';
import { legCompliance } from './leg.ts';
import { legPeerCompliance } from './leg-peer.ts';

const webSocketPair: MakePair = async () => {
  const ends = await createWebSocketEnds();
  return { ...(await ends.connect()), close: ends.close };
};

legCompliance('WebSocket', webSocketPair);
legPeerCompliance('WebSocket', webSocketPair);
