/** Puts the page together: who may see it, which page is shown, and the answers that keep it up to date. */
import { byId } from './dom.js';
import { createOverview } from './overview.js';
import { createRunnerPage } from './runner.js';
import { ask, session } from './api.js';
import { askForToken } from './session.js';

/** Between an answer and the next question, ms. Nothing is asked while nobody looks. */
const INTERVAL_MS = 2_000;

let timer;
/** Answers to questions that are no longer the page's are dropped. */
let question = 0;

const say = (text, kind) => {
  byId('live').textContent = text;
  byId('live').dataset.kind = kind;
};
const showGate = () => {
  byId('app').hidden = true;
  byId('gate').hidden = false;
  byId('token').focus();
};
const failed = ({ status }) => {
  if (status === 401) {
    session.forget();
    return showGate();
  }
  say(status === 0 ? 'no answer' : `error ${status}`, 'stop');
};

const runnerOfAddress = () => {
  const [, id] = /^#\/runner\/(.+)$/.exec(location.hash) ?? [];
  return id === undefined ? undefined : decodeURIComponent(id);
};

const refresh = async () => {
  clearTimeout(timer);
  const mine = ++question;
  const id = runnerOfAddress();
  try {
    const data = await ask(id === undefined ? overview.path() : runnerPage.path(id));
    if (mine !== question) return;
    byId('gate').hidden = true;
    byId('app').hidden = false;
    if (id === undefined) overview.show(data);
    else runnerPage.show(data);
    say('live', 'ok');
  } catch (error) {
    if (mine !== question) return;
    if (error.status === undefined) throw error;
    if (error.status === 404 && id !== undefined) runnerPage.showMissing();
    else failed(error);
    if (error.status === 401) return;
  }
  byId('overview').hidden = id !== undefined;
  byId('runner').hidden = id === undefined;
  if (document.visibilityState === 'visible') timer = setTimeout(() => void refresh(), INTERVAL_MS);
};

const overview = createOverview({ refresh: () => void refresh() });
const runnerPage = createRunnerPage({ refresh: () => void refresh(), failed });

askForToken(session, { who: 'gateway', opened: refresh });
byId('leave').addEventListener('click', () => {
  clearTimeout(timer);
  question += 1;
  session.forget();
  showGate();
});
addEventListener('hashchange', () => void refresh());
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible' && session.hasKey()) void refresh();
});

if (session.hasKey()) void refresh();
else showGate();
