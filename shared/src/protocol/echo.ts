/** A round trip through the lanes of a leg: what goes to the target `echo` comes back, whichever side opens it. */
import { type Clock, delay } from '../clock.ts';
import { StreamRefusedError } from '../errors.ts';
import type { Leg, TunnelStream } from './leg.ts';
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
/** Until a stream is asked for again, ms: a new leg has no lane yet at the side that dialled, a full one no place. */
const AGAIN_MS = 20;

const answerTo = (stream: TunnelStream, clock: Clock): Promise<number> =>
  new Promise((resolve, reject) => {
    const sentAt = clock.monotonic();
    stream.connected.catch(() => undefined);
    stream.once('error', reject);
    stream.once('close', () => reject(new Error('the echo ended without an answer')));
    stream.once('data', () => {
      resolve(clock.monotonic() - sentAt);
      stream.destroy();
    });
    stream.write(ECHO_PAYLOAD);
  });

/**
 * The time until the answer, ms. Rejects when there is none within `timeoutMs`, with what ended the stream or the leg, or
 * with the signal's reason.
 */
export const echo = async (
  leg: Leg,
  deps: { readonly clock: Clock },
  options: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<number> => {
  const { clock } = deps;
  const limit = new AbortController();
  const cancel = clock.timer(options.timeoutMs, () => limit.abort(new Error(`no echo within ${options.timeoutMs} ms`)));
  const signal = AbortSignal.any([options.signal, limit.signal]);
  try {
    for (;;) {
      try {
        return await answerTo(leg.openStream(ECHO_TARGET, { signal }), clock);
      } catch (error) {
        if (!(error instanceof StreamRefusedError)) throw error;
        await delay(clock, AGAIN_MS, signal);
      }
    }
  } finally {
    cancel();
  }
};
