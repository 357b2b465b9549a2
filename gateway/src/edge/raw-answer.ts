/** Answers on a bare HTTP/1.1 connection: where the parser gave up, after an upgrade, and where it must end. */
import { STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Clock } from '../../../shared/src/clock.ts';
import type { ErrorAnswer } from './error-answer.ts';

/**
 * How long a connection is still read after its last answer, 1 s: a client that is still sending would otherwise get
 * a reset, and lose the answer with it (RFC 9112 section 9.6). Beyond: cut.
 */
const LINGER_MS = 1_000;

export const serializeAnswer = (answer: ErrorAnswer, method: string): string => {
  const lines = answer.headers.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  const head = `HTTP/1.1 ${answer.status} ${STATUS_CODES[answer.status] ?? 'Error'}\r\n${lines}Connection: close\r\n\r\n`;
  return method === 'HEAD' ? head : head + answer.body;
};

/** Sends the last bytes of a connection, and reads on for a moment without looking at what comes. */
export const endGently = (socket: Duplex, bytes: string, clock: Clock): void => {
  if (socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const cancel = clock.timer(LINGER_MS, () => socket.destroy());
  socket.once('close', cancel);
  socket.once('end', () => socket.destroy());
  socket.on('error', () => socket.destroy());
  socket.end(bytes);
  socket.resume();
};
