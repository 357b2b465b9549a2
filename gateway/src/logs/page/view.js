/**
 * Shows the lines: only the blocks around what is in sight are in the document. Heights of the others are computed from
 * the cells of their lines, and corrected when a block is shown.
 */
import { element, renderLine, wrappedRows } from './line.js';
import { BLOCK_LINES } from './lines.js';
import { createSelection } from './selection.js';

/** Beyond the edges of what is in sight, px: enough for a fast finger until the next frame. */
const OVERSCAN = 600;
/** Room below the last line, px. */
const BOTTOM_PAD = 8;

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
  /** Blocks may not be where they belong. */
  let isMoved = true;

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
    isMoved = true;
  };

  const rowsOf = (cells) => (layout.wrap && cells > layout.columns ? wrappedRows(cells, layout.columns) : 1);
  /** Rows of the first `count` lines of a block. */
  const rowsIn = ({ cells }, count) => {
    let rows = 0;
    for (let index = 0; index < count; index++) rows += rowsOf(cells[index]);
    return rows;
  };
  const heightOf = (block) => {
    if (block.heightVersion !== block.version || block.heightLayout !== layout.id) {
      block.heightVersion = block.version;
      block.heightLayout = layout.id;
      block.height = layout.lineHeight * rowsIn(block, block.count);
    }
    return block.height;
  };
  /** Gives every block its place: some thousand additions, where anything has changed. */
  const place = () => {
    if (!isMoved) return;
    isMoved = false;
    let top = topPad;
    for (const block of lines.blocks) {
      block.top = top;
      top += heightOf(block);
    }
    top += BOTTOM_PAD;
    sizer.style.height = `${top}px`;
    sizer.style.minWidth = layout.wrap ? '' : `calc(${Math.ceil(lines.widest * layout.cellWidth)}px + 2 * var(--side))`;
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
    const parsed = lines.parse(block);
    for (let index = shown.node.childElementCount; index < parsed.length; index++) {
      const line = parsed[index];
      const node = renderLine(line, line.note ? [] : ranges(line.text));
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

  const render = () => {
    const { blocks } = lines;
    const kept = selection.ends();
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
      if (layout.wrap) {
        for (const block of wanted) {
          const shown = rendered.get(block);
          if (shown.measured === block.version && shown.measuredLayout === layout.id) continue;
          shown.measured = block.version;
          shown.measuredLayout = layout.id;
          const { height } = shown.node.getBoundingClientRect();
          if (Math.abs(height - block.height) < 0.5) continue;
          if (block.top + block.height <= top) shift += height - block.height;
          block.height = height;
          isMoved = true;
        }
      }
      if (!isMoved) break;
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
    return block.top + layout.lineHeight * rowsIn(block, index);
  };
  /** The line at the upper edge. */
  const topLine = () => {
    const block = lines.blocks[blockAt(scroller.scrollTop)];
    let top = block.top;
    for (let index = 0; index < block.count; index++) {
      top += layout.lineHeight * rowsOf(block.cells[index]);
      if (top > scroller.scrollTop) return block.first + index;
    }
    return block.first;
  };
  const scrollToTop = (number) => {
    const top = lineTop(number);
    if (top !== undefined) scrollTo(top);
    render();
  };

  const selection = createSelection({ scroller, sizer, lines });

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
      isMoved = true;
      schedule();
    },
    /** All lines are others. */
    reset() {
      for (const { node } of rendered.values()) node.remove();
      rendered.clear();
      removedHeight = 0;
      isMoved = true;
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
      isMoved = true;
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
    selectedText: () => selection.text(),
    schedule,
  };
};
