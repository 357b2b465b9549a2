/** The upstream of all systems, in the namespace of the runner. */
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { BIG_BODY_BYTES, type Certificate, startNginx, upstreamConfig } from './nginx.ts';
import { startProgram } from './program.ts';
import type { Topology } from './topology.ts';

export interface Upstream {
  /** What came in request bodies since the last call. */
  counted(): Promise<{ bytes: number; ms: number }>;
  stop(): Promise<void>;
}

/** Path of the file that is downloaded and uploaded. */
export const bigFile = (directory: string): string => join(directory, 'upstream/files/big');

export const startUpstream = async (
  topology: Topology,
  directory: string,
  certificate: Certificate,
): Promise<Upstream> => {
  const file = bigFile(directory);
  await mkdir(join(file, '..'), { recursive: true });
  // All zeros and without blocks of its own: none of the systems compresses, and memory is left alone.
  const handle = await open(file, 'w');
  await handle.truncate(BIG_BODY_BYTES);
  await handle.close();
  const nginx = await startNginx(topology.runner, join(directory, 'upstream'), (at) => upstreamConfig(at, certificate));
  const programs = startProgram(topology.runner, [
    process.execPath,
    join(import.meta.dirname, 'upstream-programs.ts'),
    certificate.certificate,
    certificate.key,
  ]);
  await programs.waitFor(/the upstream listens/);
  return {
    async counted() {
      const before = programs.output().length;
      programs.child.stdin?.write('\n');
      for (;;) {
        const line = /counted (\{.*\})\n/.exec(programs.output().slice(before))?.[1];
        if (line !== undefined) return JSON.parse(line) as { bytes: number; ms: number };
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    },
    async stop() {
      await Promise.all([programs.stop(), nginx.stop()]);
    },
  };
};
