/** One request with its response. */
import { bodyPart, withRedactions } from './body.js';
import { byId, el } from './dom.js';
import { bytes, clockTime, duration, outcome } from './format.js';

const fieldsPart = (title, fields) =>
  el(
    'details.part',
    { open: true },
    el('summary', {}, title, el('small', {}, String(fields.length))),
    el(
      'dl.fields',
      {},
      ...fields.flatMap(([name, value]) => [el('dt.mono', {}, name), el('dd.mono', {}, ...withRedactions(value))]),
    ),
  );

const ENDS = {
  cut: 'The connection ended before the response was complete.',
  other: 'From here on it could not be read as HTTP; the bytes passed as they are.',
};

const facts = (view) => {
  const { text, kind } = outcome(view);
  const { answeredAfterMs, durationMs, interim, replayOf, environmentId } = view;
  return el(
    'div.facts',
    {},
    el(`span.status${kind === '' ? '' : `.${kind}`}`, {}, text),
    view.reason && el('span', {}, view.reason),
    el('span', {}, clockTime(view.at)),
    answeredAfterMs !== undefined && el('span', {}, `first byte after ${duration(answeredAfterMs)}`),
    el('span', {}, durationMs === undefined ? 'still open' : `${duration(durationMs)} in all`),
    view.version && el('span', {}, `HTTP/${view.version}, port ${view.port}`),
    interim.length > 0 && el('span', {}, `before it ${interim.join(', ')}`),
    view.noReplay !== undefined && el('span', {}, `cannot be sent again: ${view.noReplay}`),
    replayOf !== undefined && el('a', { href: `#/${environmentId}/${replayOf}` }, `again ${replayOf}`),
  );
};

const passedPart = ({ passed }) =>
  el(
    'section.part',
    {},
    el('div.head', {}, 'Afterwards', el('small', {}, `↑ ${bytes(passed.request)} ↓ ${bytes(passed.response)} passed`)),
  );

const page = (view, replay) => {
  const problem = el('p.note.stop', { hidden: true, role: 'alert' });
  const again = el(
    'button.primary',
    {
      type: 'button',
      disabled: view.noReplay !== undefined,
      onclick: async () => {
        again.disabled = true;
        try {
          await replay(view);
        } catch (error) {
          problem.textContent = error.message;
          problem.hidden = false;
        }
        again.disabled = false;
      },
    },
    'Send again',
  );
  const { request, response, state, note } = view;
  return [
    el('a.back', { href: `#/${view.environmentId}` }, '← All requests'),
    el(
      'div.title',
      {},
      el('h1', {}, el('b', {}, view.method ?? 'No HTTP'), el('code', {}, ...withRedactions(view.target ?? ''))),
      view.method !== undefined && again,
    ),
    facts(view),
    problem,
    ENDS[state] !== undefined && el('p.note', {}, note === undefined ? ENDS[state] : `${ENDS[state]} (${note})`),
    view.method !== undefined && fieldsPart('Request headers', request.headers),
    view.method !== undefined && bodyPart('Request body', request.body),
    view.status !== undefined && fieldsPart('Response headers', response.headers),
    view.status !== undefined && bodyPart('Response body', response.body),
    response.trailers.length > 0 && fieldsPart('Trailers', response.trailers),
    (state === 'upgraded' || state === 'other') && passedPart(view),
  ].filter(Boolean);
};

export const createDetails = ({ replay }) => {
  let shownId;
  return {
    show(view) {
      const place = byId('details');
      const { scrollTop } = place;
      const closed = new Set(
        [...place.querySelectorAll('details:not([open]) > summary')].map((each) => each.firstChild.data),
      );
      place.replaceChildren(...page(view, replay));
      for (const each of place.querySelectorAll('details')) {
        if (closed.has(each.firstChild.firstChild.data)) each.open = false;
      }
      // What is looked at stays where it is while the rest of a response comes.
      place.scrollTop = shownId === view.id ? scrollTop : 0;
      shownId = view.id;
    },
    showMissing(environment) {
      shownId = undefined;
      byId('details').replaceChildren(
        el('a.back', { href: `#/${environment}` }, '← All requests'),
        el('p.empty', {}, 'This request is no longer kept.'),
      );
    },
    showNone() {
      shownId = undefined;
      byId('details').replaceChildren(
        el(
          'p.empty',
          {},
          'Choose a request to see its headers and bodies. Secrets are left out, as far as they can be told by their names.',
        ),
      );
    },
  };
};
