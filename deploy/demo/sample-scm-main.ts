/** The sample SCM as a program of its own; its settings are in the file that the first argument names. */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createSampleScm, type SampleScmOptions } from './sample-scm.ts';

export interface ScmSettings extends SampleScmOptions {
  readonly port: number;
}

const { port, ...options } = JSON.parse(await readFile(process.argv[2] ?? '', 'utf8')) as ScmSettings;
const server = createServer(createSampleScm(options));
server.listen(port, '127.0.0.1');
process.once('SIGTERM', () => {
  server.close();
  server.closeAllConnections();
});
