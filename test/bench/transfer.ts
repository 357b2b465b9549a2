/** Single big transfers, timed at the client. */
import { request as httpsRequest } from 'node:https';
import type { World } from './world.ts';

const MIB = 1 << 20;

const requestOptions = (world: World, path: string, environmentId?: string) => ({
  host: '127.0.0.1',
  port: world.httpsPort,
  servername: world.host(environmentId),
  headers: { host: `${world.host(environmentId)}:${world.httpsPort}` },
  ca: world.ca,
  checkServerIdentity: () => undefined,
  agent: false as const,
  path,
});

/** MiB/s of one download. */
export const download = (world: World, bytes: number, environmentId?: string): Promise<number> =>
  new Promise((resolve, reject) => {
    let got = 0;
    let startedAt = 0;
    const request = httpsRequest(requestOptions(world, `/bytes/${bytes}?id=download`, environmentId), (response) => {
      startedAt = performance.now();
      response.on('data', (chunk: Buffer) => (got += chunk.length));
      response.on('end', () => {
        if (got === bytes) resolve(bytes / MIB / ((performance.now() - startedAt) / 1_000));
        else reject(new Error(`${got} of ${bytes} bytes came, status ${response.statusCode}`));
      });
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end();
  });

/** MiB/s of one upload. */
export const upload = (world: World, bytes: number, environmentId?: string): Promise<number> =>
  new Promise((resolve, reject) => {
    const piece = Buffer.alloc(256 << 10, 'z');
    const startedAt = performance.now();
    const options = requestOptions(world, '/sink', environmentId);
    const request = httpsRequest(
      { ...options, method: 'POST', headers: { ...options.headers, 'content-length': bytes } },
      (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
        response.on('end', () => {
          if (Number(text) === bytes) resolve(bytes / MIB / ((performance.now() - startedAt) / 1_000));
          else reject(new Error(`the application has got ${text} of ${bytes} bytes`));
        });
        response.on('error', reject);
      },
    );
    request.on('error', reject);
    let left = bytes;
    const more = (): void => {
      while (left > 0) {
        const next = left < piece.length ? piece.subarray(0, left) : piece;
        left -= next.length;
        if (!request.write(next)) return void request.once('drain', more);
      }
      request.end();
    };
    more();
  });

/** ms of one small request on a connection of its own; rejects unless the answer is the application's. */
export const smallRequest = (world: World, environmentId?: string): Promise<number> =>
  new Promise((resolve, reject) => {
    const startedAt = performance.now();
    const request = httpsRequest(requestOptions(world, '/', environmentId), (response) => {
      response.resume();
      response.on('end', () =>
        response.statusCode === 200
          ? resolve(performance.now() - startedAt)
          : reject(new Error(`status ${response.statusCode}`)),
      );
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end();
  });
