/** A million inputs for the decoder of frames: it decodes, or throws FrameError, and holds little. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  FRAME,
  FrameError,
  createFrameDecoder,
  writeFrameHeader,
  type FrameHandlers,
} from '../../shared/src/protocol/frames.ts';

const INPUTS = 1_000_000;
const SEED = 20_260_801;

/** Bytes that look like frames more often than chance would have it, and whatever else. */
const frameLike = fc
  .record({
    id: fc.nat({ max: 0xffff_ffff }),
    type: fc.oneof(fc.constantFrom(...Object.values(FRAME)), fc.nat({ max: 255 })),
    length: fc.oneof(fc.nat({ max: 40 }), fc.nat({ max: 0xff_ffff })),
    payload: fc.uint8Array({ maxLength: 40 }),
  })
  .map(({ id, type, length, payload }) => {
    const out = Buffer.alloc(8 + payload.length);
    writeFrameHeader(out, 0, id, type, length);
    out.set(payload, 8);
    return out;
  });
const input = fc.array(fc.oneof({ weight: 4, arbitrary: frameLike }, { weight: 1, arbitrary: fc.uint8Array() }), {
  maxLength: 6,
});

describe('the frame decoder', () => {
  it(`takes ${INPUTS} inputs, whole and in pieces, and says the same of both`, () => {
    let refused = 0;
    let frames = 0;
    const decode = (chunks: readonly Uint8Array[]): string => {
      let seen = '';
      let data = 0;
      const note = (text: string): void => {
        if (data > 0) seen += `data ${data};`;
        data = 0;
        seen += `${text};`;
        frames += 1;
      };
      const handlers: FrameHandlers = {
        open: (id, open) => note(`open ${id} ${JSON.stringify(open)}`),
        status: (id, status, credit) => note(`status ${id} ${status} ${credit}`),
        data: (_id, bytes) => {
          data += bytes.length;
        },
        window: (id, credit) => note(`window ${id} ${credit}`),
        fin: (id) => note(`fin ${id}`),
        reset: (id, code) => note(`reset ${id} ${code}`),
        move: (id, lane) => note(`move ${id} ${lane}`),
      };
      const decoder = createFrameDecoder(handlers);
      try {
        for (const chunk of chunks) decoder.push(chunk);
        note('end');
      } catch (error) {
        if (!(error instanceof FrameError)) throw error;
        refused += 1;
        note('refused');
      }
      return seen;
    };
    fc.assert(
      fc.property(input, fc.integer({ min: 1, max: 13 }), (parts, size) => {
        const bytes = Buffer.concat(parts);
        const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
          bytes.subarray(index * size, (index + 1) * size),
        );
        assert.equal(decode(pieces), decode([bytes]));
      }),
      { numRuns: INPUTS, seed: SEED },
    );
    assert.ok(refused > INPUTS / 10 && frames > INPUTS, `${refused} refused, ${frames} frames`);
  });
});
