/** What of a body is shown: its content coding taken away, secrets left out, as text where it is text. */
import type { Transform } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate, createInflateRaw, createZstdDecompress } from 'node:zlib';
import { valuesOf } from './message-reader.ts';
import { redactForm, redactMultipart, redactText } from './redaction.ts';
import { KEPT_BODY_BYTES, type KeptBody } from './request-store.ts';

/** Of a body without its content coding, bytes: 64 KiB of zeros are 64 MiB of them. The rest is not shown. */
export const SHOWN_BODY_BYTES = 256 << 10;
/** Content codings of a body that are taken away. A body with more is shown as it is. */
const MAX_CODINGS = 3;

export interface BodyView {
  /** That passed. */
  readonly bytes: number;
  /** Undefined: nothing passed, or nothing was kept. */
  readonly content:
    { readonly kind: 'text'; readonly text: string } | { readonly kind: 'base64'; readonly text: string } | undefined;
  readonly contentType: string | undefined;
  /** Content codings that were taken away. */
  readonly decoded: readonly string[];
  /** It was longer than what is shown. */
  readonly isTruncated: boolean;
  readonly note: string | undefined;
}

const DECODERS: Readonly<Record<string, (first: number) => Transform>> = {
  gzip: () => createGunzip(),
  'x-gzip': () => createGunzip(),
  br: () => createBrotliDecompress(),
  zstd: () => createZstdDecompress(),
  // The name is that of zlib (RFC 9110 section 8.4.1.2); some send it bare. A zlib header begins with method 8.
  deflate: (first) => ((first & 0x0f) === 8 ? createInflate() : createInflateRaw()),
};

interface Decoded {
  readonly bytes: Buffer;
  readonly isWhole: boolean;
}

/** Up to {@link SHOWN_BODY_BYTES}, and as much of a body that ends too early as there is. */
const decode = (bytes: Buffer, coding: string): Promise<Decoded> =>
  new Promise((resolve) => {
    const decoder = DECODERS[coding]?.(bytes[0] ?? 0);
    if (!decoder) return resolve({ bytes, isWhole: false });
    const parts: Buffer[] = [];
    let size = 0;
    const finish = (isWhole: boolean): void => {
      decoder.destroy();
      resolve({
        bytes: Buffer.concat(parts).subarray(0, SHOWN_BODY_BYTES),
        isWhole: isWhole && size <= SHOWN_BODY_BYTES,
      });
    };
    decoder.on('data', (part: Buffer) => {
      parts.push(part);
      size += part.length;
      if (size > SHOWN_BODY_BYTES) finish(false);
    });
    decoder.once('error', () => finish(false));
    decoder.once('end', () => finish(true));
    decoder.end(bytes);
  });

/** As UTF-8 without what a cut may have left of its last character; undefined where it is no text. */
const asText = (bytes: Buffer): string | undefined => {
  if (bytes.includes(0)) return undefined;
  try {
    // `stream`: an unfinished character at the end is no fault.
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: true });
  } catch {
    return undefined;
  }
};

const contentOf = (bytes: Buffer, contentType: string): BodyView['content'] => {
  const boundary = /^multipart\/form-data;.*?\bboundary="?([^";\s]{1,70})/i.exec(contentType)?.[1];
  const shown =
    boundary === undefined ? bytes : Buffer.from(redactMultipart(bytes.toString('latin1'), boundary), 'latin1');
  const text = asText(shown);
  if (text === undefined) return { kind: 'base64', text: shown.toString('base64') };
  if (/^application\/x-www-form-urlencoded\b/i.test(contentType)) return { kind: 'text', text: redactForm(text) };
  return { kind: 'text', text: boundary === undefined ? redactText(text) : text };
};

/** `fields`: of the head that came before the body; name and value alternating. */
export const viewBody = async (body: KeptBody, fields: readonly string[]): Promise<BodyView> => {
  const contentType = valuesOf(fields, 'content-type')[0];
  const codings = valuesOf(fields, 'content-encoding')
    .flatMap((value) => value.toLowerCase().split(/[\s,]+/))
    .filter((coding) => coding !== '' && coding !== 'identity');
  let bytes = body.kept.subarray(0, body.keptBytes);
  let isTruncated = body.bytes > body.keptBytes;
  let note: string | undefined;
  const decoded: string[] = [];
  const isKnown = codings.length <= MAX_CODINGS && codings.every((coding) => Object.hasOwn(DECODERS, coding));
  if (!isKnown) note = `the content coding ${codings.join(', ').slice(0, 100)} is not known here`;
  for (const coding of isKnown && bytes.length > 0 ? codings.reverse() : []) {
    const next = await decode(bytes, coding);
    if (!next.isWhole && !isTruncated && next.bytes.length < SHOWN_BODY_BYTES) note = `the body is not all ${coding}`;
    if (!next.isWhole) isTruncated = true;
    bytes = next.bytes;
    decoded.push(coding);
  }
  return {
    bytes: body.bytes,
    content: bytes.length === 0 ? undefined : contentOf(bytes, contentType ?? ''),
    contentType,
    decoded,
    isTruncated,
    note: body.bytes > 0 && body.keptBytes === 0 && body.bytes <= KEPT_BODY_BYTES ? 'the body is no longer kept' : note,
  };
};
