/** The first page: figures, charts, and the table of runners. */
import { createChart, ratesOf } from './chart.js';
import { byId, el } from './dom.js';
import { bytesPerSecond, count, milliseconds, plural, rate, stateName } from './format.js';

/** Rows at first, and how many more each time. */
const ROWS = 100;

const bestRtt = (legs) => {
  const times = legs.map(({ rttMs }) => rttMs).filter((rtt) => rtt !== undefined);
  return times.length > 0 ? Math.min(...times) : undefined;
};

export const legChip = ({ transport, state, inspected }) =>
  el(
    `span.leg.${state}`,
    {
      title: [transport, state.replace('_', ' '), inspected ? 'TLS is inspected on the way' : '']
        .filter(Boolean)
        .join(', '),
    },
    transport,
    state === 'up' ? undefined : el('em', {}, state.replace('_', ' ')),
  );

export const createOverview = ({ refresh }) => {
  const charts = [
    createChart({
      title: 'Requests per second',
      format: rate,
      series: [{ name: 'requests', values: (r) => r.requests }],
    }),
    createChart({ title: 'Errors per second', format: rate, series: [{ name: 'errors', values: (r) => r.errors }] }),
    createChart({ title: 'Open streams', format: count, series: [{ name: 'streams', values: (r) => r.streams }] }),
    createChart({
      title: 'Throughput',
      format: bytesPerSecond,
      series: [
        { name: 'out', values: (r) => r.received },
        { name: 'in', values: (r) => r.sent },
      ],
    }),
  ];
  charts[1].node.classList.add('trouble');
  byId('charts').append(...charts.map(({ node }) => node));

  let limit = ROWS;
  let state = '';
  const buttons = new Map();
  const choose = (next) => () => {
    state = state === next ? '' : next;
    limit = ROWS;
    refresh();
  };
  for (const each of ['online', 'degraded', 'offline', 'not_joined', 'revoked']) {
    const button = el('button', { type: 'button', 'aria-pressed': 'false', onclick: choose(each) });
    buttons.set(each, button);
    byId('states').append(button);
  }
  byId('filter').addEventListener('input', () => {
    limit = ROWS;
    refresh();
  });
  byId('more').addEventListener('click', () => {
    limit += ROWS;
    refresh();
  });

  /** Bytes of each row at the last answer, for its throughput. */
  let before = { at: 0, bytes: new Map() };
  const throughputOf = ({ id, bytesSent, bytesReceived }, at) => {
    const last = before.bytes.get(id);
    if (last === undefined || at <= before.at) return '–';
    return bytesPerSecond((1_000 * Math.max(0, bytesSent + bytesReceived - last)) / (at - before.at));
  };

  const row = (runner, at) =>
    el(
      'tr',
      { 'data-id': runner.id },
      el(
        'td.name',
        {},
        el('a', { href: `#/runner/${encodeURIComponent(runner.id)}` }, runner.name),
        el('small', {}, [runner.organization, runner.id].filter(Boolean).join(' · ')),
      ),
      el('td', { 'data-label': 'State' }, el(`span.state.${runner.state}`, {}, stateName(runner.state))),
      el(
        'td',
        { 'data-label': 'Legs' },
        el('span', {}, ...(runner.legs.length > 0 ? runner.legs.map(legChip) : ['–'])),
      ),
      el('td', { 'data-label': 'RTT' }, milliseconds(bestRtt(runner.legs))),
      el(
        'td.environments',
        { 'data-label': 'Environments' },
        runner.environments === 0
          ? '–'
          : el(
              'span',
              {},
              ...runner.firstEnvironments.map(({ id, ports }) =>
                el(
                  'span.environment',
                  { title: id },
                  el('span.id', {}, id),
                  ports.length > 0 ? ` :${ports.join(' :')}` : '',
                ),
              ),
              runner.environments > runner.firstEnvironments.length
                ? `and ${count(runner.environments - runner.firstEnvironments.length)} more`
                : undefined,
            ),
      ),
      el('td.n', { 'data-label': 'Streams' }, count(runner.openStreams)),
      el('td.n', { 'data-label': 'Throughput' }, throughputOf(runner, at)),
    );

  return {
    path: () => `/dashboard/overview?${new URLSearchParams({ filter: byId('filter').value, state, limit })}`,
    show(data) {
      const at = data.samples.at(-1)?.[0] ?? 0;
      byId('who').textContent = data.gateway.domain;
      const total = Object.values(data.counts).reduce((sum, each) => sum + each, 0);
      const legs = Object.entries(data.legs).map(([transport, number]) => `${count(number)} ${transport}`);
      const legCount = Object.values(data.legs).reduce((sum, each) => sum + each, 0);
      byId('figures').replaceChildren(
        el(
          'div',
          {},
          el('strong', {}, count(data.counts.online + data.counts.degraded)),
          ` of ${plural(total, 'runner')} here`,
        ),
        el(
          'div',
          {},
          el('strong', {}, count(legCount)),
          ` ${legCount === 1 ? 'leg' : 'legs'}${legs.length > 0 ? `: ${legs.join(', ')}` : ''}`,
        ),
        el(
          'div',
          {},
          el('strong', {}, count(data.environments)),
          data.environments === 1 ? ' environment' : ' environments',
        ),
      );
      const rates = ratesOf(data.samples);
      for (const chart of charts) chart.update(rates);
      const errors = byId('errors');
      errors.hidden = data.errors.length === 0;
      errors.replaceChildren(
        el('span', {}, 'Answers of the gateway itself since its start:'),
        ...data.errors.map(([code, number]) => el('span.code', {}, code, el('b', {}, count(number)))),
      );
      for (const [each, button] of buttons) {
        button.textContent = `${stateName(each)} ${count(data.counts[each])}`;
        button.setAttribute('aria-pressed', String(state === each));
      }
      byId('found').textContent =
        data.found === 0
          ? total === 0
            ? 'No runners yet. Make one: gateway runner create --name …'
            : 'No runner fits.'
          : data.found > data.rows.length
            ? `${count(data.rows.length)} of ${plural(data.found, 'runner')}`
            : plural(data.found, 'runner');
      byId('runners').hidden = data.found === 0;
      byId('more').hidden = data.found <= data.rows.length || data.rows.length < limit;
      const body = byId('runners').tBodies[0];
      // A link that has the focus keeps it: its row is filled anew.
      const focused = document.activeElement?.closest?.('tr')?.dataset.id;
      body.replaceChildren(...data.rows.map((runner) => row(runner, at)));
      if (focused !== undefined)
        [...body.rows]
          .find(({ dataset }) => dataset.id === focused)
          ?.querySelector('a')
          .focus();
      before = {
        at,
        bytes: new Map(data.rows.map(({ id, bytesSent, bytesReceived }) => [id, bytesSent + bytesReceived])),
      };
    },
  };
};
