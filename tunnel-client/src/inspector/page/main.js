/** Puts the page together: who may see it, of which environment, and the events that keep it up to date. */
import { ask, follow, session } from './api.js';
import { createDetails } from './details.js';
import { byId, confirmed, el } from './dom.js';
import { createList } from './list.js';
import { askForToken } from './session.js';

/** How often it is asked which environments have requests, ms. Nothing is asked while nobody looks. */
const ENVIRONMENTS_INTERVAL_MS = 3_000;
/** Before the events are asked for again, ms. */
const RETRY_MS = 2_000;
/** Between two looks at a request that changes, ms. */
const DETAILS_INTERVAL_MS = 500;

let keptRequests = 0;
/** What the page is about, `#/environment/request`; both may be missing. */
let shown = { environment: undefined, id: undefined };
let following;
let environmentsTimer;
let detailsTimer;

const list = createList({ keep: () => keptRequests });
const details = createDetails({
  replay: async ({ environmentId, id }) => {
    const { id: replayId } = await ask(`/${environmentId}/requests/${id}/replay`, 'POST');
    location.hash = `#/${environmentId}/${replayId}`;
  },
});

const say = (text, kind) => {
  byId('live').textContent = text;
  byId('live').dataset.kind = kind;
};
const showGate = () => {
  following?.abort();
  clearTimeout(environmentsTimer);
  byId('app').hidden = true;
  byId('gate').hidden = false;
  list.reset();
  details.showNone();
  byId('token').focus();
};
const failed = ({ status, message, name }) => {
  if (name === 'AbortError') return;
  if (status === 401) {
    session.forget();
    return showGate();
  }
  say(status === 0 || status === undefined ? 'no answer' : message, 'stop');
};

const showDetails = async () => {
  clearTimeout(detailsTimer);
  detailsTimer = undefined;
  const { environment, id } = shown;
  list.select(id);
  byId('app').querySelector('main').dataset.view = id === undefined ? 'list' : 'details';
  if (id === undefined) return details.showNone();
  try {
    const view = await ask(`/${environment}/requests/${id}`);
    if (shown.id === id && shown.environment === environment) details.show(view);
  } catch (error) {
    if (shown.id !== id) return;
    if (error.status === 404) details.showMissing(environment);
    else failed(error);
  }
};

const followRequests = async (environment) => {
  following?.abort();
  const mine = new AbortController();
  following = mine;
  list.reset();
  while (!mine.signal.aborted) {
    try {
      await follow(environment, mine.signal, (changed) => {
        say('live', 'ok');
        list.merge(changed);
        if (!changed.some(({ id }) => id === shown.id)) return;
        detailsTimer ??= setTimeout(() => void showDetails(), DETAILS_INTERVAL_MS);
      });
      if (!mine.signal.aborted) say('no answer', 'stop');
    } catch (error) {
      if (!mine.signal.aborted) failed(error);
    }
    if (!session.hasKey()) return;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
};

const readAddress = () => {
  const [, environment, id] = /^#\/([a-z0-9-]+)(?:\/(\d+))?$/.exec(location.hash) ?? [];
  const isOther = environment !== undefined && environment !== shown.environment;
  shown = { environment: environment ?? shown.environment, id };
  byId('clear').disabled = shown.environment === undefined;
  if (isOther) {
    byId('environment').value = environment;
    void followRequests(environment);
  }
  void showDetails();
};

const showEnvironments = (environments) => {
  const select = byId('environment');
  const ids = environments.map(({ id }) => id);
  if (shown.environment !== undefined && !ids.includes(shown.environment)) ids.unshift(shown.environment);
  if (ids.join() !== [...select.options].map(({ value }) => value).join()) {
    select.replaceChildren(...ids.map((id) => el('option', { value: id }, id)));
    if (shown.environment !== undefined) select.value = shown.environment;
  }
  select.hidden = ids.length === 0;
  if (shown.environment === undefined && ids[0] !== undefined) location.hash = `#/${ids[0]}`;
};

const refreshEnvironments = async () => {
  clearTimeout(environmentsTimer);
  try {
    const answer = await ask('');
    keptRequests = answer.keptRequests;
    byId('gate').hidden = true;
    if (byId('app').hidden) {
      byId('app').hidden = false;
      say('live', 'ok');
      readAddress();
      if (shown.environment !== undefined && following?.signal.aborted) void followRequests(shown.environment);
    }
    showEnvironments(answer.environments);
  } catch (error) {
    failed(error);
    if (error.status === 401) return;
  }
  if (document.visibilityState === 'visible')
    environmentsTimer = setTimeout(() => void refreshEnvironments(), ENVIRONMENTS_INTERVAL_MS);
};

askForToken(session, { who: 'tunnel client', opened: refreshEnvironments });
byId('leave').addEventListener('click', () => {
  session.forget();
  showGate();
});
byId('clear').addEventListener('click', async () => {
  const { environment } = shown;
  if (!(await confirmed('Forget all requests?', `Those of ${environment} that are kept here are dropped.`, 'Forget')))
    return;
  try {
    await ask(`/${environment}/requests`, 'DELETE');
    list.reset();
    location.hash = `#/${environment}`;
  } catch (error) {
    failed(error);
  }
});
byId('environment').addEventListener('change', ({ target }) => {
  location.hash = `#/${target.value}`;
});
addEventListener('hashchange', readAddress);
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible' && session.hasKey()) void refreshEnvironments();
});

if (session.hasKey()) void refreshEnvironments();
else showGate();
