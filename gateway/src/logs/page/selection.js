/** What the visitor has selected, which may begin and end in lines that are not in the document. */

export const createSelection = ({ scroller, sizer, lines }) => {
  let allSelected = false;

  /** Blocks in which the visitor's selection begins and ends stay, or it would be lost while scrolling. */
  const ends = () => {
    const selection = document.getSelection();
    if (!selection || selection.isCollapsed) return [];
    return [selection.anchorNode, selection.focusNode].map((node) =>
      (node instanceof Element ? node : node?.parentElement)?.closest('.block'),
    );
  };

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
  const text = () => {
    if (allSelected) return lines.text();
    const selection = document.getSelection();
    if (!selection || selection.isCollapsed) return undefined;
    const range = selection.getRangeAt(0);
    const from = pointOf(range.startContainer, range.startOffset);
    const to = pointOf(range.endContainer, range.endOffset);
    if (!from || !to) return undefined;
    const firstLine = lines.textAt(from.number);
    if (from.number === to.number) return firstLine.slice(from.character, to.character);
    const lastLine = lines.textAt(to.number);
    return `${firstLine.slice(from.character)}\n${lines.text(from.number + 1, to.number)}${lastLine.slice(0, to.character)}`;
  };
  const setAllSelected = (next) => {
    allSelected = next;
    scroller.classList.toggle('all', next);
  };
  document.addEventListener('copy', (event) => {
    if (event.target instanceof HTMLInputElement) return;
    const copied = text();
    if (copied === undefined) return;
    event.clipboardData.setData('text/plain', copied);
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

  return { ends, text };
};
