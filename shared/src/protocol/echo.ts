/** A round trip through the lanes of a leg: what goes to the target `echo` comes back, whichever side opens it. */
import type { Clock } from '../clock.ts';
import type { Leg } from './leg.ts';
import type { Target } from './target.ts';

export const ECHO_TARGET: Target = {
  kind: 'echo',
  environmentId: '',
  port: 0,
  tls: false,
  hops: 0,
  requestId: '',
  traceParent: '',
};
/** Enough that the answer is payload; its content does not matter. */
export const ECHO_PAYLOAD = Buffer.from('echo');

/**
 * The time until the answer, ms. Rejects when there is none within `timeoutMs`, with what ended the stream, or with the
 * signal's reason.
 */
export const echo = (
  leg: Leg,
  deps: { readonly clock: Clock },
  options: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<number> =>
  new Promise((resolve, reject) => {
    const { clock } = deps;
    const sentAt = clock.monotonic();
    const stream = leg.openStream(ECHO_TARGET, { signal: options.signal });
    const cancel = clock.timer(options.timeoutMs, () =>
      stream.destroy(new Error(`no echo within ${options.timeoutMs} ms`)),
    );
    stream.connected.catch(() => undefined);
    stream.once('error', reject);
    stream.once('close', () => {
      cancel();
      reject(new Error('the echo ended without an answer'));
    });
    stream.once('data', () => {
      resolve(clock.monotonic() - sentAt);
      stream.destroy();
    });
    stream.write(ECHO_PAYLOAD);
  });
