/** Log lines for a person at a terminal: time, level, message, then the fields. */
import type { DestinationStream } from 'pino';
import { printable } from '../../../shared/src/terminal-text.ts';

const COLOR: Readonly<Record<string, number>> = { trace: 90, debug: 90, info: 36, warn: 33, error: 31, fatal: 31 };
const paint = (text: string, color: number): string => `\u001b[${color}m${text}\u001b[0m`;

const formatValue = (value: unknown): string => {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return printable(/\s/.test(text) && typeof value === 'string' ? JSON.stringify(value) : text);
};

/** One line for a pino line; what is not JSON stays as it is. */
const formatLogLine = (line: string): string => {
  let entry: Record<string, unknown>;
  try {
    entry = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return line;
  }
  const { level, time, msg, err, ...fields } = entry;
  const { stack, message } = (err ?? {}) as { stack?: string; message?: string };
  const name = String(level);
  const rest = Object.entries(fields).map(([key, value]) => `${paint(`${key}=`, 90)}${formatValue(value)}`);
  const trouble = stack ?? message;
  return [
    [
      paint(String(time).slice(11, 19), 90),
      paint(name.padEnd(5), COLOR[name] ?? 0),
      printable(String(msg ?? '')),
      ...rest,
    ].join(' '),
    ...(trouble === undefined ? [] : trouble.split('\n').map((part) => `    ${printable(part)}`)),
    '',
  ].join('\n');
};

export const createHumanLog = (out: { write(text: string): unknown }): DestinationStream => ({
  write: (line) => void out.write(formatLogLine(line)),
});
