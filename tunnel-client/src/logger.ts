/** What the library logs through; a pino logger is one. The library itself never prints. */
type LogFunction = (fields: Record<string, unknown>, message: string) => void;

export interface Logger {
  readonly debug: LogFunction;
  readonly info: LogFunction;
  readonly warn: LogFunction;
  readonly error: LogFunction;
}

export const silentLogger: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
