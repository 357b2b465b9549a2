/** Tables of a Markdown document (GitHub Flavored Markdown, section 4.10), for tests that compare them with code. */
export interface Table {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

const cellsOf = (line: string): string[] =>
  line
    .replace(/^\s*\|/, '')
    .replace(/\|\s*$/, '')
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim());

export const readTables = (markdown: string): Table[] => {
  const lines = markdown.split('\n');
  return lines.flatMap((line, index) => {
    if (!/^\s*\|[\s:|-]+\|\s*$/.test(line) || !line.includes('-')) return [];
    const end = lines.findIndex((next, at) => at > index && !next.startsWith('|'));
    return [
      {
        head: cellsOf(lines[index - 1] ?? ''),
        rows: lines.slice(index + 1, end < 0 ? undefined : end).map(cellsOf),
      },
    ];
  });
};
