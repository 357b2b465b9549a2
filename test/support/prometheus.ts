/** A real Prometheus on a free port that takes remote write; it ends with the test. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { findProgram } from './system-packages.ts';

export interface Prometheus {
  readonly port: number;
  /** Series that answer a query, once `ca` is trusted by whoever asks. */
  query(text: string): Promise<{ metric: Record<string, string>; value: [number, string] }[]>;
  close(): Promise<void>;
}

export interface PrometheusOptions {
  /** Paths: it listens with TLS then, and asks everybody for user name and password. */
  readonly tls?: { readonly certificate: string; readonly key: string; readonly users: Record<string, string> };
  /** Asks the API with what `tls` needs. */
  readonly fetch?: typeof fetch;
}

export const startPrometheus = async ({ tls, fetch: ask = fetch }: PrometheusOptions = {}): Promise<Prometheus> => {
  const directory = await mkdtemp(join(tmpdir(), 'prometheus-'));
  await writeFile(join(directory, 'prometheus.yml'), 'global: {}\n');
  const web = join(directory, 'web.yml');
  await writeFile(
    web,
    JSON.stringify(
      tls ? { tls_server_config: { cert_file: tls.certificate, key_file: tls.key }, basic_auth_users: tls.users } : {},
    ),
  );
  const child = spawn(
    findProgram('prometheus') ?? 'prometheus',
    [
      `--config.file=${join(directory, 'prometheus.yml')}`,
      `--storage.tsdb.path=${join(directory, 'data')}`,
      `--web.config.file=${web}`,
      '--web.listen-address=127.0.0.1:0',
      '--web.enable-remote-write-receiver',
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const port = await new Promise<number>((resolve, reject) => {
    const lines: string[] = [];
    let found: number | undefined;
    createInterface({ input: child.stderr }).on('line', (line) => {
      lines.push(line);
      const listening = /Listening on.*address=127\.0\.0\.1:([1-9]\d*)/.exec(line)?.[1];
      if (listening !== undefined) found = Number(listening);
      if (found !== undefined && line.includes('Server is ready')) resolve(found);
    });
    child.once('error', reject);
    child.once('exit', () => reject(new Error(`Prometheus has ended\n${lines.join('\n')}`)));
  });
  return {
    port,
    async query(text) {
      const origin = `${tls ? 'https' : 'http'}://127.0.0.1:${port}`;
      const answer = await ask(`${origin}/api/v1/query?query=${encodeURIComponent(text)}`);
      return ((await answer.json()) as { data: { result: [] } }).data.result;
    },
    async close() {
      child.kill();
      await once(child, 'exit');
      await rm(directory, { recursive: true, force: true });
    },
  };
};
