/** Figures as people read them. */
export const count = (value) => value.toLocaleString('en');
export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? '' : 's'}`;

export const rate = (value) => (value >= 100 || value === 0 ? count(Math.round(value)) : value.toFixed(1));

const UNITS = ['B/s', 'kB/s', 'MB/s', 'GB/s'];
export const bytesPerSecond = (value) => {
  let unit = 0;
  let rest = value;
  while (rest >= 1_000 && unit < UNITS.length - 1) {
    rest /= 1_000;
    unit += 1;
  }
  return `${unit === 0 || rest >= 100 ? Math.round(rest) : rest.toFixed(1)} ${UNITS[unit]}`;
};

export const milliseconds = (value) => {
  if (value === undefined || value === null) return '–';
  if (value < 0.1) return '< 0.1 ms';
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
};

export const duration = (ms) => {
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3_600)} h`;
};

export const clockTime = (at) => new Date(at).toLocaleTimeString('en', { hour12: false });
export const dateTime = (at) =>
  new Date(at).toLocaleString('en', { hour12: false, dateStyle: 'medium', timeStyle: 'medium' });

const STATES = {
  online: 'Online',
  degraded: 'Degraded',
  offline: 'Offline',
  not_joined: 'Not joined',
  revoked: 'Revoked',
};
export const stateName = (state) => STATES[state];
