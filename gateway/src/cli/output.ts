/** How the commands print: tables for people, JSON for programs. */

/** C0 and C1 controls, and marks that turn the direction of text: a name must not rewrite the terminal. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}]/gu;

export const printable = (text: string): string => text.replace(UNPRINTABLE, '\ufffd');

/** Columns aligned to the left, two spaces apart; the head in capitals. */
export const formatTable = (head: readonly string[], rows: readonly (readonly string[])[]): string => {
  const lines = [head.map((cell) => cell.toUpperCase()), ...rows.map((row) => row.map(printable))];
  const widths = head.map((_, column) => Math.max(...lines.map((line) => (line[column] ?? '').length)));
  return lines
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join('');
};

/** Names and values below each other, indented. */
export const formatFields = (fields: Readonly<Record<string, string>>): string => {
  const width = Math.max(...Object.keys(fields).map((name) => name.length));
  return Object.entries(fields)
    .map(([name, value]) => `  ${name.padEnd(width)}  ${printable(value)}\n`)
    .join('');
};

export const formatJson = (value: unknown): string => `${JSON.stringify(value, undefined, 2)}\n`;

/** `2026-11-20 18:12 UTC` */
export const formatTime = (ms: number): string => `${new Date(ms).toISOString().slice(0, 16).replace('T', ' ')} UTC`;

/** For JSON: RFC 3339, or null. */
export const jsonTime = (ms: number | undefined): string | null =>
  ms === undefined ? null : new Date(ms).toISOString();

/** A word for a POSIX shell, quoted where it has to be. */
export const shellWord = (text: string): string =>
  /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
