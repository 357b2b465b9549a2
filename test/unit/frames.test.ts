import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  FRAME,
  FrameError,
  MAX_DATA_BYTES,
  createFrameDecoder,
  decodeOpen,
  encodeFin,
  encodeMove,
  encodeOpen,
  encodeReset,
  encodeStatus,
  encodeWindow,
  writeFrameHeader,
  type FrameHandlers,
  type OpenFrame,
} from '../../shared/src/protocol/frames.ts';
import { RESET_CODE, STREAM_STATUS, type ResetCode, type StreamStatus } from '../../shared/src/errors.ts';
import { TARGET_KIND, type TargetKind } from '../../shared/src/protocol/target.ts';

type Seen =
  | { type: 'open'; id: number; open: OpenFrame }
  | { type: 'status'; id: number; status: StreamStatus; credit: number }
  | { type: 'data'; id: number; bytes: string }
  | { type: 'window'; id: number; credit: number }
  | { type: 'fin'; id: number }
  | { type: 'reset'; id: number; code: ResetCode }
  | { type: 'move'; id: number; lane: number };

/** Records frames; pieces of DATA of one stream that follow each other are joined. */
const recorder = (): { seen: Seen[]; handlers: FrameHandlers } => {
  const seen: Seen[] = [];
  return {
    seen,
    handlers: {
      open: (id, open) => seen.push({ type: 'open', id, open }),
      status: (id, status, credit) => seen.push({ type: 'status', id, status, credit }),
      data(id, bytes) {
        const last = seen.at(-1);
        if (last?.type === 'data' && last.id === id) last.bytes += bytes.toString('hex');
        else seen.push({ type: 'data', id, bytes: bytes.toString('hex') });
      },
      window: (id, credit) => seen.push({ type: 'window', id, credit }),
      fin: (id) => seen.push({ type: 'fin', id }),
      reset: (id, code) => seen.push({ type: 'reset', id, code }),
      move: (id, lane) => seen.push({ type: 'move', id, lane }),
    },
  };
};

const encodeData = (id: number, payload: Uint8Array): Buffer => {
  const out = Buffer.alloc(8 + payload.byteLength);
  writeFrameHeader(out, 0, id, FRAME.data, payload.byteLength);
  out.set(payload, 8);
  return out;
};

const u32 = fc.nat({ max: 0xffff_ffff });
const text = fc
  .string({ maxLength: 16, unit: 'grapheme' })
  .filter((value) => Buffer.byteLength(value) <= 64 && value.isWellFormed());
const keys = <T extends string>(table: Record<T, number>): fc.Arbitrary<T> =>
  fc.constantFrom(...(Object.keys(table) as T[]));
const anyFrame: fc.Arbitrary<{ seen: Seen; bytes: Buffer }> = fc.oneof(
  fc
    .record({
      id: u32,
      target: fc.record({
        kind: keys<TargetKind>(TARGET_KIND),
        environmentId: text,
        port: fc.nat({ max: 65_535 }),
        tls: fc.boolean(),
        hops: fc.nat({ max: 255 }),
        requestId: text,
        traceParent: text,
      }),
      allowance: u32,
      credit: u32,
    })
    .map(({ id, target, ...rest }) => ({ id, open: { ...rest, target: { ...target } } }))
    .map(({ id, open }) => ({ seen: { type: 'open' as const, id, open }, bytes: encodeOpen(id, open) })),
  fc.record({ id: u32, status: keys<StreamStatus>(STREAM_STATUS), credit: u32 }).map(({ id, status, credit }) => ({
    seen: { type: 'status' as const, id, status, credit },
    bytes: encodeStatus(id, status, credit),
  })),
  fc.record({ id: u32, payload: fc.uint8Array({ minLength: 1, maxLength: 300 }) }).map(({ id, payload }) => ({
    seen: { type: 'data' as const, id, bytes: Buffer.from(payload).toString('hex') },
    bytes: encodeData(id, payload),
  })),
  fc
    .record({ id: u32, credit: u32 })
    .map(({ id, credit }) => ({ seen: { type: 'window' as const, id, credit }, bytes: encodeWindow(id, credit) })),
  u32.map((id) => ({ seen: { type: 'fin' as const, id }, bytes: encodeFin(id) })),
  fc
    .record({ id: u32, code: keys<ResetCode>(RESET_CODE) })
    .map(({ id, code }) => ({ seen: { type: 'reset' as const, id, code }, bytes: encodeReset(id, code) })),
  fc
    .record({ id: u32, lane: fc.nat({ max: 255 }) })
    .map(({ id, lane }) => ({ seen: { type: 'move' as const, id, lane }, bytes: encodeMove(id, lane) })),
);

const joined = (frames: Seen[]): Seen[] =>
  frames.reduce<Seen[]>((out, frame) => {
    const last = out.at(-1);
    if (last?.type === 'data' && frame.type === 'data' && last.id === frame.id)
      out[out.length - 1] = { ...last, bytes: last.bytes + frame.bytes };
    else out.push(frame);
    return out;
  }, []);

describe('frames', () => {
  it('come out as they went in, however the bytes are cut', () => {
    fc.assert(
      fc.property(
        fc.array(anyFrame, { maxLength: 12 }),
        fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 30 }),
        (frames, cuts) => {
          const bytes = Buffer.concat(frames.map((frame) => frame.bytes));
          const { seen, handlers } = recorder();
          const decoder = createFrameDecoder(handlers);
          for (let at = 0, turn = 0; at < bytes.length; turn++) {
            const length = cuts[turn % cuts.length] ?? 1;
            decoder.push(Buffer.from(bytes.subarray(at, at + length)));
            at += length;
          }
          assert.deepEqual(seen, joined(frames.map((frame) => frame.seen)));
        },
      ),
      { numRuns: 500 },
    );
  });

  it('decodes or throws FrameError on any bytes, and nothing else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          createFrameDecoder(recorder().handlers).push(bytes);
        } catch (error) {
          assert.ok(error instanceof FrameError, String(error));
        }
      }),
      { numRuns: 5_000 },
    );
  });

  it('refuses DATA above 16 KiB, and takes one of exactly that', () => {
    const { seen, handlers } = recorder();
    createFrameDecoder(handlers).push(encodeData(1, Buffer.alloc(MAX_DATA_BYTES)));
    assert.equal(seen.length, 1);
    assert.throws(() => createFrameDecoder(handlers).push(encodeData(1, Buffer.alloc(MAX_DATA_BYTES + 1))), FrameError);
  });

  it('skips unknown types from 0x40 on and refuses those below', () => {
    const unknown = (type: number): Buffer => {
      const out = Buffer.alloc(8 + 5);
      writeFrameHeader(out, 0, 3, type, 5);
      return out;
    };
    const { seen, handlers } = recorder();
    createFrameDecoder(handlers).push(Buffer.concat([unknown(0x40), unknown(0xff), encodeFin(3)]));
    assert.deepEqual(seen, [{ type: 'fin', id: 3 }]);
    assert.throws(() => createFrameDecoder(handlers).push(unknown(0x3f)), FrameError);
    assert.throws(() => createFrameDecoder(handlers).push(unknown(0)), FrameError);
  });

  it('gives DATA without copying it', () => {
    const bytes = encodeData(1, Buffer.from('hello'));
    let view: Buffer | undefined;
    createFrameDecoder({ ...recorder().handlers, data: (_id, piece) => (view = piece) }).push(bytes);
    assert.equal(view?.buffer, bytes.buffer);
  });

  it('refuses an OPEN whose strings do not fit, and one of another version', () => {
    const open = encodeOpen(1, {
      target: { kind: 'port', environmentId: 'demo', port: 3000, tls: false, hops: 0, requestId: 'r', traceParent: '' },
      allowance: 1,
      credit: 2,
    }).subarray(8);
    assert.equal(decodeOpen(open).target.environmentId, 'demo');
    assert.throws(() => decodeOpen(open.subarray(0, -1)), FrameError);
    assert.throws(() => decodeOpen(Buffer.concat([open, Buffer.alloc(1)])), FrameError);
    assert.throws(() => decodeOpen(Buffer.concat([Buffer.of(2), open.subarray(1)])), FrameError);
    assert.throws(
      () =>
        encodeOpen(1, {
          target: {
            kind: 'port',
            environmentId: 'x'.repeat(65),
            port: 1,
            tls: false,
            hops: 0,
            requestId: '',
            traceParent: '',
          },
          allowance: 0,
          credit: 0,
        }),
      RangeError,
    );
  });
});
