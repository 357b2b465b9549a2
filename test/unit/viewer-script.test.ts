/** What the viewer makes of lines, in the very script that browsers get. The rest of it is tested in a browser. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { runInThisContext, Script } from 'node:vm';
import { bundleScripts, VIEWER_SCRIPTS } from '../../gateway/src/logs/viewer-page.ts';

const PAGE = join(import.meta.dirname, '../../gateway/src/logs/page');
const read = (name: string): string => readFileSync(join(PAGE, name), 'utf8');

interface Style {
  readonly fg: string;
  readonly bg: string;
  readonly flags: string;
}
interface Parsed {
  readonly text: string;
  readonly runs: readonly { readonly end: number; readonly style: Style }[] | undefined;
  readonly style: Style;
}
interface Lines {
  readonly count: number;
  readonly first: number;
  readonly end: number;
  readonly widest: number;
  readonly blocks: readonly { readonly cells: ArrayLike<number>; readonly first: number; readonly count: number }[];
  add(raw: string): void;
  addNote(text: string): void;
  trim(): readonly unknown[];
  clear(): void;
  text(from?: number, to?: number): string;
  textAt(number: number): string;
  parse(block: unknown): readonly { text: string; runs: Parsed['runs']; more: number; note: boolean }[];
}

const { parseLine, PLAIN, createLines, MAX_LINES } = runInThisContext(
  `${bundleScripts(['ansi.js', 'lines.js'].map(read)).replace(/\}\)\(\);\n$/, '')} return { parseLine, PLAIN, createLines, MAX_LINES }; })();`,
) as {
  parseLine: (line: string, style: Style) => Parsed;
  PLAIN: Style;
  createLines: () => Lines;
  MAX_LINES: number;
};

const ESC = '\x1b';
/** Pieces of a line with what is special about them. */
const show = (line: string, style = PLAIN): [string, string][] => {
  const { text, runs } = parseLine(line, style);
  let from = 0;
  return (runs ?? [{ end: text.length, style: PLAIN }]).map(({ end, style: { fg, bg, flags } }) => {
    const piece = text.slice(from, end);
    from = end;
    return [piece, [fg && `f${fg}`, bg && `g${bg}`, flags].filter(Boolean).join(' ')];
  });
};

describe('a line with control sequences', () => {
  it('is shown in its colours: 16, 256 and all', () => {
    assert.deepEqual(show(`a${ESC}[31mb${ESC}[0mc`), [
      ['a', ''],
      ['b', 'f1'],
      ['c', ''],
    ]);
    assert.deepEqual(show(`${ESC}[1;4;92;41mx`), [['x', 'f10 g1 bu']]);
    assert.deepEqual(show(`${ESC}[38;5;208mx`), [['x', 'frgb(255,135,0)']]);
    assert.deepEqual(show(`${ESC}[38;5;9;48;5;232mx`), [['x', 'f9 grgb(8,8,8)']]);
    assert.deepEqual(show(`${ESC}[38;2;1;2;3mx`), [['x', 'frgb(1,2,3)']]);
    assert.deepEqual(show(`${ESC}[38:2::1:2:3;3mx`), [['x', 'frgb(1,2,3) i']]);
    assert.deepEqual(show(`${ESC}[38:5:1mx`), [['x', 'f1']]);
    assert.deepEqual(show(`${ESC}[1;2;3;4;7;9mx${ESC}[22;23;24;27;29my`), [
      ['x', 'bdiuvs'],
      ['y', ''],
    ]);
    assert.deepEqual(show(`${ESC}[31;42mx${ESC}[39my${ESC}[49mz`), [
      ['x', 'f1 g2'],
      ['y', 'g2'],
      ['z', ''],
    ]);
    assert.deepEqual(show(`${ESC}[31mx${ESC}[my`), [
      ['x', 'f1'],
      ['y', ''],
    ]);
  });

  it('begins in the style in which the one before ended', () => {
    const first = parseLine(`${ESC}[33mone`, PLAIN);
    assert.deepEqual(show('two', first.style), [['two', 'f3']]);
    assert.equal(parseLine(`two${ESC}[0m`, first.style).style, PLAIN);
  });

  it('loses what only a terminal understands, broken sequences too', () => {
    for (const [line, text] of [
      [`${ESC}[2K${ESC}[1Gdone`, 'done'],
      [`${ESC}]0;title\x07text`, 'text'],
      [`${ESC}]8;;https://x.test${ESC}\\link${ESC}]8;;${ESC}\\ end`, 'link end'],
      [`${ESC}Pq#0;2;0;0;0${ESC}\\after`, 'after'],
      [`${ESC}[?25lhidden${ESC}[?25h`, 'hidden'],
      [`a${ESC}[9999999999999999999999mb`, 'ab'],
      [`a${ESC}[38;5mb`, 'ab'],
      [`a${ESC}[38;2;300;0;0mb`, 'ab'],
      [`a${ESC}`, 'a'],
      [`a${ESC}[`, 'a'],
      [`a${ESC}]never ends`, 'a'],
      ['\x9b31ma\x9b0m', 'a'],
      ['a\x00\x07\x7fb', 'ab'],
      ['tab\tstays', 'tab\tstays'],
      ['naïve ✓ 日本 👍', 'naïve ✓ 日本 👍'],
    ]) {
      assert.equal(parseLine(line!, PLAIN).text, text, JSON.stringify(line));
    }
  });

  it('is what is left when a progress bar has drawn over itself', () => {
    assert.equal(parseLine('10%\r50%\r100%\r', PLAIN).text, '100%');
    assert.equal(parseLine('windows\r', PLAIN).text, 'windows');
    assert.equal(parseLine('abc\b\bX', PLAIN).text, 'aX');
    assert.deepEqual(show(`${ESC}[31mab\b\b\b${ESC}[0mc`), [['c', '']]);
    assert.deepEqual(show(`${ESC}[31m10%\r20%`), [['20%', 'f1']]);
  });

  it('takes no longer than its length, whatever is in it', () => {
    const start = performance.now();
    for (const part of [`${ESC}[`, `${ESC}]`, '\r', '\b', `${ESC}[1;`, `${ESC}[31m`, '38:2:'])
      parseLine(part.repeat(10_000), PLAIN);
    assert.ok(performance.now() - start < 2_000, 'it is quadratic');
  });
});

describe('the lines that are held', () => {
  it('are numbered from the first that came, and give their text without sequences', () => {
    const lines = createLines();
    for (let index = 0; index < 120; index++)
      lines.add(index % 3 === 0 ? `${ESC}[31m${index}${ESC}[0m` : String(index));
    assert.deepEqual([lines.count, lines.first, lines.end], [120, 0, 120]);
    assert.equal(lines.textAt(51), '51');
    assert.equal(lines.textAt(500), '');
    assert.equal(lines.text(48, 53), '48\n49\n50\n51\n52\n');
    assert.equal(lines.text().split('\n').length, 121);
    assert.equal(lines.blocks.flatMap((block) => lines.parse(block)).filter(({ runs }) => runs).length, 40);
  });

  it('keep the style over the border of a block, and notes out of it', () => {
    const lines = createLines();
    for (let index = 0; index < 49; index++) lines.add('x');
    lines.add(`${ESC}[31mred`);
    lines.add('still red');
    lines.addNote('a gap');
    lines.add('plain');
    const parsed = lines.blocks.flatMap((block) => lines.parse(block));
    assert.equal(parsed[50]!.runs?.[0]?.style.fg, '1');
    assert.deepEqual([parsed[51]!.note, parsed[51]!.text], [true, 'a gap']);
    assert.equal(parsed[52]!.runs, undefined);
  });

  it('know how wide they are', () => {
    const lines = createLines();
    for (const text of ['abc', 'a\tb', '\t', '日本', '👍', `${ESC}[31mabc`, '1234567\t8', '12345678\t9'])
      lines.add(text);
    assert.deepEqual([...Array.from(lines.blocks[0]!.cells).slice(0, 8)], [3, 9, 8, 4, 2, 3, 9, 17]);
    assert.equal(lines.widest, 17);
  });

  it('are cut when they are very long, and say by how much', () => {
    const lines = createLines();
    lines.add('x'.repeat(1_000_000));
    const [line] = lines.parse(lines.blocks[0]);
    assert.equal(line!.text.length + line!.more, 1_000_000);
    assert.ok(line!.text.length <= 20_000);
  });

  it('go, the oldest first, beyond a number and a size', () => {
    const lines = createLines();
    for (let index = 0; index < MAX_LINES + 75; index++) lines.add(String(index));
    assert.equal(lines.trim().length, 2);
    assert.deepEqual([lines.first, lines.end, lines.textAt(100)], [100, MAX_LINES + 75, '100']);
    lines.clear();
    assert.deepEqual([lines.first, lines.count, lines.text()], [0, 0, '']);
    for (let index = 0; index < 8_000; index++) lines.add('y'.repeat(20_000));
    assert.ok(lines.trim().length > 0);
    assert.ok(lines.text().length <= (64 << 20) + 8_000);
  });
});

describe('the script of the page', () => {
  it('has all modules, parses, and has nothing of modules left', () => {
    const script = bundleScripts(VIEWER_SCRIPTS.map(read));
    new Script(script);
    assert.doesNotMatch(script, /^\s*(?:import|export)\b/m);
    assert.deepEqual(
      [...VIEWER_SCRIPTS].sort(),
      readdirSync(PAGE)
        .filter((name) => name.endsWith('.js'))
        .sort(),
    );
    // It stands in a script element.
    assert.doesNotMatch(script, /<\/script|<!--/i);
  });

  it('gives each module what it imports, from one that stands before it', () => {
    VIEWER_SCRIPTS.forEach((name, index) => {
      for (const [, from] of read(name).matchAll(/from '\.\/([\w-]+\.js)'/g)) {
        const at = VIEWER_SCRIPTS.indexOf(from as (typeof VIEWER_SCRIPTS)[number]);
        assert.ok(at >= 0 && at < index, `${name} imports ${from}`);
      }
    });
  });
});
