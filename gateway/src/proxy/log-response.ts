/**
 * The response of a log server to a client that reads plain lines. Its body is passed on in whole lines, so that, when
 * the tunnel is lost in the middle of one, the client has read up to the end of the line before: it asks again with
 * `since=` the `Log-Offset` of the response plus the bytes it has read, and nothing is lost or stands twice.
 *
 * Only a response that has `Log-Offset` and no length is treated so; every other one passes as it comes.
 */
import type { ClientResponse } from './client-response.ts';

/** Bytes of an unfinished line that are held back. A longer line passes in pieces, and no end is put behind a piece. */
export const MAX_HELD_LINE_BYTES = 64 << 10;

const NEWLINE = 0x0a;
const isPlainText = (value: string): boolean => /^text\/plain\s*(?:;|$)/i.test(value);

/** Whether the client asked for what is there and no more: then only the log's own end may look like an end. */
const wantsAnEnd = (target: string): boolean => {
  const follow = new URLSearchParams(target.split('?')[1] ?? '').get('follow');
  return follow !== null && /^(?:false|0|no)$/i.test(follow);
};

export interface LogResponse extends ClientResponse {
  /** Ends the response behind its last whole line. False where that is not possible: the response is to be cut. */
  endAtLine(): boolean;
}

export const createLogResponse = (
  response: ClientResponse,
  request: { readonly target: string; readonly fileName?: string | undefined },
): LogResponse => {
  let inLines = false;
  let held: Uint8Array[] = [];
  let heldBytes = 0;
  /** What was passed on ends with a line. */
  let atLineEnd = true;

  const flush = (last?: Uint8Array): boolean => {
    const chunks = last ? [...held, last] : held;
    held = [];
    heldBytes = 0;
    let ready = true;
    for (const chunk of chunks) {
      if (chunk.length === 0) continue;
      atLineEnd = chunk.at(-1) === NEWLINE;
      ready = response.write(chunk);
    }
    return ready;
  };
  const hold = (chunk: Uint8Array): boolean => {
    if (chunk.length === 0) return true;
    held.push(chunk);
    heldBytes += chunk.length;
    return heldBytes > MAX_HELD_LINE_BYTES ? flush() : true;
  };

  return {
    begun: () => response.begun(),
    continue: () => response.continue(),
    information: (status, headers) => response.information(status, headers),
    head(status, reason, headers) {
      const field = (name: string): string | undefined =>
        headers.find((_, index) => index % 2 === 1 && headers[index - 1]!.toLowerCase() === name);
      inLines =
        status === 200 &&
        field('log-offset') !== undefined &&
        field('content-length') === undefined &&
        isPlainText(field('content-type') ?? '');
      // Only ids of environments come here, which need no quoting.
      if (status === 200 && request.fileName !== undefined) {
        headers.push('Content-Disposition', `attachment; filename="${request.fileName}"`);
      }
      response.head(status, reason, headers);
    },
    flushHead: () => response.flushHead(),
    write(chunk) {
      if (!inLines) return response.write(chunk);
      const end = chunk.lastIndexOf(NEWLINE) + 1;
      if (end === 0) return hold(chunk);
      const ready = flush(chunk.subarray(0, end));
      return hold(chunk.subarray(end)) && ready;
    },
    onDrain: (callback) => response.onDrain(callback),
    end(trailers, options) {
      flush();
      response.end(trailers, options);
    },
    endAtLine() {
      if (!inLines || !atLineEnd || wantsAnEnd(request.target)) return false;
      response.end([], { requestComplete: true });
      return true;
    },
  };
};
