#!/usr/bin/env node
/** The process: its arguments, variables, signals and exit code. Nothing else touches them. */
import process from 'node:process';
import { tuneGarbageCollection } from '../../shared/src/garbage-collection.ts';
import { runCli } from './cli/program.ts';

tuneGarbageCollection();

const stop = new AbortController();
const onSignal = (signal: NodeJS.Signals): void => {
  // Whoever asks twice does not want to wait: 128 + number of the signal, as shells have it.
  if (stop.signal.aborted) process.exit(signal === 'SIGINT' ? 130 : 143);
  stop.abort(new DOMException(`received ${signal}`, 'AbortError'));
};
process.on('SIGTERM', onSignal);
process.on('SIGINT', onSignal);
// A terminal that is closed, or `head` that has seen enough, is no reason to fail.
process.stdout.on('error', () => undefined);
process.stderr.on('error', () => undefined);

process.exitCode = await runCli(process.argv.slice(2), {
  env: process.env,
  cwd: process.cwd(),
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
  isTerminal: process.stderr.isTTY === true,
  stop: stop.signal,
});
// What then still holds the process is the QUIC binding, which is silent for up to 3 s after it has closed (RFC 9000
// section 10.2): nobody waits for that.
if (stop.signal.aborted) process.exit();
