/** How a log goes over HTTP: newline text, or server-sent events (WHATWG HTML, section 9.2). */

/** A comment as often, ms, so that both ends and everything between them see that the other is there. */
export const HEARTBEAT_MS = 15_000;
/** What an EventSource waits before it connects again, ms. */
const RETRY_MS = 1_000;

export interface LogFormat {
  readonly contentType: string;
  /** Before anything else; `offset` is where the response begins. */
  begin(offset: number): Buffer | undefined;
  /** Whole lines, or a piece of a long one; `offset` is that of the first byte. */
  lines(bytes: Buffer, offset: number): Buffer;
  /** `lines` is undefined where they cannot be counted; `isFirst`: nothing was sent before. */
  skipped(notice: { lines: number | undefined; bytes: number; offset: number; isFirst: boolean }): Buffer | undefined;
  reset(offset: number): Buffer | undefined;
  readonly heartbeat: Buffer | undefined;
}

export const TEXT_FORMAT: LogFormat = {
  contentType: 'text/plain; charset=utf-8',
  begin: () => undefined,
  lines: (bytes) => bytes,
  skipped({ lines, offset, isFirst }) {
    // The header Log-Offset has said where it begins.
    if (isFirst) return undefined;
    return Buffer.from(`[… ${lines ?? 'some'} lines skipped …] Log-Offset: ${offset}\n`);
  },
  reset: () => undefined,
  heartbeat: undefined,
};

/**
 * One line as an event. Bytes are written as Latin-1 characters, so that they come out as they went in. A carriage
 * return ends a line of an event stream too: what stands between two of them becomes a line of data of its own.
 */
const formatLine = (line: string, id: number): string => {
  const text = line.endsWith('\r') ? line.slice(0, -1) : line;
  return `data: ${text.includes('\r') ? text.replaceAll('\r', '\ndata: ') : text}\nid: ${id}\n\n`;
};

export const EVENT_FORMAT: LogFormat = {
  contentType: 'text/event-stream; charset=utf-8',
  // An id without data is no event, and yet what the client goes on from when it is cut off before the first line.
  begin: (offset) => Buffer.from(`retry: ${RETRY_MS}\nid: ${offset}\n\n`),
  lines(bytes, offset) {
    const events: string[] = [];
    for (let from = 0; from < bytes.length;) {
      const newline = bytes.indexOf(10, from);
      const to = newline === -1 ? bytes.length : newline;
      const next = newline === -1 ? bytes.length : newline + 1;
      events.push(formatLine(bytes.toString('latin1', from, to), offset + next));
      from = next;
    }
    return Buffer.from(events.join(''), 'latin1');
  },
  skipped: ({ lines, bytes, offset }) =>
    Buffer.from(`event: skipped\ndata: ${JSON.stringify({ lines: lines ?? null, bytes, offset })}\nid: ${offset}\n\n`),
  reset: (offset) => Buffer.from(`event: reset\ndata: ${JSON.stringify({ offset })}\nid: ${offset}\n\n`),
  heartbeat: Buffer.from(':\n\n'),
};
