/**
 * Whether the application behind a port speaks TLS. OpenSSL answers a plain HTTP request with nothing at all
 * (SSL_AD_NO_ALERT for "http request"), so that a dev server with HTTPS only hangs up: asking is the only way to tell.
 */
import { connect } from 'node:tls';
import type { Clock } from '../../../shared/src/clock.ts';
import type { Leg } from '../../../shared/src/protocol/leg.ts';
import type { Target } from '../../../shared/src/protocol/target.ts';

/**
 * Time for a handshake through the tunnel, ms: two round trips, and the client, who has waited already, is told within
 * a second. Beyond: taken for no TLS.
 */
const PROBE_TIMEOUT_MS = 800;

/** Opens one more tunnel stream to the target and begins a TLS handshake on it. Never rejects. */
export const speaksTls = (leg: Leg, target: Target, deps: { clock: Clock }, signal: AbortSignal): Promise<boolean> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve(false);
    let stream;
    try {
      stream = leg.openStream({ ...target, tls: false }, { signal: new AbortController().signal });
    } catch {
      return resolve(false);
    }
    const secure = connect({ socket: stream, rejectUnauthorized: false });
    const settle = (answer: boolean): void => {
      cancel();
      signal.removeEventListener('abort', onAbort);
      secure.destroy();
      stream.destroy();
      resolve(answer);
    };
    const onAbort = (): void => settle(false);
    const cancel = deps.clock.timer(PROBE_TIMEOUT_MS, onAbort);
    signal.addEventListener('abort', onAbort, { once: true });
    stream.on('error', onAbort);
    secure.once('secureConnect', () => settle(true));
    secure.on('error', (error: NodeJS.ErrnoException) => {
      // An alert is TLS as well (no common version, a client certificate wanted).
      settle(error.code?.startsWith('ERR_SSL_') === true && error.code.includes('ALERT'));
    });
    secure.once('close', onAbort);
  });
