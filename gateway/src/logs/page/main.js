/** Puts the viewer together: the page that asks for a token, the toolbar, and what the stream says. */
import { createLines, MAX_LINES } from './lines.js';
import { createSearch } from './search.js';
import { currentSession, openSession, takeTokenOfAddress } from './session.js';
import { createStream } from './stream.js';
import { createView } from './view.js';

/** Lines that are asked for at first: a screenful of history and fast to show. */
const FIRST_LINES = 1_000;
/** Height of the notice above the first line, px. */
const EARLIER_HEIGHT = 48;
/** For how long a button says that it has done its work, ms. */
const DONE_MS = 1_600;

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId('data').dataset.page);
const number = (value) => value.toLocaleString('en');
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? '' : 's'}`;

const startViewer = (session) => {
  const parameters = new URLSearchParams(location.search);
  const asked = Number(parameters.get('tail'));
  let tail = Number.isInteger(asked) && asked > 0 ? Math.min(asked, MAX_LINES) : FIRST_LINES;

  const scroller = byId('log');
  const sizer = byId('lines');
  const lines = createLines();
  const search = { current: undefined };
  let state = 'connecting';
  let message = '';
  /** Lines that came while following was paused. */
  let unseen = 0;
  /** Event id of the first line; going back to it after earlier ones were loaded. */
  let firstId;
  let anchorId;
  let anchorLine;
  let hasEarlier = false;
  let isFirstLine = true;

  const view = createView({
    scroller,
    sizer,
    lines,
    ranges: (text) => search.current?.ranges(text) ?? [],
    onFollow(isFollowing) {
      if (isFollowing) unseen = 0;
      showState();
    },
  });
  search.current = createSearch({
    lines,
    view,
    onChange({ count, current, isDone, isActive }) {
      byId('count').textContent = !isActive
        ? ''
        : current >= 0
          ? `${number(current + 1)}/${number(count)}`
          : number(count);
      byId('count').title = isActive ? `${plural(count, 'line')} found` : '';
      const isEmpty = isActive && isDone && count === 0;
      byId('search').classList.toggle('none', isEmpty);
      byId('previous').disabled = byId('next').disabled = count === 0;
    },
  });

  const STATES = {
    connecting: 'Connecting',
    waiting: 'Reconnecting',
    ended: 'Ended',
    failed: 'Stopped',
    signedOut: 'Signed out',
  };
  const showState = () => {
    const isPaused = state === 'live' && !view.following;
    const pill = byId('state');
    pill.dataset.state = isPaused ? 'paused' : state;
    pill.textContent = isPaused ? 'Paused' : (STATES[state] ?? 'Live');
    const newest = byId('newest');
    newest.hidden = view.following;
    newest.querySelector('span').textContent = unseen > 0 ? plural(unseen, 'new line') : 'Newest';
    byId('empty').hidden = lines.count > 0 || state === 'failed' || state === 'signedOut';
    byId('empty').textContent =
      state === 'live' ? 'Nothing has been logged yet.' : state === 'ended' ? 'The log is empty.' : '';
    const bar = byId('bar');
    bar.hidden = !['waiting', 'ended', 'failed', 'signedOut'].includes(state) || (state === 'waiting' && !message);
    byId('message').textContent =
      state === 'signedOut'
        ? 'The token has expired. What was read stays here; to go on, open the log with a new token.'
        : state === 'ended'
          ? 'The log server has ended the log.'
          : message;
    byId('again').textContent = state === 'signedOut' ? 'Enter a token' : state === 'ended' ? 'Read again' : 'Try now';
    document.title = `${isPaused && unseen > 0 ? `(${number(unseen)}) ` : ''}${session.environment} log`;
  };
  const showEarlier = () => {
    const isTrimmed = lines.first > 0;
    byId('earlier').hidden = !hasEarlier && !isTrimmed;
    byId('more').hidden = isTrimmed || tail >= MAX_LINES;
    byId('earlier-text').textContent = isTrimmed
      ? `Only the last ${number(MAX_LINES)} lines are kept here.`
      : `Earlier lines are not shown.`;
    view.setTopPad(byId('earlier').hidden ? 0 : EARLIER_HEIGHT);
  };

  /** Whether the log begins before `offset`. Only the built-in log server says where it does. */
  const lookForEarlier = async (offset) => {
    if (session.source !== 'builtin' || !offset) return;
    const answer = await fetch('/logs', { method: 'HEAD', cache: 'no-store' }).catch(() => undefined);
    const start = answer?.ok ? answer.headers.get('Log-Offset') : null;
    hasEarlier = start !== null && Number(start) < offset;
    showEarlier();
  };

  const stream = createStream({
    source: session.source,
    parameters,
    on: {
      begin({ offset, isContinued }) {
        if (isContinued) return;
        isFirstLine = true;
        unseen = 0;
        hasEarlier = false;
        void lookForEarlier(offset);
        lines.clear();
        view.reset();
        search.current.reset();
      },
      line(text, id) {
        lines.add(text);
        if (!view.following) unseen += 1;
        if (isFirstLine) firstId = id;
        isFirstLine = false;
        if (anchorId !== undefined && id === anchorId) {
          anchorId = undefined;
          anchorLine = lines.end - 1;
        }
      },
      note(text) {
        lines.addNote(text);
      },
      batch() {
        view.appended();
        search.current.grown();
        showEarlier();
        if (anchorLine !== undefined) {
          view.scrollToLine(anchorLine);
          anchorLine = undefined;
          unseen = 0;
          scroller.classList.remove('loading');
        }
        showState();
      },
      state(next, text = '') {
        state = next;
        message = text;
        if (next !== 'live' && next !== 'connecting') scroller.classList.remove('loading');
        showState();
      },
    },
  });

  // ---- toolbar

  const flash = (button, text) => {
    const label = button.querySelector('span');
    const before = button.dataset.label ?? label.textContent;
    button.dataset.label = before;
    label.textContent = text;
    button.classList.add('done');
    setTimeout(() => {
      label.textContent = before;
      button.classList.remove('done');
    }, DONE_MS);
  };
  const togglePause = () => (view.following ? view.pause() : view.follow());
  const setWrap = (wrap) => {
    view.setWrap(wrap);
    byId('wrap').setAttribute('aria-pressed', String(wrap));
    try {
      localStorage.setItem('gitpod-log-wrap', String(wrap));
    } catch {
      // Storage may be forbidden; the choice then lasts as long as the page.
    }
  };
  byId('state').addEventListener('click', () => {
    if (state === 'live') togglePause();
  });
  byId('newest').addEventListener('click', () => view.follow());
  byId('wrap').addEventListener('click', () => setWrap(!view.wrap));
  byId('copy').addEventListener('click', async () => {
    const selected = view.selectedText();
    const text = selected ?? lines.text();
    try {
      await navigator.clipboard.writeText(text);
      flash(byId('copy'), selected === undefined ? 'Copied all' : 'Copied');
    } catch {
      flash(byId('copy'), 'Not allowed');
    }
  });
  byId('download').addEventListener('click', () => {
    const link = document.createElement('a');
    link.download = `${session.environment}.log`;
    // The built-in log server gives the whole log; another one may never end, so that what is here is given.
    link.href =
      session.source === 'builtin'
        ? '/_gitpod/logs-download'
        : URL.createObjectURL(new Blob([lines.text()], { type: 'text/plain' }));
    link.click();
    if (session.source !== 'builtin') setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
  byId('more').addEventListener('click', () => {
    tail = MAX_LINES;
    anchorId = firstId;
    view.pause();
    scroller.classList.add('loading');
    stream.start(tail);
  });
  byId('again').addEventListener('click', () => {
    if (state === 'signedOut') location.reload();
    else stream.retry(tail);
  });

  const input = byId('query');
  const { current: find } = search;
  input.addEventListener('input', () => find.set(input.value));
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') {
      event.preventDefault();
      if (event.shiftKey) find.next();
      else find.previous();
    } else if (event.key === 'Escape') {
      input.value = '';
      find.set('');
      scroller.focus({ preventScroll: true });
    }
  });
  byId('previous').addEventListener('click', () => find.previous());
  byId('next').addEventListener('click', () => find.next());
  document.addEventListener('keydown', (event) => {
    const isTyping = event.target === input;
    const isFind = (event.ctrlKey || event.metaKey) && event.key === 'f';
    if (isFind || (event.key === '/' && !isTyping && !event.ctrlKey && !event.metaKey)) {
      // The browser's own search would see only the lines that are in the document.
      event.preventDefault();
      input.focus();
      input.select();
    }
  });

  let wrap = true;
  try {
    wrap = localStorage.getItem('gitpod-log-wrap') !== 'false';
  } catch {
    // As above.
  }
  byId('environment').textContent = session.environment;
  byId('environment').title = session.environment;
  byId('gate').hidden = true;
  byId('viewer').hidden = false;
  document.body.dataset.page = 'viewer';
  setWrap(wrap);
  showState();
  // So that keys scroll at once; a ring is for who comes here by key.
  scroller.dataset.quiet = '';
  scroller.focus({ preventScroll: true });
  scroller.addEventListener('blur', () => delete scroller.dataset.quiet, { once: true });
  stream.start(tail);
};

const showGate = (problem) => {
  const form = byId('form');
  const token = byId('token');
  byId('gate').hidden = false;
  byId('gate-environment').textContent = data.environment;
  byId('command').textContent = `gateway token create --scope logs --environment ${data.environment}`;
  document.title = `${data.environment} log`;
  const show = (text) => {
    byId('problem').textContent = text;
    byId('problem').hidden = text === '';
    token.setAttribute('aria-invalid', String(text !== ''));
  };
  show(problem);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    // People paste the whole link, or the whole header.
    const pasted = token.value
      .trim()
      .replace(/^.*#token=/, '')
      .replace(/^(?:authorization:\s*)?bearer\s+/i, '');
    if (pasted === '') return token.focus();
    byId('open').disabled = true;
    const { session, message } = await openSession(pasted);
    byId('open').disabled = false;
    token.value = '';
    if (session) return startViewer(session);
    show(message);
    token.focus();
  });
  token.focus();
};

const main = async () => {
  const token = takeTokenOfAddress();
  if (token !== undefined) {
    const { session, message } = await openSession(token);
    return session ? startViewer(session) : showGate(message);
  }
  if (data.session) return startViewer(data.session);
  // A link from another site comes without the cookie, which the page itself may still have.
  const { session } = await currentSession();
  return session ? startViewer(session) : showGate('');
};
void main();
