/** Figures as people read them. */
export const plural = (value, noun) => `${value.toLocaleString('en')} ${noun}${value === 1 ? '' : 's'}`;

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
export const bytes = (value) => {
  let unit = 0;
  let rest = value;
  while (rest >= 1_024 && unit < UNITS.length - 1) {
    rest /= 1_024;
    unit += 1;
  }
  return `${unit === 0 || rest >= 100 ? Math.round(rest) : rest.toFixed(1)} ${UNITS[unit]}`;
};

export const duration = (ms) => {
  if (ms < 1_000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1_000)} s`;
};

export const clockTime = (at) => new Date(at).toLocaleTimeString('en', { hour12: false });

/** Text and class of what became of a request. */
export const outcome = ({ state, status, durationMs, contentType = '' }) => {
  if (state === 'other') return { text: 'not HTTP', kind: '' };
  if (state === 'cut') return { text: status === undefined ? 'cut' : `${status} cut`, kind: 'server' };
  if (state === 'upgraded') return { text: durationMs === undefined ? '101 open' : '101', kind: 'moved' };
  if (status === undefined) return { text: '…', kind: '' };
  const kind = status < 300 ? 'ok' : status < 400 ? 'moved' : status < 500 ? 'client' : 'server';
  const isStream = state === 'open' && contentType.startsWith('text/event-stream');
  return { text: state === 'open' ? `${status} ${isStream ? 'stream' : '…'}` : String(status), kind };
};
