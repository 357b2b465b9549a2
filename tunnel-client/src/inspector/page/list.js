/** The list of requests: a row each, newest first, kept from one change to the next. */
import { byId, el } from './dom.js';
import { bytes, clockTime, duration, outcome, plural } from './format.js';

const haystack = ({ id, method, target, status, contentType, state, port }) =>
  `${id} ${method ?? ''} ${target ?? ''} ${status ?? ''} ${contentType ?? ''} ${state} ${port}`.toLowerCase();

const createRow = () => {
  const method = el('span.method');
  const path = el('span.path.mono');
  const status = el('span.status');
  const more = el('span.more');
  const link = el('a', {}, method, path, status, more);
  const node = el('li', {}, link);
  return {
    node,
    update(request) {
      const { text, kind } = outcome(request);
      link.href = `#/${request.environmentId}/${request.id}`;
      method.textContent = request.method ?? '–';
      path.textContent = request.target ?? 'bytes that are no HTTP';
      path.title = request.target ?? '';
      status.textContent = text;
      status.className = `status ${kind}`;
      more.replaceChildren(
        el('span', {}, clockTime(request.at)),
        el('span', {}, request.durationMs === undefined ? 'open' : duration(request.durationMs)),
        el(
          'span',
          { title: 'Request and response' },
          `↑ ${bytes(request.requestBytes)} ↓ ${bytes(request.responseBytes)}`,
        ),
        el('span', {}, `:${request.port}`),
        ...(request.replayOf === undefined ? [] : [el('span.again', {}, `again ${request.replayOf}`)]),
      );
    },
    select(isSelected) {
      link.setAttribute('aria-current', isSelected);
    },
  };
};

export const createList = ({ keep }) => {
  /** By id, newest first. */
  let requests = [];
  const rows = new Map();
  let selected;
  let isPlanned = false;

  const render = () => {
    isPlanned = false;
    const words = byId('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = requests.filter((request) => {
      const text = haystack(request);
      return words.every((word) => text.includes(word));
    });
    const nodes = shown.map((request) => {
      let row = rows.get(request.id);
      if (!row) rows.set(request.id, (row = createRow()));
      row.update(request);
      row.select(request.id === selected);
      return row.node;
    });
    const list = byId('rows');
    // Only what has moved is moved: a row keeps the focus.
    nodes.forEach((node, index) => {
      if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
    });
    while (list.children.length > nodes.length) list.lastElementChild.remove();
    const older = requests.length >= keep() ? ', older ones are gone' : '';
    byId('found').textContent =
      requests.length === 0
        ? 'No requests yet. Open a port of an environment: what passes appears here.'
        : words.length > 0
          ? `${shown.length} of ${plural(requests.length, 'request')}`
          : `${plural(requests.length, 'request')}${older}`;
  };
  const plan = () => {
    if (isPlanned) return;
    isPlanned = true;
    requestAnimationFrame(render);
  };
  byId('filter').addEventListener('input', plan);
  plan();

  return {
    merge(changed) {
      const byIdentity = new Map(requests.map((request) => [request.id, request]));
      for (const request of changed) byIdentity.set(request.id, request);
      requests = [...byIdentity.values()].sort((a, b) => Number(b.id) - Number(a.id)).slice(0, keep());
      for (const id of rows.keys()) if (!byIdentity.has(id)) rows.delete(id);
      plan();
    },
    reset() {
      requests = [];
      rows.clear();
      plan();
    },
    select(id) {
      selected = id;
      plan();
    },
    newest: () => requests[0]?.id,
  };
};
