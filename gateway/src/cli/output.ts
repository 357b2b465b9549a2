/** How the commands print: tables for people, JSON for programs. */

/** C0 and C1 controls, and marks that turn the direction of text: a name must not rewrite the terminal. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}]/gu;

export const printable = (text: string): string => text.replace(UNPRINTABLE, '\ufffd');

/** What a terminal has that does not say, and what fits into a mail. */
export const DEFAULT_COLUMNS = 80;
/** A column that is wrapped has at least so many characters: narrower is harder to read than what a terminal wraps. */
const MIN_WRAPPED = 24;

const wrap = (text: string, width: number): string[] => {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
};

/** The same table with its last column wrapped at spaces, so that it fits into `columns` unless a word is too long. */
export const formatWrappedTable = (
  head: readonly string[],
  rows: readonly (readonly string[])[],
  columns: number,
): string => {
  const others = head
    .slice(0, -1)
    .map((cell, column) => Math.max(cell.length, ...rows.map((row) => row[column]!.length)));
  const width = Math.max(MIN_WRAPPED, columns - others.reduce((sum, each) => sum + each + 2, 0));
  const blank = others.map(() => '');
  return formatTable(
    head,
    rows.flatMap((row) =>
      wrap(row.at(-1) ?? '', width).map((line, index) => [...(index === 0 ? row.slice(0, -1) : blank), line]),
    ),
  );
};

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
