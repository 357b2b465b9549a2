import { pino, type DestinationStream, type Logger } from 'pino';

export type { Logger } from 'pino';

/**
 * Names of fields whose value is a secret, wherever they stand up to three levels deep. Nothing logs them on purpose;
 * this is the net below the rope.
 */
export const SECRET_FIELDS: readonly string[] = [
  'exchangeToken',
  'membership',
  'token',
  'secret',
  'secretKey',
  'privateKey',
  'clientSecret',
  'password',
  'signature',
  'authorization',
  'Authorization',
  'cookie',
  'Cookie',
  'set-cookie',
  'Set-Cookie',
];

const REDACT_PATHS: readonly string[] = SECRET_FIELDS.flatMap((field) =>
  ['', '*', '*.*'].map((prefix) => {
    const name = /^[A-Za-z]+$/.test(field) ? `${prefix ? '.' : ''}${field}` : `["${field}"]`;
    return `${prefix}${name}`;
  }),
);

/**
 * Bytes of log lines that wait for the sink. Beyond it lines are dropped, so that a stuck sink never stops serving:
 * 8 MiB are some 20,000 lines.
 */
export const MAX_LOG_BUFFER_BYTES = 8 << 20;

/**
 * Bytes of lines that are written at once: under load a write for each few lines cost a tenth of the gateway's time.
 * Fewer wait for {@link LOG_FLUSH_MS}, and go out when the process ends.
 */
const LOG_BATCH_BYTES = 64 << 10;
/** What one write takes at most, bytes; sonic-boom wants it above {@link LOG_BATCH_BYTES}. A longer line is one write. */
const MAX_LOG_WRITE_BYTES = 128 << 10;
/** ms that a line waits for others at most. */
const LOG_FLUSH_MS = 200;

/** Where lines go that nobody waits for. */
export interface LogSink {
  readonly destination: DestinationStream & { flush(done: () => void): void };
  /** Lines that were lost because {@link MAX_LOG_BUFFER_BYTES} waited already. */
  dropped(): number;
  /** Gives up the lines that wait. Otherwise they are written when the process exits, which then waits for a stuck sink. */
  discard(): void;
}

/** Writes to a file descriptor in the background. */
export const createLogSink = (fd: number): LogSink => {
  const sink = pino.destination({
    dest: fd,
    sync: false,
    contentMode: 'buffer',
    minLength: LOG_BATCH_BYTES,
    maxWrite: MAX_LOG_WRITE_BYTES,
    periodicFlush: LOG_FLUSH_MS,
    maxLength: MAX_LOG_BUFFER_BYTES,
  });
  let dropped = 0;
  sink.on('drop', () => void dropped++);
  return {
    destination: {
      // As bytes: of text it would find the length of all that waits again with each line.
      write: (line) => void (sink as unknown as { write(bytes: Buffer): void }).write(Buffer.from(line)),
      flush: (done) => sink.flush(done),
    },
    dropped: () => dropped,
    discard: () => sink.destroy(),
  };
};

export interface LogOptions {
  readonly level?: string;
  readonly destination: DestinationStream;
}

/** One JSON line per event, fixed field names, secrets redacted. Call `flush()` before the process ends. */
export const createLogger = (options: LogOptions): Logger =>
  pino(
    {
      level: options.level ?? 'info',
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: [...REDACT_PATHS], censor: '[secret]' },
    },
    options.destination,
  );
