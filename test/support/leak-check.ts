/**
 * Loaded into every test process by `test/run.ts`. A process that is still alive this long after its last test holds
 * a socket, timer or child that a test left open: it fails, and says what kind of thing is left.
 */
import { after } from 'node:test';

/** Time for sockets that were closed in the last test to be gone, ms. */
const LEAK_GRACE_MS = 5_000;

after(() => {
  setTimeout(() => {
    // The pipes are the process's own stdout and stderr.
    const left = process.getActiveResourcesInfo().filter((kind) => kind !== 'PipeWrap' && kind !== 'TTYWrap');
    process.stderr.write(`handles leaked: still open after the last test: ${left.join(', ')}\n`);
    process.exit(1);
  }, LEAK_GRACE_MS).unref();
});
