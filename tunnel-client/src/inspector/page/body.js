/** A body: JSON set in lines, text as it is, or bytes in hexadecimal. */
import { el } from './dom.js';
import { bytes as formatBytes } from './format.js';

/** Pieces of JSON that are coloured; longer ones are shown in one colour, which a browser does at once. */
const MAX_COLOURED = 20_000;
const BYTES_PER_LINE = 16;
const TOKEN = /"(?:[^"\\]|\\[^])*(?:"|\\?$)|[{}[\],:]|[^\s{}[\],:"]+/g;
const REDACTED = '[redacted]';

/** `text` with what was left out set apart. */
export const withRedactions = (text) =>
  text.split(REDACTED).flatMap((part, index) => (index === 0 ? [part] : [el('span.redacted', {}, 'redacted'), part]));

/** Token by token, so that numbers stay as they were written and what is cut off is set as well. */
const setJson = (text) => {
  const tokens = [...text.matchAll(TOKEN)].map(([token]) => token);
  const parts = [];
  let depth = 0;
  const newLine = () => `\n${'  '.repeat(Math.min(depth, 40))}`;
  tokens.forEach((token, index) => {
    const next = tokens[index + 1];
    if (token === '{' || token === '[') {
      parts.push(token);
      depth += 1;
      if (next !== '}' && next !== ']') parts.push(newLine());
    } else if (token === '}' || token === ']') {
      depth = Math.max(0, depth - 1);
      const before = tokens[index - 1];
      if (before !== '{' && before !== '[') parts.push(newLine());
      parts.push(token);
      if (depth === 0 && next !== undefined) parts.push('\n');
    } else if (token === ',') parts.push(token, newLine());
    else if (token === ':') parts.push(': ');
    else if (tokens.length > MAX_COLOURED) parts.push(token);
    else if (token.startsWith('"'))
      parts.push(el(next === ':' ? 'span.key' : 'span.string', {}, ...withRedactions(token)));
    else parts.push(el(/^-?\d/.test(token) ? 'span.number' : 'span.word', {}, token));
  });
  return parts;
};

const isJson = ({ contentType = '', content }) =>
  content.kind === 'text' && (/[/+]json\b/i.test(contentType) || /^\s*[{[]\s*["{[\]}\d]/.test(content.text));

const toBytes = ({ kind, text }) =>
  kind === 'text' ? new TextEncoder().encode(text) : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

const setHex = (all) => {
  const lines = [];
  for (let at = 0; at < all.length; at += BYTES_PER_LINE) {
    const line = [...all.subarray(at, at + BYTES_PER_LINE)];
    const hex = line.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const letters = line.map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '·')).join('');
    lines.push(`${at.toString(16).padStart(6, '0')}  ${hex.padEnd(BYTES_PER_LINE * 3)} ${letters}`);
  }
  return lines.join('\n');
};

const MODES = {
  JSON: { fits: isJson, show: ({ content }) => el('pre', {}, ...setJson(content.text)) },
  Text: {
    fits: ({ content }) => content.kind === 'text',
    show: ({ content }) => el('pre', {}, ...withRedactions(content.text)),
  },
  Hex: { fits: () => true, show: ({ content }) => el('pre.hex', {}, setHex(toBytes(content))) },
};

/** The ways to show a body that people have chosen, by what it is of: kept from one request to the next. */
const chosen = new Map();

export const bodyPart = (title, body) => {
  const about = [
    formatBytes(body.bytes),
    body.contentType,
    body.decoded.length > 0 && `decoded from ${body.decoded.join(', ')}`,
    body.isTruncated && 'only its beginning is kept',
    body.note,
  ].filter(Boolean);
  const head = el('div.head', {}, title, el('small', {}, body.bytes === 0 ? 'none' : about.join(' · ')));
  const part = el('section.part', { 'aria-label': title }, head);
  if (!body.content) return part;

  const modes = Object.entries(MODES).filter(([, { fits }]) => fits(body));
  const buttons = modes.map(([name]) => el('button', { type: 'button', onclick: () => choose(name) }, name));
  let shown;
  const show = (name) => {
    for (const button of buttons) button.setAttribute('aria-pressed', button.textContent === name);
    const next = MODES[name].show(body);
    if (shown) shown.replaceWith(next);
    else part.append(next);
    shown = next;
  };
  const choose = (name) => {
    chosen.set(title, name);
    show(name);
  };
  head.append(el('div.modes', { role: 'group', 'aria-label': `How to show: ${title}` }, ...buttons));
  show((modes.find(([name]) => name === chosen.get(title)) ?? modes[0])[0]);
  return part;
};
