import { memoryPair } from '../support/connection-pairs.ts';
import { legCompliance } from './leg.ts';
import { legPeerCompliance } from './leg-peer.ts';

legCompliance('memory', memoryPair);
legPeerCompliance('memory', memoryPair);
