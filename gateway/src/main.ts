#!/usr/bin/env node
/** The process: arguments, variables, signals and exit codes. */
import { constants } from 'node:os';
import { tuneGarbageCollection } from '../../shared/src/garbage-collection.ts';
import { runCli } from './cli/cli.ts';

tuneGarbageCollection();

const stop = new AbortController();
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.on(signal, () => {
    // The second signal ends at once, with the code a shell expects: 130 or 143. What would write its last lines first is
    // not asked: it waits for whoever does not read them.
    if (stop.signal.aborted) {
      process.removeAllListeners('exit');
      process.exit(128 + constants.signals[signal]);
    }
    stop.abort(new Error(`the process was asked to end (${signal})`));
  });
}

process.exitCode = await runCli(process.argv.slice(2), {
  env: process.env,
  stdout: process.stdout,
  stderr: process.stderr,
  stop: stop.signal,
  onReload(listener) {
    process.on('SIGHUP', listener);
    return () => void process.off('SIGHUP', listener);
  },
});
// What then still holds the process is the QUIC binding, which is silent for up to 3 s after it has closed (RFC 9000
// section 10.2): nobody waits for that.
if (stop.signal.aborted) process.exit();
