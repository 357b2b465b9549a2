import { quicPair } from '../support/connection-pairs.ts';
import { legCompliance } from './leg.ts';
import { legPeerCompliance } from './leg-peer.ts';

legCompliance('QUIC', quicPair);
legPeerCompliance('QUIC', quicPair);
