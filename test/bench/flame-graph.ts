/** What a `.cpuprofile` of Node says: a table of the functions that took the time, and a flame graph as SVG. */

interface ProfileNode {
  readonly id: number;
  readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  readonly children?: readonly number[];
}
export interface CpuProfile {
  readonly nodes: readonly ProfileNode[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

/** One function at one place of the call tree, times in µs. */
interface Frame {
  readonly name: string;
  self: number;
  total: number;
  readonly children: Map<string, Frame>;
}

/** No work of the program. */
const NOT_WORK: ReadonlySet<string> = new Set(['(idle)', '(program)']);
const WIDTH = 1_200;
const ROW_HEIGHT = 16;
/** Narrower boxes are left out, px: nobody can read them, and they are most of a file. */
const MIN_BOX_WIDTH = 2;
const CHARACTER_WIDTH = 6.6;

const shortUrl = (url: string): string =>
  url
    .replace(/^file:\/\//, '')
    .replace(/^.*\/node_modules\//, '')
    .replace(/^.*\/((?:gateway|tunnel-client|shared)\/src\/)/, '$1');

const nameOf = ({ callFrame: { functionName, url, lineNumber } }: ProfileNode): string => {
  const name = functionName === '' ? '(anonymous)' : functionName;
  return url === '' ? name : `${name} ${shortUrl(url)}:${lineNumber + 1}`;
};

/** The call tree with equal functions below one caller joined; idle time is left out. */
const treeOf = (profile: CpuProfile): Frame => {
  const selfTimes = new Map<number, number>();
  profile.samples.forEach((id, index) => {
    selfTimes.set(id, (selfTimes.get(id) ?? 0) + Math.max(0, profile.timeDeltas[index] ?? 0));
  });
  const nodes = new Map(profile.nodes.map((node) => [node.id, node]));
  const make = (name: string): Frame => ({ name, self: 0, total: 0, children: new Map() });
  const add = (node: ProfileNode, frame: Frame): number => {
    const self = selfTimes.get(node.id) ?? 0;
    let total = self;
    for (const id of node.children ?? []) {
      const child = nodes.get(id);
      if (!child) continue;
      const name = nameOf(child);
      if (NOT_WORK.has(name)) continue;
      let below = frame.children.get(name);
      if (!below) frame.children.set(name, (below = make(name)));
      total += add(child, below);
    }
    frame.self += self;
    frame.total += total;
    return total;
  };
  const root = make('all');
  const [first] = profile.nodes;
  if (first) add(first, root);
  return root;
};

/** The functions with the most time of their own, as lines of text. */
export const summarize = (profile: CpuProfile, count = 40): string => {
  const tree = treeOf(profile);
  const times = new Map<string, { self: number; total: number }>();
  const visit = (frame: Frame, above: ReadonlySet<string>): void => {
    const entry = times.get(frame.name) ?? { self: 0, total: 0 };
    times.set(frame.name, entry);
    entry.self += frame.self;
    if (!above.has(frame.name)) entry.total += frame.total;
    const names = new Set(above).add(frame.name);
    for (const child of frame.children.values()) visit(child, names);
  };
  for (const child of tree.children.values()) visit(child, new Set());
  const percent = (us: number): string => `${((us / tree.total) * 100).toFixed(1)} %`.padStart(8);
  const lines = [...times]
    .toSorted(([, a], [, b]) => b.self - a.self)
    .slice(0, count)
    .map(([name, { self, total }]) => `${percent(self)}${percent(total)}  ${name}`);
  return [`    self   total  of ${(tree.total / 1e6).toFixed(2)} s`, ...lines, ''].join('\n');
};

const escape = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');

/** Where the time goes by colour: this project, packages, Node itself, the engine. */
const colourOf = (name: string): string => {
  if (/ (?:gateway|tunnel-client|shared)\/src\//.test(name)) return '#f2a65a';
  if (/ node:/.test(name)) return '#9cc5e8';
  return name.startsWith('(') ? '#d0d0d0' : / /.test(name) ? '#b6d7a8' : '#c9b8e0';
};

/** The flame graph: callers below, callees above, width is time. */
export const drawFlameGraph = (profile: CpuProfile, title: string): string => {
  const tree = treeOf(profile);
  const boxes: { frame: Frame; x: number; width: number; depth: number }[] = [];
  const place = (frame: Frame, x: number, depth: number): void => {
    const width = (frame.total / tree.total) * WIDTH;
    if (width < MIN_BOX_WIDTH) return;
    boxes.push({ frame, x, width, depth });
    let at = x;
    for (const child of [...frame.children.values()].toSorted((a, b) => b.total - a.total)) {
      place(child, at, depth + 1);
      at += (child.total / tree.total) * WIDTH;
    }
  };
  place(tree, 0, 0);
  const rows = boxes.reduce((deepest, { depth }) => Math.max(deepest, depth), 0) + 1;
  const height = (rows + 2) * ROW_HEIGHT;
  const shapes = boxes.map(({ frame, x, width, depth }) => {
    const y = height - (depth + 1) * ROW_HEIGHT;
    const label = `${frame.name}, ${((frame.total / tree.total) * 100).toFixed(1)} %`;
    const text = frame.name.slice(0, Math.floor((width - 4) / CHARACTER_WIDTH));
    return [
      `<g><title>${escape(label)}</title>`,
      `<rect x="${x.toFixed(1)}" y="${y}" width="${width.toFixed(1)}" height="15" fill="${colourOf(frame.name)}"/>`,
      text.length > 2 ? `<text x="${(x + 2).toFixed(1)}" y="${y + 11}">${escape(text)}</text>` : '',
      '</g>',
    ].join('');
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}">`,
    '<style>text{font:11px monospace;fill:#222}rect{stroke:#fff;stroke-width:.5}</style>',
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="4" y="14">${escape(`${title}: ${(tree.total / 1e6).toFixed(2)} s of processor time in JavaScript`)}</text>`,
    ...shapes,
    '</svg>',
    '',
  ].join('\n');
};
