/** How the commands print: fields for people, JSON for programs. */
import { printable } from '../../../shared/src/terminal-text.ts';

/** Names and values below each other, indented. */
export const formatFields = (fields: Readonly<Record<string, string>>): string => {
  const width = Math.max(...Object.keys(fields).map((name) => name.length));
  return Object.entries(fields)
    .map(([name, value]) => `  ${name.padEnd(width)}  ${printable(value)}\n`)
    .join('');
};

/** Rows of a table: what is listed, and beside it what is said of it, a line each. */
export const listedWith = (id: string, about: readonly string[]): string[][] =>
  about.map((line, index) => [index === 0 ? id : '', line]);

export const formatJson = (value: unknown): string => `${JSON.stringify(value, undefined, 2)}\n`;

/** `2026-11-20 18:12 UTC` */
export const formatTime = (ms: number): string => `${new Date(ms).toISOString().slice(0, 16).replace('T', ' ')} UTC`;

/** For JSON: RFC 3339, or null. */
export const jsonTime = (ms: number | undefined): string | null =>
  ms === undefined ? null : new Date(ms).toISOString();

/** A word for a POSIX shell, quoted where it has to be. */
export const shellWord = (text: string): string =>
  /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
