/** Reading from the sockets of clients. */
import type { Socket } from 'node:net';

/** Reads from `socket` until `text` has come; gives everything so far. */
export const readUntil = (socket: Socket, text: string): Promise<string> =>
  new Promise((resolve, reject) => {
    let all = '';
    const stop = (): void => void socket.off('data', onData).off('close', onClose);
    const onData = (chunk: Buffer): void => {
      all += chunk.toString('latin1');
      if (!all.includes(text)) return;
      stop();
      socket.pause();
      resolve(all);
    };
    const onClose = (): void => {
      stop();
      reject(new Error(`the connection was closed after ${JSON.stringify(all)}`));
    };
    socket.on('data', onData).on('close', onClose);
    socket.resume();
  });

/** Everything until the connection is closed; `cut` when no end came before. */
export const readUntilClosed = (socket: Socket): Promise<{ text: string; cut: boolean }> =>
  new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let ended = false;
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.once('end', () => {
      ended = true;
      socket.end();
    });
    socket.on('error', () => undefined);
    socket.once('close', () => resolve({ text: Buffer.concat(chunks).toString('latin1'), cut: !ended }));
    socket.resume();
  });
