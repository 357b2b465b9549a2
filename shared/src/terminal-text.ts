/** Text for a terminal of the commands of both programs. Pure. */

/** C0 and C1 controls, and marks that turn the direction of text: a name must not rewrite the terminal. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}]/gu;

export const printable = (text: string): string => text.replace(UNPRINTABLE, '\ufffd');

/** What a terminal has that does not say, and what fits into a mail. */
export const DEFAULT_COLUMNS = 80;
/** A column that is wrapped has at least so many characters: narrower is harder to read than what a terminal wraps. */
const MIN_WRAPPED = 24;

/** Lines of at most `width` characters; a word that is longer stands alone. */
export const wrap = (text: string, width: number): string[] => {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
};

/** Its lines, all but the first one moved to the right. */
export const wrapIndented = (text: string, indent: string, columns = DEFAULT_COLUMNS): string =>
  wrap(text, columns - indent.length).join(`\n${indent}`);

/** Columns aligned to the left, two spaces apart; the head in capitals. No line break at its end. */
export const formatTable = (head: readonly string[], rows: readonly (readonly string[])[]): string => {
  const lines = [head.map((cell) => cell.toUpperCase()), ...rows.map((row) => row.map(printable))];
  const widths = head.map((_, column) => Math.max(...lines.map((line) => (line[column] ?? '').length)));
  return lines
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
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
