/** A line chart over the samples: SVG, its newest value as a figure, and the value under the pointer. */
import { el } from './dom.js';
import { clockTime } from './format.js';

const NS = 'http://www.w3.org/2000/svg';
const WIDTH = 300;
const HEIGHT = 72;
/** Room for half the width of the line, px. */
const MARGIN = 2;

const svg = (name, attributes) => {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

/** A round number at or above the highest value, so that the scale does not change with each sample. */
const ceiling = (value) => {
  if (value <= 1) return 1;
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * step).find((bound) => bound >= value);
};

/** `series`: one or two, each with `name` and `values(samples)`, a number for each of `times`. */
export const createChart = ({ title, format, series }) => {
  const figure = el('strong');
  const note = el('small');
  const picture = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  const area = svg('path', { class: 'area' });
  const lines = series.map((_, index) => svg('path', { class: `s${index}`, 'vector-effect': 'non-scaling-stroke' }));
  const cursor = svg('path', { class: 'cursor', 'vector-effect': 'non-scaling-stroke' });
  picture.append(area, ...lines, cursor);
  const node = el('figure.chart', {}, el('figcaption', {}, title), figure, note, picture);

  let times = [];
  let values = series.map(() => []);
  let pointed;
  const write = () => {
    const index = pointed === undefined ? times.length - 1 : Math.round(pointed * (times.length - 1));
    if (index < 0) return;
    figure.textContent = format(values[0][index]);
    const others = series.slice(1).map(({ name }, other) => `${name} ${format(values[other + 1][index])}`);
    const first = series.length > 1 ? [series[0].name] : [];
    const when = pointed === undefined ? [] : [clockTime(times[index])];
    note.textContent = [...first, ...others, ...when].join(' · ');
    const x = (WIDTH * index) / Math.max(1, times.length - 1);
    cursor.setAttribute('d', pointed === undefined ? '' : `M${x} 0V${HEIGHT}`);
  };
  picture.addEventListener('pointermove', (event) => {
    const { left, width } = picture.getBoundingClientRect();
    pointed = Math.min(1, Math.max(0, (event.clientX - left) / width));
    write();
  });
  picture.addEventListener('pointerleave', () => {
    pointed = undefined;
    write();
  });

  return {
    node,
    update(data) {
      times = data.times;
      values = series.map((each) => each.values(data));
      const top = ceiling(Math.max(0, ...values.flat()));
      const path = (numbers) =>
        numbers
          .map((value, index) => {
            const x = (WIDTH * index) / Math.max(1, numbers.length - 1);
            const y = HEIGHT - MARGIN - ((HEIGHT - 2 * MARGIN) * value) / top;
            return `${index === 0 ? 'M' : 'L'}${x.toFixed(1)} ${y.toFixed(1)}`;
          })
          .join('');
      lines.forEach((line, index) => line.setAttribute('d', path(values[index])));
      area.setAttribute('d', values[0].length > 1 ? `${path(values[0])}L${WIDTH} ${HEIGHT}L0 ${HEIGHT}Z` : '');
      const latest = series.map(({ name }, index) => `${name} ${format(values[index].at(-1) ?? 0)}`).join(', ');
      node.setAttribute('aria-label', `${title}: ${latest}`);
      write();
    },
  };
};

/** Differences of the counters between samples, a second. */
export const ratesOf = (samples) => {
  const steps = samples.slice(1).map((sample, index) => [sample, samples[index]]);
  const perSecond = (field) =>
    steps.map(([now, before]) => (1_000 * Math.max(0, now[field] - before[field])) / Math.max(1, now[0] - before[0]));
  return {
    times: steps.map(([now]) => now[0]),
    requests: perSecond(1),
    errors: perSecond(2),
    streams: steps.map(([now]) => now[3]),
    sent: perSecond(4),
    received: perSecond(5),
  };
};
