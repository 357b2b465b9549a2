/** A TCP relay on loopback that delivers everything late, as a long path does: no loss, no limit of bandwidth. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

export interface SlowTcp {
  readonly port: number;
  close(): Promise<void>;
}

/** `delayMs` one way: a round trip takes twice as long. */
export const startSlowTcp = async (targetPort: number, delayMs: number): Promise<SlowTcp> => {
  const worker = new Worker(new URL('./slow-tcp-relay.ts', import.meta.url), { workerData: { targetPort, delayMs } });
  const [port] = (await once(worker, 'message')) as [number];
  return { port, close: async () => void (await worker.terminate()) };
};
