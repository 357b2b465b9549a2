/**
 * Two environments behind one gateway and one tunnel, for attacks on the one and a look at the other. Both applications
 * are bare TCP servers that keep every byte, and read requests by the letter: what they cannot read is a fault of the
 * gateway.
 */
import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import type { GatewayOptions } from './gateway.ts';
import { readRequests, valuesIn, type StrictRequest } from './strict-http.ts';
import { rawApplication } from './applications.ts';
import { readUntilClosed } from './sockets.ts';
import { portHost, startWholeWay, type WholeWay } from './whole-way.ts';

export interface Recorder {
  readonly port: number;
  readonly environmentId: string;
  /** Host name, and with the port of the gateway. */
  readonly host: string;
  readonly authority: string;
  /** Requests in the order of their ends. */
  readonly requests: readonly StrictRequest[];
  /** What came that was no request. */
  readonly broken: readonly string[];
  /** Every byte of every connection. */
  bytes(): number;
  text(): string;
  /** What the next requests are answered with, instead of `ok`. Called once the head and body are there. */
  answer: ((request: StrictRequest, socket: Socket) => void) | undefined;
  /** Is handed what comes, instead of it being read as requests. */
  raw: ((socket: Socket, chunk: Buffer) => void) | undefined;
}

export interface HostileWorld {
  readonly way: WholeWay;
  readonly attacked: Recorder;
  readonly quiet: Recorder;
  /** Sends bytes over a connection of its own, and reads until the gateway closes it. */
  send(bytes: string, options?: { readonly serverName?: string; readonly localAddress?: string }): Promise<string>;
  /** The quiet environment is served, and what it was sent so far were its own requests only. */
  checkQuiet(): Promise<void>;
  close(): Promise<void>;
}

export const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
/** A connection that the gateway has not closed by then is one that it takes for good, ms. */
const SEND_TIMEOUT_MS = 5_000;
const QUIET_PATH = '/quiet';

/** Status and `Gateway-Error` of the first response in `text`. */
export const outcome = (text: string): [status: number, code: string | undefined] => {
  const head = text.slice(0, text.indexOf('\r\n\r\n') + 2);
  return [Number(/^HTTP\/1\.1 (\d{3}) /.exec(head)?.[1]), /^gateway-error: (\S+)\r$/im.exec(head)?.[1]];
};

const startRecorder = async (environmentId: string): Promise<{ recorder: Recorder; close(): Promise<void> }> => {
  const requests: StrictRequest[] = [];
  const broken: string[] = [];
  let text = '';
  const server = await rawApplication((socket) => {
    let pending = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      if (recorder.raw) return recorder.raw(socket, chunk);
      pending += chunk.toString('latin1');
      const reading = readRequests(pending);
      pending = pending.slice(reading.taken);
      if (reading.stopped === 'malformed') broken.push(pending);
      for (const request of reading.requests) {
        requests.push(request);
        if (recorder.answer) recorder.answer(request, socket);
        else socket.write(request.method === 'HEAD' ? OK.slice(0, -2) : OK);
      }
    });
    socket.on('end', () => socket.end());
  });
  const recorder: Recorder = {
    port: server.port,
    environmentId,
    host: portHost(environmentId, server.port),
    authority: '',
    requests,
    broken,
    bytes: () => server.bytes(),
    text: () => text,
    answer: undefined,
    raw: undefined,
  };
  return { recorder, close: () => server.close() };
};

export const startHostileWorld = async (options: GatewayOptions = {}): Promise<HostileWorld> => {
  const way = await startWholeWay(options);
  const servers = await Promise.all([startRecorder('attacked'), startRecorder('quiet')]);
  for (const { recorder } of servers) {
    Object.assign(recorder, { authority: `${recorder.host}:${way.gateway.httpsPort}` });
    await way.expose(recorder.environmentId, [recorder.port]);
  }
  const [{ recorder: attacked }, { recorder: quiet }] = servers;
  return {
    way,
    attacked,
    quiet,
    async send(bytes, { serverName = attacked.host, localAddress } = {}) {
      const socket = await way.connect(serverName, localAddress === undefined ? {} : ({ localAddress } as object));
      socket.write(bytes, 'latin1');
      const timer = setTimeout(() => socket.destroy(), SEND_TIMEOUT_MS);
      const { text } = await readUntilClosed(socket);
      clearTimeout(timer);
      return text;
    },
    async checkQuiet() {
      const answer = await way.gateway.request(quiet.host, QUIET_PATH);
      assert.deepEqual([answer.status, answer.body], [200, 'ok'], 'the quiet environment is served');
      for (const request of quiet.requests) {
        assert.deepEqual(
          [request.method, request.target, valuesIn(request.lines, 'host'), request.body],
          ['GET', QUIET_PATH, [quiet.authority], ''],
        );
      }
      assert.deepEqual([quiet.broken, attacked.broken], [[], []], 'what the gateway sends is well-formed');
    },
    async close() {
      await way.close();
      await Promise.all(servers.map((server) => server.close()));
    },
  };
};
