/**
 * Shows the lines: only the blocks around what is in sight are in the document. Heights of the others are computed from
 * the cells of their lines, exact for a monospaced font and corrected when a block is shown.
 */
import { PLAIN } from './ansi.js';
import { BLOCK_LINES } from './lines.js';

/** Beyond the edges of what is in sight, px: enough for a fast finger until the next frame. */
const OVERSCAN = 800;
/** Highlighted places of one line; a search for a single letter must not make thousands of elements. */
const MAX_MARKS_PER_LINE = 500;

const element = (name, className, text) => {
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

/** The element of one line. `ranges` are the places to highlight. */
const renderLine = ({ text, runs, more, note }, ranges) => {
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

/** `ranges(text)` gives the places of the search; `onFollow` is told when following begins or ends. */
export const createView = ({ scroller, sizer, lines, ranges, onFollow, onScroll }) => {
  const rendered = new Map();
  let layout = { wrap: true, lineHeight: 20, cellWidth: 8, columns: 80, id: 0 };
  let topPad = 0;
  let following = true;
  let lastTop = 0;
  let frame = 0;
  let removedHeight = 0;
  let currentLine = -1;
  let marksVersion = 0;
  let allSelected = false;

  const measure = () => {
    const probe = element('div', 'l probe', '0'.repeat(100));
    sizer.append(probe);
    const box = probe.getBoundingClientRect();
    probe.remove();
    const style = getComputedStyle(sizer);
    const width = scroller.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const cellWidth = box.width / 100;
    layout = {
      ...layout,
      lineHeight: box.height,
      cellWidth,
      columns: Math.max(1, Math.floor((width + 0.01) / cellWidth)),
      id: layout.id + 1,
    };
  };

  const rowsOf = (line) => (layout.wrap ? Math.max(1, Math.ceil(line.cells / layout.columns)) : 1);
  const heightOf = (block) => {
    const key = `${layout.id}.${block.version}`;
    if (block.heightKey !== key) {
      block.heightKey = key;
      block.height = layout.lineHeight * block.lines.reduce((rows, line) => rows + rowsOf(line), 0);
    }
    return block.height;
  };
  /** Gives every block its place. Two thousand additions at most. */
  const place = () => {
    let top = topPad;
    for (const block of lines.blocks) {
      block.top = top;
      top += heightOf(block);
    }
    sizer.style.height = `${top}px`;
    sizer.style.minWidth = layout.wrap ? '' : `calc(${Math.ceil(lines.widest * layout.cellWidth)}px + 2 * var(--side))`;
    return top;
  };

  /** Index of the block at `y`. */
  const blockAt = (y) => {
    const { blocks } = lines;
    let low = 0;
    let high = blocks.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (blocks[middle].top + blocks[middle].height > y) high = middle;
      else low = middle + 1;
    }
    return low;
  };

  const fill = (block, shown) => {
    const isFresh = shown.marks !== marksVersion;
    if (isFresh) {
      shown.node.replaceChildren();
      shown.marks = marksVersion;
    }
    for (let index = shown.node.childElementCount; index < block.lines.length; index++) {
      const line = block.lines[index];
      const node = renderLine(line, line.note ? [] : ranges(line.text).slice(0, MAX_MARKS_PER_LINE));
      if (block.first + index === currentLine) node.classList.add('current');
      shown.node.append(node);
    }
    shown.version = block.version;
  };
  const show = (block) => {
    let shown = rendered.get(block);
    if (!shown) {
      const node = element('div', 'block');
      node.dataset.first = block.first;
      shown = { node, marks: -1, version: -1 };
      const after = [...rendered.keys()]
        .filter(({ first }) => first > block.first)
        .sort((a, b) => a.first - b.first)[0];
      sizer.insertBefore(node, after ? rendered.get(after).node : null);
      rendered.set(block, shown);
    }
    if (shown.marks !== marksVersion || shown.version !== block.version) fill(block, shown);
    return shown;
  };

  /** Blocks in which the visitor's selection begins and ends stay, or it would be lost while scrolling. */
  const selectionEnds = () => {
    const selection = document.getSelection();
    if (!selection || selection.isCollapsed) return [];
    return [selection.anchorNode, selection.focusNode].map((node) =>
      (node instanceof Element ? node : node?.parentElement)?.closest('.block'),
    );
  };

  const render = () => {
    const { blocks } = lines;
    const kept = selectionEnds();
    const wanted = new Set();
    // What a block really takes may differ from what was computed; then its neighbours are others.
    for (let pass = 0; pass < 3; pass++) {
      const top = scroller.scrollTop;
      const bottom = top + scroller.clientHeight;
      wanted.clear();
      for (let index = blockAt(top - OVERSCAN); index < blocks.length; index++) {
        const block = blocks[index];
        if (block.top > bottom + OVERSCAN) break;
        wanted.add(block);
        show(block).node.style.transform = `translateY(${block.top}px)`;
      }
      let shift = 0;
      let isOff = false;
      if (layout.wrap) {
        for (const block of wanted) {
          const { height } = rendered.get(block).node.getBoundingClientRect();
          if (Math.abs(height - block.height) < 0.5) continue;
          isOff = true;
          if (block.top + block.height <= top) shift += height - block.height;
          block.height = height;
        }
      }
      if (!isOff) break;
      place();
      if (following) scrollTo(scroller.scrollHeight);
      else if (shift !== 0) scrollTo(top + shift);
    }
    for (const [block, { node }] of rendered) {
      if (wanted.has(block) || kept.includes(node)) continue;
      node.remove();
      rendered.delete(block);
    }
  };

  const scrollTo = (top) => {
    scroller.scrollTop = top;
    lastTop = scroller.scrollTop;
  };
  const isAtEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < layout.lineHeight * 1.5;
  const setFollowing = (next) => {
    if (following === next) return;
    following = next;
    onFollow(next);
  };

  const update = () => {
    frame = 0;
    const top = scroller.scrollTop;
    place();
    if (following) scrollTo(scroller.scrollHeight);
    // Where somebody reads, the text stays where it is while old lines go.
    else if (removedHeight > 0) scrollTo(Math.max(0, top - removedHeight));
    removedHeight = 0;
    render();
  };
  const schedule = () => {
    frame ||= requestAnimationFrame(update);
  };

  scroller.addEventListener(
    'scroll',
    () => {
      const top = scroller.scrollTop;
      if (following && top < lastTop - 1 && !isAtEnd()) setFollowing(false);
      else if (!following && top > lastTop && isAtEnd()) setFollowing(true);
      lastTop = top;
      onScroll?.();
      schedule();
    },
    { passive: true },
  );
  scroller.addEventListener(
    'wheel',
    (event) => {
      if (event.deltaY < 0 && scroller.scrollTop > 0) setFollowing(false);
    },
    { passive: true },
  );
  new ResizeObserver(() => {
    const anchor = lines.blocks.length > 0 ? topLine() : undefined;
    measure();
    if (anchor === undefined || following) return schedule();
    place();
    scrollToTop(anchor);
  }).observe(scroller);

  const lineTop = (number) => {
    const block = lines.blocks[Math.floor((number - lines.first) / BLOCK_LINES)];
    if (!block) return undefined;
    const index = number - block.first;
    const node = rendered.get(block)?.node.children[index];
    if (node) return block.top + node.offsetTop;
    return block.top + layout.lineHeight * block.lines.slice(0, index).reduce((rows, line) => rows + rowsOf(line), 0);
  };
  /** The line at the upper edge. */
  const topLine = () => {
    const block = lines.blocks[blockAt(scroller.scrollTop)];
    let top = block.top;
    for (let index = 0; index < block.lines.length; index++) {
      top += layout.lineHeight * rowsOf(block.lines[index]);
      if (top > scroller.scrollTop) return block.first + index;
    }
    return block.first;
  };
  const scrollToTop = (number) => {
    const top = lineTop(number);
    if (top !== undefined) scrollTo(top);
    render();
  };

  // ---- selection and copying

  /** Line and character of a point of the document; undefined outside of the lines. */
  const pointOf = (node, offset) => {
    const parent = node instanceof Element ? node : node?.parentElement;
    const line = parent?.closest('.l');
    const block = line?.closest('.block');
    if (!block || !sizer.contains(block)) return undefined;
    const range = document.createRange();
    range.setStart(line, 0);
    range.setEnd(node, offset);
    const number = Number(block.dataset.first) + [...block.children].indexOf(line);
    return { number, character: range.toString().length };
  };
  /** The selected text, also of lines that are not in the document; undefined when nothing of the log is selected. */
  const selectedText = () => {
    if (allSelected) return lines.text();
    const selection = document.getSelection();
    if (!selection || selection.isCollapsed) return undefined;
    const range = selection.getRangeAt(0);
    const from = pointOf(range.startContainer, range.startOffset);
    const to = pointOf(range.endContainer, range.endOffset);
    if (!from || !to) return undefined;
    const firstLine = lines.at(from.number)?.text ?? '';
    if (from.number === to.number) return firstLine.slice(from.character, to.character);
    const lastLine = lines.at(to.number)?.text ?? '';
    return `${firstLine.slice(from.character)}\n${lines.text(from.number + 1, to.number)}${lastLine.slice(0, to.character)}`;
  };
  const setAllSelected = (next) => {
    allSelected = next;
    scroller.classList.toggle('all', next);
  };
  document.addEventListener('copy', (event) => {
    if (event.target instanceof HTMLInputElement) return;
    const text = selectedText();
    if (text === undefined) return;
    event.clipboardData.setData('text/plain', text);
    event.preventDefault();
  });
  document.addEventListener('mousedown', () => setAllSelected(false));
  document.addEventListener('keydown', (event) => {
    if (event.target instanceof HTMLInputElement) return;
    const isCommand = event.ctrlKey || event.metaKey;
    if (isCommand && event.key === 'a') {
      event.preventDefault();
      document.getSelection()?.selectAllChildren(sizer);
      setAllSelected(true);
    } else if (!isCommand) setAllSelected(false);
  });

  measure();
  return {
    get following() {
      return following;
    },
    get wrap() {
      return layout.wrap;
    },
    /** Lines came. Call it after each batch. */
    appended() {
      for (const block of lines.trim()) {
        removedHeight += heightOf(block);
        rendered.get(block)?.node.remove();
        rendered.delete(block);
      }
      schedule();
    },
    /** All lines are others. */
    reset() {
      for (const { node } of rendered.values()) node.remove();
      rendered.clear();
      removedHeight = 0;
      schedule();
    },
    follow() {
      setFollowing(true);
      update();
    },
    pause: () => setFollowing(false),
    setWrap(wrap) {
      const anchor = following || lines.count === 0 ? undefined : topLine();
      layout = { ...layout, wrap };
      scroller.classList.toggle('wrap', wrap);
      measure();
      if (anchor === undefined) return update();
      place();
      scrollToTop(anchor);
    },
    /** Room above the first line, px. */
    setTopPad(height) {
      if (height === topPad) return;
      const top = scroller.scrollTop + height - topPad;
      topPad = height;
      place();
      if (!following) scrollTo(top);
      schedule();
    },
    /** The search is another, or its current line is. */
    refresh(line = -1) {
      currentLine = line;
      marksVersion += 1;
      schedule();
    },
    /** Brings a line to the middle, unless it is in sight. */
    reveal(number) {
      setFollowing(false);
      place();
      for (let pass = 0; pass < 2; pass++) {
        const top = lineTop(number);
        if (top === undefined) return;
        const view = scroller.clientHeight;
        if (
          pass === 1 ||
          top < scroller.scrollTop + layout.lineHeight ||
          top > scroller.scrollTop + view - layout.lineHeight * 2
        )
          scrollTo(Math.max(0, top - view / 2));
        render();
      }
      if (!layout.wrap) {
        sizer.querySelector('.current mark')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
        lastTop = scroller.scrollTop;
      }
    },
    /** Puts a line at the upper edge. */
    scrollToLine(number) {
      setFollowing(false);
      place();
      scrollToTop(number);
    },
    selectedText,
    schedule,
  };
};
