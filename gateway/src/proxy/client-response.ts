/** The response to the client over HTTP/1.1 and HTTP/2, whose classes in Node differ in what they take. */
import { ServerResponse } from 'node:http';
import { constants, type Http2ServerResponse } from 'node:http2';

export interface ClientResponse {
  begun(): boolean;
  /** 100 Continue: the client may send its body. */
  continue(): void;
  /** An interim response (1xx). */
  information(status: number, headers: readonly string[]): void;
  /** Throws when Node cannot send such a head. What follows at once may go out with it, see {@link flushHead}. */
  head(status: number, reason: string, headers: string[]): void;
  /** Nothing follows for now: the head, if there is one, need not wait. */
  flushHead(): void;
  /** False: wait for `onDrain`. */
  write(chunk: Uint8Array): boolean;
  onDrain(callback: () => void): void;
  /** `requestComplete`: nothing of the request is still to come. */
  end(trailers: readonly string[], options: { requestComplete: boolean }): void;
}

/** Node writes a reason phrase as latin1 and throws on anything but printable characters and tabs. */
const REASON = /^[\t\x20-\x7e\x80-\xff]*$/;
const NON_ASCII = /[^\x00-\x7f]/;

/** Repeated fields as arrays, names in lower case: what Node takes for interim responses and trailers of HTTP/2. */
const asObject = (lines: readonly string[]): Record<string, string | string[]> => {
  const object: Record<string, string | string[]> = Object.create(null) as Record<string, string | string[]>;
  for (let index = 0; index < lines.length; index += 2) {
    const name = lines[index]!.toLowerCase();
    const value = lines[index + 1]!;
    const before = object[name];
    if (before === undefined) object[name] = value;
    else if (Array.isArray(before)) before.push(value);
    else object[name] = [before, value];
  }
  return object;
};

const asPairs = (lines: readonly string[]): [string, string][] => {
  const pairs: [string, string][] = [];
  for (let index = 0; index < lines.length; index += 2) pairs.push([lines[index]!, lines[index + 1]!]);
  return pairs;
};

const indexOf = (lines: readonly string[], name: string): number => {
  for (let index = 0; index < lines.length; index += 2) if (lines[index]!.toLowerCase() === name) return index;
  return -1;
};

const hasNoBody = (method: string, status: number): boolean => method === 'HEAD' || status === 204 || status === 304;

/** What Node's HTTP/1.1 response makes of some fields, undone. */
const prepareHttp1 = (lines: string[], method: string, status: number): string[] => {
  let contentLength = indexOf(lines, 'content-length');
  // RFC 9110 section 8.6: never with 204.
  if (contentLength >= 0 && status === 204) {
    lines.splice(contentLength, 2);
    contentLength = -1;
  }
  // Node throws on `Trailer` without chunked coding.
  const trailer = indexOf(lines, 'trailer');
  if (trailer >= 0 && (contentLength >= 0 || hasNoBody(method, status))) {
    lines.splice(trailer, 2);
    contentLength = indexOf(lines, 'content-length');
  }
  // Node re-encodes a Content-Disposition that follows a Content-Length.
  const disposition = indexOf(lines, 'content-disposition');
  if (disposition > contentLength && contentLength >= 0 && NON_ASCII.test(lines[disposition + 1]!)) {
    lines.push(...lines.splice(contentLength, 2));
  }
  return lines;
};

const createHttp1Response = (response: ServerResponse, method: string, version: string): ClientResponse => ({
  begun: () => response.headersSent,
  continue() {
    if (version !== '1.0') response.writeContinue();
  },
  information(status, headers) {
    // HTTP/1.0 has no interim responses (RFC 9110 section 15.2).
    if (version !== '1.0') response.writeInformation(status, [...headers]);
  },
  head(status, reason, headers) {
    const lines = prepareHttp1(headers, method, status);
    if (REASON.test(reason)) response.writeHead(status, reason, lines);
    else response.writeHead(status, lines);
  },
  flushHead: () => response.flushHeaders(),
  write: (chunk) => response.write(chunk),
  onDrain: (callback) => void response.on('drain', callback),
  end(trailers) {
    if (trailers.length > 0) response.addTrailers(asPairs(trailers));
    // Node reads what is left of the request before it takes the next one.
    response.end();
  },
});

/** Not in Node's types yet. */
type WithInformation = Http2ServerResponse & {
  writeInformation(status: number, headers: Record<string, string | string[]>): boolean;
};

/**
 * The head goes to the stream itself: Node's compatible response makes an object of it, looks at each field twice, and
 * waits for trailers behind every answer, for which the end of the body needs a frame and two turns of its own.
 */
const createHttp2Response = (response: Http2ServerResponse, method: string): ClientResponse => ({
  begun: () => response.headersSent,
  continue: () => void response.writeContinue(),
  information: (status, headers) => void (response as WithInformation).writeInformation(status, asObject(headers)),
  head(status, _reason, headers) {
    const { stream } = response;
    if (stream.destroyed || stream.closed) return;
    let length = indexOf(headers, 'content-length');
    if (length >= 0 && status === 204) {
      headers.splice(length, 2);
      length = -1;
    }
    // What has a length has no trailers (RFC 9112 section 7.1.2): they come with chunked coding only.
    const waitForTrailers = length < 0 && !hasNoBody(method, status);
    // Which the exchange asks for.
    response.statusCode = status;
    stream.respond([':status', String(status), ...headers], { waitForTrailers });
  },
  flushHead: () => {},
  write: (chunk) => response.write(chunk),
  onDrain: (callback) => void response.on('drain', callback),
  end(trailers, { requestComplete }) {
    if (trailers.length > 0) response.addTrailers(asObject(trailers));
    const { stream } = response;
    if (!requestComplete && stream) {
      // RFC 9113 section 8.1: the response is complete, and the rest of the request is not wanted.
      stream.once('finish', () => stream.close(constants.NGHTTP2_NO_ERROR));
    }
    response.end();
  },
});

export const createClientResponse = (
  response: ServerResponse | Http2ServerResponse,
  request: { readonly method: string; readonly version: string },
): ClientResponse =>
  response instanceof ServerResponse
    ? createHttp1Response(response, request.method, request.version)
    : createHttp2Response(response, request.method);
