/**
 * Valid HTTP/1.1 requests with faults put into them, each with a clean request for another environment behind it. What
 * reaches the two applications is compared with what a strict reader finds in the same bytes: the gateway may refuse
 * more than that reader, and must never see more or other requests than it.
 */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { HostileWorld, Recorder } from './hostile-world.ts';
import { isLast, readRequests, valuesIn, type StrictRequest } from './strict-http.ts';

/** Connections at once. */
const BATCH = 20;
/** Silence after which a connection counts as one on which the gateway waits for more, ms. */
const QUIET_MS = 150;

interface Names {
  /** Authorities of the attacked and of the other environment. */
  readonly a: string;
  readonly b: string;
}

const seeds = ({ a, b }: Names): string[] => {
  const smuggled = `GET /smuggled HTTP/1.1\r\nHost: ${b}\r\nX-Canary: no\r\n\r\n`;
  const chunk = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n`;
  return [
    `GET /get HTTP/1.1\r\nHost: ${a}\r\nAccept: */*\r\nCookie: a=1; b="2"\r\n\r\n`,
    `HEAD /head?x=%zz HTTP/1.1\r\nHost: ${a}\r\nX-Empty:\r\n\r\n`,
    `DELETE /none HTTP/1.1\r\nHost: ${a}\r\nContent-Length: 0\r\n\r\n`,
    `POST /length HTTP/1.1\r\nHost: ${a}\r\nContent-Length: ${smuggled.length}\r\nContent-Type: text/plain\r\n\r\n${smuggled}`,
    `PUT /expect HTTP/1.1\r\nHost: ${a}\r\nExpect: 100-continue\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    `POST /chunked HTTP/1.1\r\nHost: ${a}\r\nTransfer-Encoding: chunked\r\n\r\n${chunk(smuggled)}0\r\n\r\n`,
    `POST /chunks HTTP/1.1\r\nHost: ${a}\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5;a="b"\r\nhello\r\n${chunk(smuggled)}0\r\nX-Sum: 1\r\n\r\n`,
    `POST /0 HTTP/1.1\r\nHost: ${a}\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive, X-A\r\nX-A: 1\r\n\r\n0\r\n\r\n`,
    `GET /socket HTTP/1.1\r\nHost: ${a}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`,
    `GET /h2c HTTP/1.1\r\nHost: ${a}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n`,
    `GET https://${a}/absolute HTTP/1.1\r\nHost: ${a}\r\n\r\n`,
    `GET /old HTTP/1.0\r\nHost: ${a}\r\nConnection: keep-alive\r\n\r\n`,
    `POST /old HTTP/1.0\r\nHost: ${a}\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    `OPTIONS * HTTP/1.1\r\nHost: ${a}\r\n\r\n`,
    `GET /first HTTP/1.1\r\nHost: ${a}\r\n\r\nGET /second HTTP/1.1\r\nHost: ${a}\r\nContent-Length: 3\r\n\r\nabc`,
  ];
};

/** Pieces that parsers have disagreed about. */
const PIECES = [
  ...['\r', '\n', '\r\n', '\r\n\r\n', '\n\n', '\0', ' ', '\t', '\x0b', '\x0c', '\x7f', '\x85', '\xa0', '\xff'],
  ...[':', ',', ';', '"', '_', '0', '1', '+', '-', '0x', '/', '#', '?', '*', '@', '\\', '%00', '%0d%0a', '..'],
  ...['Transfer-Encoding: chunked\r\n', 'transfer-encoding:\tchunked\r\n', 'Transfer-Encoding: identity\r\n'],
  ...['Transfer-Encoding : chunked\r\n', 'Transfer_Encoding: chunked\r\n', 'Transfer-Encoding: x, chunked\r\n'],
  ...['Content-Length: 0\r\n', 'Content-Length: 5\r\n', 'content-length: 44\r\n', 'Content-Length: 1e1\r\n'],
  ...['Content-Length: +7\r\n', 'Content-Length: 18446744073709551617\r\n', 'Content_Length: 3\r\n'],
  ...['Connection: close\r\n', 'Connection: Upgrade\r\n', 'Upgrade: websocket\r\n', 'Upgrade: h2c\r\n'],
  ...['Expect: 100-continue\r\n', 'Expect: x\r\n', 'Host: x\r\n', 'Host:\r\n', ' folded\r\n', '\tfolded\r\n'],
  ...[
    '0\r\n\r\n',
    '5\r\nhello\r\n',
    'ffffffffffffffff\r\n',
    '5 \r\n',
    '5;\n',
    ' HTTP/1.1\r\n',
    ' HTTP/0.9\r\n',
    'GET / ',
  ],
];

type Mutation = (text: string) => string;

/** A place in the head, where most of the grammar is, or anywhere. */
const place = fc.record({ inHead: fc.boolean(), at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }) });
type Place = typeof place extends fc.Arbitrary<infer T> ? T : never;
const indexIn = (text: string, { inHead, at }: Place): number => {
  const headEnd = text.indexOf('\r\n\r\n');
  return Math.floor(at * ((inHead && headEnd > 0 ? headEnd + 4 : text.length) + 1));
};
const linesOf = (text: string): string[] => text.split(/(?<=\n)/);
const changeLine = (text: string, at: number, change: (line: string) => string): string => {
  const lines = linesOf(text);
  const index = Math.floor(at * lines.length);
  return lines.map((line, each) => (each === index ? change(line) : line)).join('');
};
const LINE_CHANGES: readonly ((line: string) => string)[] = [
  (line) => line + line,
  (line) => line + line.toUpperCase(),
  (line) => line.replace(': ', ' : '),
  (line) => line.replace(': ', ':\r\n '),
  (line) => line.replace(': ', ':'),
  (line) => line.replace('\r\n', '\n'),
  (line) => line.replace('\r\n', ' \r\n'),
  (line) => line.replace('-', '_'),
  (line) => line.replace(/\d+/, (digits) => String(Number(digits) + 1)),
  (line) => line.replace(/\d+/, (digits) => String(Math.max(0, Number(digits) - 1))),
  (line) => line.replace(/\d+/, (digits) => `0${digits}`),
  (line) => line.replace(/chunked/i, 'Chunked, identity'),
  (line) => line.replace(/HTTP\/1\.1/, 'HTTP/1.0'),
  (line) => line.toUpperCase(),
  () => '',
];

const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc
    .tuple(place, fc.oneof(fc.constantFrom(...PIECES), fc.uint8Array({ minLength: 1, maxLength: 3 })))
    .map(([where, piece]): Mutation => {
      const bytes = typeof piece === 'string' ? piece : Buffer.from(piece).toString('latin1');
      return (text) => text.slice(0, indexIn(text, where)) + bytes + text.slice(indexIn(text, where));
    }),
  fc.tuple(place, fc.integer({ min: 1, max: 6 })).map(([where, length]): Mutation => {
    return (text) => text.slice(0, indexIn(text, where)) + text.slice(indexIn(text, where) + length);
  }),
  fc.tuple(place, fc.nat(255)).map(([where, byte]): Mutation => {
    return (text) =>
      text.slice(0, indexIn(text, where)) + String.fromCharCode(byte) + text.slice(indexIn(text, where) + 1);
  }),
  fc.tuple(place, place).map(([left, right]): Mutation => {
    return (text) => {
      const [from, to] = [indexIn(text, left), indexIn(text, right)].sort((x, y) => x - y) as [number, number];
      if (to >= text.length || from === to) return text;
      return text.slice(0, from) + text[to]! + text.slice(from + 1, to) + text[from]! + text.slice(to + 1);
    };
  }),
  fc.tuple(place, fc.constantFrom(...LINE_CHANGES)).map(([{ at }, change]): Mutation => {
    return (text) => changeLine(text, at, change);
  }),
);

/** Most of the time one: with several, nearly every request is refused for one of them. */
const mutations = fc.oneof(
  { weight: 4, arbitrary: fc.array(mutation, { minLength: 1, maxLength: 1 }) },
  { weight: 1, arbitrary: fc.array(mutation, { minLength: 2, maxLength: 4 }) },
);

const canary = ({ b }: Names, run: number): string =>
  `GET /canary-${run} HTTP/1.1\r\nHost: ${b}\r\nX-Canary: ${run}\r\nConnection: close\r\n\r\n`;

/** One of 2^24 loopback addresses for each run: it comes back in `X-Forwarded-For`, whatever the request says. */
const addressOf = (run: number): string => `127.${64 + (run >> 16)}.${(run >> 8) & 255}.${run & 255}`;

const ROUTE = /^(\d+)--(?:attacked|quiet)\.gateway\.localhost\.?(?::(\d+))?$/i;

/** What the two applications may see of `bytes`, in order: `host method target body`. */
const mayBeSeen = (bytes: string): string[] => {
  const found: string[] = [];
  for (const request of readRequests(bytes).requests) {
    const [host = ''] = valuesIn(request.lines, 'host');
    const target = request.target.replace(/^https:\/\/[^/?]*/i, '').replace(/^(?!\/)/, '/');
    if (ROUTE.test(host)) found.push(`${ROUTE.exec(host)![1]} ${request.method} ${target} ${request.body}`);
    if (isLast(request)) break;
  }
  return found;
};
const sighting = (recorder: Recorder, request: StrictRequest): string =>
  `${recorder.port} ${request.method} ${request.target} ${request.body}`;

export interface MutationResult {
  readonly runs: number;
  /** Clean requests behind a mutated one that were served. */
  readonly canaries: number;
  /** Runs of which no byte reached an application. */
  readonly refused: number;
}

/** Runs `runs` mutated requests against the world. Rejects with the counterexample. */
export const runMutations = async (
  world: HostileWorld,
  { runs, seed }: { readonly runs: number; readonly seed: number },
): Promise<MutationResult> => {
  const { attacked, quiet, way } = world;
  const names = { a: attacked.authority, b: quiet.authority };
  const sent = new Map<string, { readonly bytes: string; readonly allowed: readonly string[] }>();
  const seenBy = new Map<string, string[]>();
  let run = 0;
  let checked = [0, 0];

  /** Sorts what came since the last call by the run that it came from. */
  const collect = (): void => {
    for (const [index, recorder] of [attacked, quiet].entries()) {
      for (const request of recorder.requests.slice(checked[index])) {
        const [address = '', ...others] = valuesIn(request.lines, 'x-forwarded-for');
        assert.equal(others.length, 0);
        seenBy.set(address, [...(seenBy.get(address) ?? []), sighting(recorder, request)]);
      }
    }
    checked = [attacked.requests.length, quiet.requests.length];
    assert.deepEqual([attacked.broken, quiet.broken], [[], []], 'what the gateway sends is well-formed');
  };
  const judge = (address: string): void => {
    const { bytes, allowed } = sent.get(address)!;
    // Each application sees its own requests in order; nothing is said of the order between the two.
    for (const recorder of [attacked, quiet]) {
      const mine = (each: string): boolean => each.startsWith(`${recorder.port} `);
      const seen = (seenBy.get(address) ?? []).filter(mine);
      const left = allowed.filter(mine);
      for (const each of seen) {
        const index = left.indexOf(each);
        assert.ok(index >= 0, `${recorder.environmentId} saw ${JSON.stringify(each)} of ${JSON.stringify(bytes)}`);
        left.splice(0, index + 1);
      }
    }
  };
  const send = async (bytes: string, address: string): Promise<void> => {
    const socket = await way.connect(attacked.host, { localAddress: address } as object);
    await new Promise<void>((resolve) => {
      let timer = setTimeout(() => socket.destroy(), QUIET_MS);
      socket.on('data', () => {
        clearTimeout(timer);
        timer = setTimeout(() => socket.destroy(), QUIET_MS);
      });
      socket.once('end', () => socket.end());
      socket.once('close', () => {
        clearTimeout(timer);
        resolve();
      });
      socket.write(bytes, 'latin1');
    });
  };

  const mutant = fc
    .tuple(fc.constantFrom(...seeds(names)), mutations)
    .map(([text, changes]) => changes.reduce((changed, change) => change(changed), text));
  await fc.assert(
    fc.asyncProperty(fc.array(mutant, { minLength: BATCH, maxLength: BATCH }), async (batch) => {
      const addresses = batch.map((text) => {
        const address = addressOf(++run);
        const bytes = text + canary(names, run);
        sent.set(address, { bytes, allowed: mayBeSeen(bytes) });
        return address;
      });
      await Promise.all(addresses.map((address) => send(sent.get(address)!.bytes, address)));
      collect();
      addresses.forEach(judge);
    }),
    { numRuns: Math.ceil(runs / BATCH), seed, endOnFailure: true, verbose: 1 },
  );
  // What came after its connection was closed.
  await way.gateway.request(quiet.host, '/quiet');
  collect();
  for (const address of sent.keys()) judge(address);
  const served = quiet.requests.filter(({ target }) => target.startsWith('/canary-')).length;
  return { runs: sent.size, canaries: served, refused: [...sent.keys()].filter((each) => !seenBy.has(each)).length };
};
