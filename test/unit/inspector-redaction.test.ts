/** What the inspector shows, and what it leaves out: headers, addresses, bodies of every kind, codings taken away. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { SHOWN_BODY_BYTES, viewBody } from '../../tunnel-client/src/inspector/body-view.ts';
import {
  isSecretName,
  redactForm,
  redactHeaders,
  redactJson,
  redactText,
  redactUrl,
} from '../../tunnel-client/src/inspector/redaction.ts';

const JWT = 'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl';
/** Stands where a secret does; none of it may be left. */
const S = 's3cr3t';

describe('inspector: secrets', () => {
  it('knows names however they are written', () => {
    const secret =
      'token x-csrf-token accessToken ACCESS_TOKEN refresh_token password userPassword client_secret apiKey api-key ' +
      'x-api-key private_key Authorization signature X-Amz-Signature session sid otp credentials jwt cookie';
    for (const name of secret.split(' ')) assert.ok(isSecretName(name), name);
    const open = 'key primary_key monkey name tokenizer author passenger code state secretary keyboard id cookieBanner';
    for (const name of open.split(' ')) assert.ok(!isSecretName(name), name);
  });

  it('leaves values of headers out, and as much of them as tells nothing in', () => {
    const fields: readonly (readonly [name: string, value: string, shown: string])[] = [
      ['Authorization', `Bearer ${S}`, 'Bearer [redacted]'],
      ['authorization', S, '[redacted]'],
      ['Authorization', `${S} ${S}`, '[redacted]'],
      ['Proxy-Authorization', `Basic ${S}`, 'Basic [redacted]'],
      ['X-Forwarded-Authorization', `Bearer ${S}`, 'Bearer [redacted]'],
      ['Cookie', `a=${S}; b=${S}=; c`, 'a=[redacted]; b=[redacted]; c'],
      ['Set-Cookie', `sid=${S}; Path=/; HttpOnly`, 'sid=[redacted]; Path=/; HttpOnly'],
      ['X-Auth-Token', S, '[redacted]'],
      ['X-Api-Key', S, '[redacted]'],
      ['X-Anything-Key', S, '[redacted]'],
      ['X-Client-Secret', S, '[redacted]'],
      ['X-Amz-Security-Token', S, '[redacted]'],
      [
        'Location',
        `https://a.example/cb?x=1&code=${S}&state=${S}#access_token=${S}`,
        'https://a.example/cb?x=1&code=[redacted]&state=[redacted]#access_token=[redacted]',
      ],
      ['Referer', `https://user:${S}@a.example/?q=1`, 'https://[redacted]@a.example/?q=1'],
      ['X-Data', `id ${JWT}`, 'id [redacted]'],
      ['Sec-WebSocket-Key', 'dGhlIHNhbXBsZQ==', 'dGhlIHNhbXBsZQ=='],
      ['Idempotency-Key', '42', '42'],
      ['Content-Type', 'text/html; charset=utf-8', 'text/html; charset=utf-8'],
    ];
    assert.deepEqual(
      redactHeaders(fields.flatMap(([name, value]) => [name, value])),
      fields.map(([name, , shown]) => [name, shown]),
    );
  });

  it('leaves parameters of addresses out, encoded names too', () => {
    assert.equal(
      redactUrl(`/cb?a=1&access%5Ftoken=${S}&password=${S}&q=a%20b&sig=${S}&empty=`),
      '/cb?a=1&access%5Ftoken=[redacted]&password=[redacted]&q=a%20b&sig=[redacted]&empty=',
    );
    assert.equal(redactUrl('/plain?q=1;v=2'), '/plain?q=1;v=2');
    assert.equal(
      redactForm(`user=me&pass=${S}&client%5Fsecret=${S}&b=${JWT}&token`),
      'user=me&pass=[redacted]&client%5Fsecret=[redacted]&b=[redacted]&token',
    );
  });

  it('leaves members of JSON out and changes nothing else, not even numbers', () => {
    const cases: readonly (readonly [text: string, shown: string])[] = [
      [
        `{"password": "${S}", "n": 12345678901234567890.10, "a":[1,2]}`,
        '{"password": "[redacted]", "n": 12345678901234567890.10, "a":[1,2]}',
      ],
      [`{"a":{"apiKey":"${S}\\"${S}"},"b":"token"}`, '{"a":{"apiKey":"[redacted]"},"b":"token"}'],
      [`{"credentials":{"user":"x","deep":["${S}",{"y":"${S}"}]},"z":1}`, '{"credentials":"[redacted]","z":1}'],
      [
        `{"pin":${'1234'},"token":null,"secret":false,"total_tokens":812,"tokens":["${S}"]}`,
        '{"pin":"[redacted]","token":null,"secret":false,"total_tokens":812,"tokens":"[redacted]"}',
      ],
      [`{"\\u0070assword":"${S}"}`, '{"\\u0070assword":"[redacted]"}'],
      // Cut off, several, and among other text.
      [`{"a":1,"token":"${S}`, '{"a":1,"token":"[redacted]"'],
      [`{"a":1,"token":"${S}\\`, '{"a":1,"token":"[redacted]"'],
      [`{"a":1,"credentials":{"x":"${S}`, '{"a":1,"credentials":"[redacted]"'],
      [`{"token":"${S}"}\n{"token":"${S}"}\n`, '{"token":"[redacted]"}\n{"token":"[redacted]"}\n'],
      [`event: x\ndata: {"id_token":"${S}","k":1}\n\n`, 'event: x\ndata: {"id_token":"[redacted]","k":1}\n\n'],
      ['{"token":}', '{"token":}'],
      ['{"token"', '{"token"'],
      ['', ''],
    ];
    for (const [text, shown] of cases) assert.equal(redactJson(text), shown);
    assert.equal(
      redactText(`<a href="/x?id=1&amp;token=${S}&b=2">${JWT}</a> a?b:c`),
      '<a href="/x?id=1&amp;token=[redacted]&b=2">[redacted]</a> a?b:c',
    );
  });

  it('takes time in proportion to what it is given', () => {
    // Each of them takes minutes with an expression that goes back over what it has read.
    const bytes = SHOWN_BODY_BYTES;
    const hostile = [
      '"',
      '\\"',
      '{"a":',
      'eyJ-',
      'eyJaaaaa.',
      '?a',
      '//',
      '//a',
      '&token=',
      '{',
      '"token":{',
      ' ',
      '&amp;',
    ];
    for (const piece of hostile) {
      const text = piece.repeat(bytes / piece.length);
      const started = process.cpuUsage().user;
      redactText(text);
      redactUrl(text);
      redactForm(text);
      assert.ok(process.cpuUsage().user - started < 10_000_000, piece);
    }
  });
});

const view = (bytes: Buffer, fields: readonly string[] = [], total = bytes.length) =>
  viewBody({ bytes: total, kept: bytes, keptBytes: bytes.length }, fields);

describe('inspector: bodies', () => {
  it('are text where they are UTF-8, and bytes elsewhere', async () => {
    assert.deepEqual((await view(Buffer.from('grüße'))).content, { kind: 'text', text: 'grüße' });
    assert.deepEqual((await view(Buffer.from([1, 0, 2]))).content, { kind: 'base64', text: 'AQAC' });
    assert.deepEqual((await view(Buffer.from([0xff, 0xfe]))).content, { kind: 'base64', text: '//4=' });
    // Cut in the middle of a character.
    const cut = await view(Buffer.from('aü').subarray(0, 2), [], 3);
    assert.deepEqual([cut.content, cut.isTruncated, cut.bytes], [{ kind: 'text', text: 'a' }, true, 3]);
    assert.equal((await view(Buffer.alloc(0))).content, undefined);
  });

  it('are shown without their coding, whole or cut, and never beyond the bound', async () => {
    const text = `{"a":"${'text '.repeat(500)}","token":"${S}"}`;
    const coded: Readonly<Record<string, Buffer>> = {
      gzip: gzipSync(text),
      br: brotliCompressSync(text),
      zstd: zstdCompressSync(text),
      deflate: deflateSync(text),
      'x-gzip': gzipSync(text),
    };
    for (const [coding, bytes] of Object.entries({ ...coded, Deflate: deflateRawSync(text) })) {
      const { content, decoded, isTruncated } = await view(bytes, ['Content-Encoding', coding]);
      assert.equal(content?.text, text.replace(S, '[redacted]'), coding);
      assert.deepEqual([decoded, isTruncated], [[coding.toLowerCase()], false]);
    }
    const twice = await view(brotliCompressSync(gzipSync(text)), ['content-encoding', 'gzip, br']);
    assert.equal(twice.content?.text, text.replace(S, '[redacted]'));
    const long = Buffer.from(Array.from({ length: 30_000 }, (_, index) => String(index)).join(' '));
    const half = gzipSync(long);
    const cut = await view(half.subarray(0, half.length / 2), ['content-encoding', 'gzip'], half.length);
    assert.ok(cut.isTruncated && cut.content?.kind === 'text' && cut.content.text.startsWith('0 1 2 3'));
    const bomb = await view(gzipSync(Buffer.alloc(64 << 20, 'a')), ['content-encoding', 'gzip']);
    assert.deepEqual([bomb.content?.text.length, bomb.isTruncated], [SHOWN_BODY_BYTES, true]);
    const wrong = await view(Buffer.from('not gzip'), ['content-encoding', 'gzip']);
    assert.match(wrong.note ?? '', /not all gzip/);
    const strange = await view(Buffer.from('abc'), ['content-encoding', 'gzip, odd']);
    assert.deepEqual([strange.content?.text, strange.decoded], ['abc', []]);
    assert.match(strange.note ?? '', /odd/);
  });

  it('of forms are redacted by field, with files beside them', async () => {
    const form = await view(Buffer.from(`user=me&code=${S}`), ['content-type', 'application/x-www-form-urlencoded']);
    assert.equal(form.content?.text, 'user=me&code=[redacted]');
    const boundary = '----x1';
    const part = (name: string, value: string): string =>
      `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`;
    const body = Buffer.from(`${part('password', S)}${part('file', '\0\xff')}--${boundary}--\r\n`, 'latin1');
    const { content } = await view(body, ['content-type', `multipart/form-data; boundary="${boundary}"`]);
    assert.equal(content?.kind, 'base64');
    const shown = Buffer.from(content?.text ?? '', 'base64').toString('latin1');
    assert.ok(!shown.includes(S) && shown.includes('\0\xff') && shown.endsWith(`--${boundary}--\r\n`));
  });
});
