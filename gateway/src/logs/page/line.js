/** One line: its element, and the rows that it takes. */
import { PLAIN } from './ansi.js';

/** Highlighted places of one line; a search for a single letter must not make thousands of elements. */
const MAX_MARKS_PER_LINE = 500;

export const element = (name, className, text) => {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const styled = (text, { fg, bg, flags }) => {
  const span = element('span', [...flags].join(' '), text);
  const isNamed = (color) => /^\d/.test(color);
  if (isNamed(fg)) span.classList.add(`f${fg}`);
  else if (fg !== '') span.style.color = fg;
  if (isNamed(bg)) span.classList.add(`g${bg}`);
  else if (bg !== '') span.style.backgroundColor = bg;
  return span;
};

/** Cells by which the rows of a wrapped line are indented, all but its first; so the style has it. */
const INDENT = 2;

/** What a row of words leaves free at its end, on average, in cells. */
const RAGGED = 3;

/** Rows of a line that is wider than the view, about: words stay whole where they can, as the style says. */
export const wrappedRows = (cells, columns) => {
  const narrow = Math.max(1, columns - INDENT - RAGGED);
  return 1 + Math.ceil(Math.max(1, cells - columns + RAGGED) / narrow);
};

/** The element of one line. `found` are the places to highlight. */
export const renderLine = ({ text, runs, more, note }, found) => {
  const ranges = found.slice(0, MAX_MARKS_PER_LINE);
  const line = element('div', note ? 'l note' : 'l');
  if (!runs && ranges.length === 0) line.textContent = text;
  else {
    let at = 0;
    let nextRange = 0;
    for (const { end, style } of runs ?? [{ end: text.length, style: PLAIN }]) {
      while (at < end) {
        const range = ranges[nextRange];
        const isMarked = range !== undefined && range.start <= at;
        const to = Math.min(end, isMarked ? range.end : (range?.start ?? end));
        const piece = text.slice(at, to);
        const node = style === PLAIN ? document.createTextNode(piece) : styled(piece, style);
        if (isMarked) {
          const mark = document.createElement('mark');
          mark.append(node);
          line.append(mark);
          if (to === range.end) nextRange += 1;
        } else line.append(node);
        at = to;
      }
    }
  }
  if (more > 0) line.append(element('em', 'more', ` … ${more.toLocaleString('en')} more characters, see the download`));
  return line;
};
