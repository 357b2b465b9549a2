import { createKey } from '../../shared/src/identity/keys.ts';
import { MEMORY_STREAMS, MEMORY_WINDOW_BYTES, memoryConnectionPair } from '../../shared/src/transport/memory.ts';
import { connectionCompliance } from './connection.ts';

connectionCompliance(
  'memory',
  async () => {
    const keys = { dialler: createKey().publicKey, acceptor: createKey().publicKey };
    const pair = memoryConnectionPair({ diallerKey: keys.dialler, acceptorKey: keys.acceptor });
    return { ...pair, keys, close: async () => {} };
  },
  { streams: MEMORY_STREAMS, unreadBytes: MEMORY_WINDOW_BYTES },
);
