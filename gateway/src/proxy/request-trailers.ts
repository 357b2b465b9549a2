/** Request trailers, which undici cannot send (`Dispatcher.DispatchOptions` has no field for them). */
import type { Duplex } from 'node:stream';

/** What undici writes at the end of a chunked body, in one piece. */
const LAST_CHUNK = '\r\n0\r\n\r\n';
const EMPTY_BODY = 'content-length: 0\r\n';

/**
 * Puts `trailers` into the end of the body that undici is about to write to `stream`: called when the body has yielded
 * its last chunk, so that the next write is that end. A body without a byte becomes a chunked one.
 */
export const sendTrailers = (stream: Duplex, trailers: readonly string[]): void => {
  let section = '';
  for (let index = 0; index < trailers.length; index += 2)
    section += `${trailers[index]!}: ${trailers[index + 1]!}\r\n`;
  const withTrailers = (text: string): string => {
    if (text === LAST_CHUNK) return `\r\n0\r\n${section}\r\n`;
    const head = text.slice(0, -2);
    const fields = head.endsWith(EMPTY_BODY) ? head.slice(0, -EMPTY_BODY.length) : head;
    return `${fields}transfer-encoding: chunked\r\n\r\n0\r\n${section}\r\n`;
  };
  const patched = stream as Duplex & { write: Duplex['write'] };
  patched.write = ((chunk: string, encoding: BufferEncoding): boolean => {
    delete (patched as { write?: unknown }).write;
    return stream.write(
      typeof chunk === 'string' && chunk.endsWith('\r\n\r\n') ? withTrailers(chunk) : chunk,
      encoding,
    );
  }) as Duplex['write'];
};
