/** Control messages over one transport stream: frames of a 4-byte big-endian length and that many bytes of JSON. */
import type { TransportStream } from '../transport/connection.ts';
import type { MessageMeter } from './message-meter.ts';
import { MAX_MESSAGE_BYTES, MESSAGE_SCHEMAS, type Message, type OutgoingMessage } from './messages.ts';

/**
 * Bytes of messages that wait to be sent. A peer that does not read its control stream does not make this side grow:
 * beyond it the leg closes with `limit`. Four of the largest messages fit.
 */
const MAX_QUEUED_BYTES = 4 * MAX_MESSAGE_BYTES;
/** Pieces of a message that are kept apart; a peer that dribbles bytes would otherwise cost 100 times their size. */
const MAX_PIECES = 64;

/** The peer sent something that is no message; the leg closes with `protocol_error` or `frame_too_large`. */
export class MessageError extends Error {
  override readonly name = 'MessageError';
  readonly code: 'protocol_error' | 'frame_too_large' | 'limit';
  constructor(code: MessageError['code'], message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

export interface ControlStream {
  /**
   * The next message of a known type, or null at the end; one above `maxBytes` is an error. Throws MessageError, or
   * TransportError.
   */
  receive(maxBytes?: number): Promise<Message | null>;
  /** Resolves when the transport has taken the message; what is sent first goes out first. Rejects with MessageError or TransportError. */
  send(message: OutgoingMessage): Promise<void>;
  /** Ends the sending direction behind what was sent. */
  finish(): Promise<void>;
}

const encode = (message: OutgoingMessage): Buffer => {
  const json = JSON.stringify(message);
  const length = Buffer.byteLength(json);
  if (length > MAX_MESSAGE_BYTES)
    throw new MessageError('frame_too_large', `a ${message.type} message of ${length} bytes`);
  const out = Buffer.allocUnsafe(4 + length);
  out.writeUInt32BE(length);
  out.write(json, 4);
  return out;
};

/** Undefined for a type of a later version. Throws MessageError. */
const parse = (bytes: Buffer): Message | undefined => {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw new MessageError('protocol_error', 'a message is not JSON', { cause });
  }
  const type = value !== null && typeof value === 'object' && 'type' in value ? value.type : undefined;
  if (typeof type !== 'string') throw new MessageError('protocol_error', 'a message has no type');
  if (!Object.hasOwn(MESSAGE_SCHEMAS, type)) return undefined;
  const result = MESSAGE_SCHEMAS[type as keyof typeof MESSAGE_SCHEMAS].safeParse(value);
  if (!result.success) {
    throw new MessageError('protocol_error', `a ${type} message does not fit its schema`, { cause: result.error });
  }
  return result.data;
};

/** `meter` counts what comes in; beyond it `receive` throws MessageError `limit`. */
export const createControlStream = (stream: TransportStream, meter?: MessageMeter): ControlStream => {
  let buffered: Buffer[] = [];
  let length = 0;
  let queuedBytes = 0;
  let tail: Promise<void> = Promise.resolve();

  /** Exactly `wanted` bytes, or null when the stream ends before the first of them. */
  const take = async (wanted: number): Promise<Buffer | null> => {
    while (length < wanted) {
      const chunk = await stream.read();
      if (chunk === null) {
        if (length > 0) throw new MessageError('protocol_error', 'the control stream ended within a message');
        return null;
      }
      buffered.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength));
      length += chunk.byteLength;
      if (buffered.length > MAX_PIECES) buffered = [Buffer.concat(buffered)];
    }
    const all = buffered.length === 1 && buffered[0] ? buffered[0] : Buffer.concat(buffered);
    buffered = all.length > wanted ? [all.subarray(wanted)] : [];
    length -= wanted;
    return all.subarray(0, wanted);
  };

  return {
    async receive(maxBytes = MAX_MESSAGE_BYTES) {
      for (;;) {
        const head = await take(4);
        if (head === null) return null;
        const size = head.readUInt32BE();
        if (size > maxBytes) throw new MessageError('frame_too_large', `a message of ${size} bytes`);
        if (meter && !meter.take(size)) throw new MessageError('limit', 'too many control messages');
        const body = size === 0 ? Buffer.alloc(0) : await take(size);
        if (body === null) throw new MessageError('protocol_error', 'the control stream ended within a message');
        const message = parse(body);
        if (message !== undefined) return message;
      }
    },
    send(message) {
      const bytes = encode(message);
      if (queuedBytes + bytes.length > MAX_QUEUED_BYTES) {
        return Promise.reject(new MessageError('limit', 'the peer does not read its control stream'));
      }
      queuedBytes += bytes.length;
      const sent = tail.then(async () => {
        await stream.write(bytes);
        queuedBytes -= bytes.length;
      });
      tail = sent.catch(() => {});
      return sent;
    },
    finish() {
      const finished = tail.then(() => stream.finish());
      tail = finished.catch(() => {});
      return finished;
    },
  };
};
