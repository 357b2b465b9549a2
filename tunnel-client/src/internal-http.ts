/** Answers of the internal listener, and what its routes are asked with. */
import type { IncomingMessage, ServerResponse } from 'node:http';

/** Largest body of a PUT, bytes: 1,000 environments of 4 KiB. Beyond it 413. */
const MAX_BODY_BYTES = 4 << 20;

/** Becomes the answer: `{ "error": { code, message, problems } }`. */
export class HttpProblem extends Error {
  override readonly name = 'HttpProblem';
  readonly status: number;
  readonly code: string;
  readonly problems: unknown;
  constructor(status: number, code: string, message: string, problems?: unknown) {
    super(message);
    this.status = status;
    this.code = code;
    this.problems = problems;
  }
}

export const sendJson = (response: ServerResponse, status: number, body: unknown): void => {
  const text = `${JSON.stringify(body, null, 2)}\n`;
  response
    .writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
    .end(text);
};
export const sendText = (
  response: ServerResponse,
  status: number,
  text: string,
  type = 'text/plain; charset=utf-8',
): void => {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) }).end(text);
};

/** As JSON. Throws {@link HttpProblem}. */
export const readBody = async (request: IncomingMessage, maxBytes = MAX_BODY_BYTES): Promise<unknown> => {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxBytes) throw new HttpProblem(413, 'too_large', `the body has more than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    throw new HttpProblem(400, 'invalid', 'the body is not JSON');
  }
};
