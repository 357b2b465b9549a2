/** Waits until a host answers through the gateway, over a connection that checks the gateway's own certificate. */
import { readFile } from 'node:fs/promises';
import { request } from 'node:https';
import type { LookupFunction } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** Between two tries, ms. */
const RETRY_MS = 200;
/** How long the first start may take, ms: keys and certificates are made in it, perhaps on a slow machine. */
const PATIENCE_MS = 60_000;
/** One try, ms. */
const TRY_TIMEOUT_MS = 5_000;

/** Names under `.localhost` are loopback (RFC 6761 section 6.3); the resolver may not know that. */
const loopback: LookupFunction = (_hostname, options, callback) => {
  if (options.all)
    callback(null, [
      { address: '127.0.0.1', family: 4 },
      { address: '::1', family: 6 },
    ]);
  else callback(null, '127.0.0.1', 4);
};

/** Undefined when `https://host:port/path` answered 200, else what is in the way. */
const tryOnce = async (
  host: string,
  path: string,
  { stateDir, httpsPort }: { stateDir: string; httpsPort: number },
  signal: AbortSignal,
): Promise<string | undefined> => {
  const ca = await readFile(join(stateDir, 'self-signed/certificate.pem')).catch(() => undefined);
  if (ca === undefined) return 'there is no certificate yet';
  return new Promise((resolve) => {
    const call = request({
      host,
      port: httpsPort,
      path,
      ca,
      agent: false,
      lookup: loopback,
      signal: AbortSignal.any([signal, AbortSignal.timeout(TRY_TIMEOUT_MS)]),
    });
    call.on('error', (error) => resolve(error.message));
    call.on('response', (response) => {
      response.resume();
      response.on('error', (error) => resolve(error.message));
      response.on('end', () => {
        const code = response.headers['gateway-error'];
        const ok = response.statusCode === 200 && code === undefined;
        resolve(ok ? undefined : `the answer is ${response.statusCode}${code ? ` (${String(code)})` : ''}`);
      });
    });
    call.end();
  });
};

/** Resolves when the URL answers. Rejects when `signal` is aborted, with its reason, or when patience ends. */
export const answers = async (
  host: string,
  path: string,
  settings: { stateDir: string; httpsPort: number },
  signal: AbortSignal,
): Promise<void> => {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const problem = await tryOnce(host, path, settings, signal);
    if (problem === undefined) return;
    signal.throwIfAborted();
    if (performance.now() > deadline) {
      throw new Error(
        `https://${host}:${settings.httpsPort}${path} does not answer after ${PATIENCE_MS / 1_000} s: ${problem}`,
      );
    }
    // An abort ends the wait; the next round throws its reason.
    await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
    signal.throwIfAborted();
  }
};
