/** What a command has of the world; `main.ts` makes it of the process, tests make their own. */
export interface CliIo {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  /** Text with its line ends. */
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  /** Whether `err` is read by a person at a terminal. */
  readonly isTerminal: boolean;
  /** Aborted when the process is asked to end. */
  readonly stop: AbortSignal;
}

export const EXIT = {
  ok: 0,
  /** It did not work. */
  failed: 1,
  /** What was asked for makes no sense: wrong flags or configuration. */
  usage: 2,
} as const;

/** An end with a message for a person, without a stack. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly exitCode: number;
  constructor(message: string, options: { exitCode?: number; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.exitCode = options.exitCode ?? EXIT.failed;
  }
}
