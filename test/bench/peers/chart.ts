/** A run as a picture: one block of bars for each row, each system as a part of the longest. */
import { median } from './statistics.ts';
import type { Measured } from './rounds.ts';
import { SYSTEM_LABELS, SYSTEM_NAMES, type SystemName } from './systems.ts';
import { ROWS } from './workloads.ts';

const WIDTH = 880;
const LABEL_WIDTH = 250;
const VALUE_WIDTH = 150;
const BAR_HEIGHT = 14;
const BLOCK_GAP = 18;
const LEGEND_HEIGHT = 62;
const LEGEND_COLUMNS = 3;

/** Distinct in light and dark, and without colour by their order. */
const COLOURS: Readonly<Record<SystemName, string>> = {
  direct: '#8a8f98',
  'nginx-nebula': '#d08700',
  'nginx-ssh': '#a05cc5',
  'nginx-ssh-plain': '#d3a6ee',
  'gateway-quic': '#1f7ae0',
  'gateway-webtransport': '#19a08b',
};

const escape = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
const text = (x: number, y: number, words: string, more = ''): string =>
  `<text x="${x}" y="${y}" ${more}>${escape(words)}</text>`;

export const drawChart = (measured: Measured): string => {
  const parts: string[] = [];
  let y = LEGEND_HEIGHT;
  for (const [name, row] of Object.entries(ROWS)) {
    const bars = SYSTEM_NAMES.flatMap((system) => {
      const numbers = (measured[name]?.[system] ?? []).filter((number) => number !== undefined);
      return numbers.length === 0 ? [] : [{ system, value: median(numbers) }];
    });
    if (bars.length === 0) continue;
    const longest = Math.max(...bars.map(({ value }) => value), Number.MIN_VALUE);
    const middle = y + (bars.length * BAR_HEIGHT) / 2;
    parts.push(text(0, middle, row.label, 'class="name"'));
    parts.push(text(0, middle + 13, `${row.unit}, ${row.isCost ? 'less' : 'more'} is better`, 'class="unit"'));
    for (const { system, value } of bars) {
      const width = Math.max(1, (Math.max(0, value) / longest) * (WIDTH - LABEL_WIDTH - VALUE_WIDTH));
      parts.push(
        `<rect x="${LABEL_WIDTH}" y="${y}" width="${width.toFixed(1)}" height="${BAR_HEIGHT - 2}" fill="${COLOURS[system]}"><title>${SYSTEM_LABELS[system]}</title></rect>`,
        text(LABEL_WIDTH + width + 6, y + 10, value.toLocaleString('en-US', { maximumSignificantDigits: 4 })),
      );
      y += BAR_HEIGHT;
    }
    y += BLOCK_GAP;
  }
  const present = SYSTEM_NAMES.filter((system) => Object.values(measured).some((systems) => systems[system]));
  const legend = present.map((system, index) => {
    const x = (index % LEGEND_COLUMNS) * (WIDTH / LEGEND_COLUMNS);
    const top = 8 + Math.floor(index / LEGEND_COLUMNS) * 20;
    return `<rect x="${x}" y="${top}" width="12" height="12" fill="${COLOURS[system]}"/>${text(x + 18, top + 10, SYSTEM_LABELS[system])}`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-16 0 ${WIDTH + 32} ${y}" width="${WIDTH + 32}" height="${y}" role="img">`,
    '<title>The gateway and its peers</title>',
    '<style>text{font:12px system-ui,sans-serif;fill:#1c2024}.unit{font-size:10px;fill:#60646c}.name{font-weight:600}svg{background:#fff}',
    '@media(prefers-color-scheme:dark){svg{background:#16181c}text{fill:#eceef0}.unit{fill:#9ba1a6}}</style>',
    ...legend,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
};
