/** The page of one runner: what it is, its legs, its environments, and what happened to it. */
import { byId, confirmed, el } from './dom.js';
import { bytesPerSecond, count, dateTime, duration, milliseconds, plural, stateName } from './format.js';
import { legChip } from './overview.js';
import { ask } from './api.js';

const table = (heads, rows) =>
  el(
    'table',
    {},
    el('thead', {}, el('tr', {}, ...heads.map((head) => el('th', {}, head)))),
    el(
      'tbody',
      {},
      ...rows.map((cells) =>
        el(
          'tr',
          {},
          ...cells.map((cell, index) => el(index === 0 ? 'td.name' : 'td', { 'data-label': heads[index] }, cell)),
        ),
      ),
    ),
  );

const part = (title, empty, heads, rows) =>
  el('section.part', {}, el('h2', {}, title), rows.length > 0 ? table(heads, rows) : el('p.empty', {}, empty));

export const createRunnerPage = ({ refresh, failed }) => {
  /** Bytes of each leg at the last answer. */
  let before = { at: 0, bytes: new Map() };

  const act = async (path, body) => {
    try {
      await ask(path, body);
    } catch (error) {
      failed(error);
    }
    refresh();
  };
  const revoke = async ({ id, name }) => {
    const text = 'Its legs are cut now and it is refused from now on, until it joins with a new exchange token.';
    if (await confirmed(`Revoke ${name}?`, text, 'Revoke')) await act('/dashboard/revoke', { runnerId: id });
  };
  const block = async ({ id, blocked }) => {
    const text = `No port of ${id} is served from now on; what is open is cut.`;
    if (blocked || (await confirmed('Block this environment?', text, 'Block'))) {
      await act('/dashboard/block', { environmentId: id, blocked: !blocked });
    }
  };

  const legRow = (leg, now) => {
    const bytes = leg.bytesSent + leg.bytesReceived;
    const last = before.bytes.get(leg.legId);
    const speed =
      last === undefined || now <= before.at ? '–' : bytesPerSecond((1_000 * (bytes - last)) / (now - before.at));
    return [
      el('span', {}, legChip(leg), el('small', {}, `${leg.remoteAddress} · ${leg.agent}`)),
      milliseconds(leg.rttMs),
      duration(leg.upForMs),
      count(leg.openStreams),
      speed,
    ];
  };
  const environmentRow = (environment) => [
    el(
      'span',
      {},
      environment.id,
      environment.blocked ? el('span.state.revoked', {}, 'Blocked') : undefined,
      environment.online ? undefined : el('span.state.offline', {}, 'Offline'),
    ),
    el(
      'span',
      {},
      ...environment.ports.map(({ port, protocol, admission }) =>
        el('span.port', {}, String(port), el('small', {}, ` ${protocol}, ${admission}`)),
      ),
    ),
    el(
      'button',
      { type: 'button', class: environment.blocked ? '' : 'danger', onclick: () => void block(environment) },
      environment.blocked ? 'Unblock' : 'Block',
    ),
  ];

  return {
    path: (id) => `/dashboard/runner?id=${encodeURIComponent(id)}`,
    show({ runner, legs, environments, events }) {
      const now = Date.now();
      const facts = [
        runner.organization && `organization ${runner.organization}`,
        runner.issuer && `of ${runner.issuer}`,
        runner.joinedAt ? `joined ${dateTime(runner.joinedAt)}` : `created ${dateTime(runner.createdAt)}`,
        runner.revokedAt && `revoked ${dateTime(runner.revokedAt)}`,
      ].filter(Boolean);
      const focused = document.activeElement?.tagName === 'BUTTON' ? document.activeElement.textContent : undefined;
      byId('runner').replaceChildren(
        el('a.back', { href: '#/' }, '← All runners'),
        el(
          'div.title',
          {},
          el('h1', {}, runner.name),
          el(`span.state.${runner.state}`, {}, stateName(runner.state)),
          runner.state === 'revoked'
            ? undefined
            : el('button.danger', { type: 'button', onclick: () => void revoke(runner) }, 'Revoke runner'),
        ),
        el('p.facts', {}, el('code', {}, runner.id), ...facts.map((fact) => el('span', {}, fact))),
        part(
          plural(legs.length, 'leg'),
          'It has no leg to this gateway.',
          ['Leg', 'RTT', 'Up for', 'Streams', 'Throughput'],
          legs.map((leg) => legRow(leg, now)),
        ),
        part(
          plural(environments.length, 'environment'),
          'It has announced none.',
          ['Environment', 'Ports', ''],
          environments.map(environmentRow),
        ),
        el(
          'section.part',
          {},
          el('h2', {}, 'Events'),
          events.length === 0 ? el('p.empty', {}, 'None since the gateway started.') : undefined,
          el(
            'ol.events',
            {},
            ...events.map(({ at, level, text }) =>
              el(`li.${level}`, {}, el('time', {}, dateTime(at)), el('span', {}, text)),
            ),
          ),
        ),
      );
      if (focused === 'Revoke runner') byId('runner').querySelector('.title button')?.focus();
      before = { at: now, bytes: new Map(legs.map((leg) => [leg.legId, leg.bytesSent + leg.bytesReceived])) };
    },
    showMissing: () =>
      byId('runner').replaceChildren(
        el('a.back', { href: '#/' }, '← All runners'),
        el('p.empty', {}, 'There is no such runner.'),
      ),
  };
};
