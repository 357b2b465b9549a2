/**
 * What a terminal would show of a line: its text without control sequences, and the styles in it (ECMA-48, SGR as
 * xterm has it). A style is an object that is never changed; a line without any has no runs.
 */

/** No colour, no weight. */
export const PLAIN = Object.freeze({ fg: '', bg: '', flags: '' });

/** Anything that is not shown as it is. The tab stays: CSS shows it. */
const CONTROL = /[\x00-\x08\x0a-\x1f\x7f-\x9f]/;
/** CSI; OSC, DCS, SOS, PM and APC up to their end; any other escape; a single control. */
const SEQUENCE =
  /(?:\x1b\[|\x9b)([0-?]*)[ -/]*([@-~])|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)|\x1b[ -/]*[0-~]?|[\x00-\x08\x0a-\x1f\x7f-\x9f]/g;

const FLAGS = { 1: 'b', 2: 'd', 3: 'i', 4: 'u', 7: 'v', 9: 's' };
/** Which letters an "off" code takes away. */
const OFF = { 22: 'bd', 23: 'i', 24: 'u', 27: 'v', 29: 's' };

const cube = (step) => (step === 0 ? 0 : 55 + step * 40);
/** A palette colour: `0` to `15` are classes of the page's own, the rest is what xterm has. */
const palette = (index) => {
  if (index < 16) return String(index);
  if (index >= 232) return `rgb(${`${8 + (index - 232) * 10},`.repeat(3).slice(0, -1)})`;
  const value = index - 16;
  return `rgb(${cube(Math.floor(value / 36))},${cube(Math.floor(value / 6) % 6)},${cube(value % 6)})`;
};

/** Reads `38;5;n`, `38;2;r;g;b` and their forms with colons. Gives the colour and how many codes it took. */
const extended = (codes, at) => {
  if (codes[at + 1] === 5 && codes[at + 2] <= 255) return [palette(codes[at + 2]), 2];
  const rgb = codes.slice(at + 2, at + 5);
  if (codes[at + 1] === 2 && rgb.length === 3 && rgb.every((part) => part <= 255)) return [`rgb(${rgb.join(',')})`, 4];
  return ['', codes.length];
};

const applyStyle = (style, parameters) => {
  // `38:2::r:g:b` has an empty colour space between.
  const codes = parameters
    .replaceAll(/(38|48):2:\d*:(\d+:\d+:\d+)/g, '$1:2:$2')
    .split(/[;:]/)
    .map(Number);
  let { fg, bg, flags } = style;
  for (let at = 0; at < codes.length; at++) {
    const code = codes[at];
    if (code === 0) [fg, bg, flags] = ['', '', ''];
    else if (FLAGS[code]) flags = flags.includes(FLAGS[code]) ? flags : flags + FLAGS[code];
    else if (OFF[code]) flags = [...flags].filter((flag) => !OFF[code].includes(flag)).join('');
    else if (code >= 30 && code <= 37) fg = String(code - 30);
    else if (code >= 90 && code <= 97) fg = String(code - 82);
    else if (code >= 40 && code <= 47) bg = String(code - 40);
    else if (code >= 100 && code <= 107) bg = String(code - 92);
    else if (code === 39) fg = '';
    else if (code === 49) bg = '';
    else if (code === 38 || code === 48) {
      const [color, took] = extended(codes, at);
      at += took;
      if (code === 38) fg = color;
      else bg = color;
    }
  }
  return fg === '' && bg === '' && flags === '' ? PLAIN : { fg, bg, flags };
};

/**
 * Reads one line that begins in `style`. `runs` are `{ end, style }`, one behind the other; undefined when the whole
 * line is plain. `style` is that of its end, in which the next line begins.
 */
export const parseLine = (line, style) => {
  if (style === PLAIN && !CONTROL.test(line)) return { text: line, runs: undefined, style };
  // The newline of other systems; every other carriage return begins the line anew, as progress bars do.
  const source = line.endsWith('\r') ? line.slice(0, -1) : line;
  let text = '';
  let runs = [];
  let from = 0;
  const add = (end) => {
    if (end === from) return;
    text += source.slice(from, end);
    if (runs.at(-1)?.style === style) runs.at(-1).end = text.length;
    else runs.push({ end: text.length, style });
  };
  for (const match of source.matchAll(SEQUENCE)) {
    add(match.index);
    from = match.index + match[0].length;
    if (match[2] === 'm' && !/[<=>?]/.test(match[1])) style = applyStyle(style, match[1]);
    else if (match[0] === '\r') [text, runs] = ['', []];
    else if (match[0] === '\b' && text !== '') {
      text = text.slice(0, -1);
      while (runs.length > 0 && runs.at(-1).end > text.length) {
        if ((runs.at(-2)?.end ?? 0) >= text.length) runs.pop();
        else runs.at(-1).end = text.length;
      }
    }
  }
  add(source.length);
  return { text, runs: runs.some((run) => run.style !== PLAIN) ? runs : undefined, style };
};
