/** Durations and sizes as people write them in configuration. */

const MS_PER_UNIT = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
const BYTES_PER_UNIT = { B: 1, KiB: 1 << 10, MiB: 1 << 20, GiB: 1 << 30 } as const;

export const DURATION_RULE = 'a duration is a number and a unit: 500ms, 30s, 5m, 1h, 1m30s';
export const SIZE_RULE = 'a size is a number and a unit: 512B, 16KiB, 4MiB';

/** ms, or undefined when `text` is no duration. `0` needs no unit. */
export const parseDuration = (text: string): number | undefined => {
  if (text === '0') return 0;
  if (!/^(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+$/.test(text)) return undefined;
  let sum = 0;
  for (const [, count, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g)) {
    sum += Number(count) * MS_PER_UNIT[unit as keyof typeof MS_PER_UNIT];
  }
  return Math.round(sum);
};

/** Bytes, or undefined when `text` is no size. */
export const parseSize = (text: string): number | undefined => {
  const match = /^(\d+)(B|KiB|MiB|GiB)$/.exec(text);
  return match ? Number(match[1]) * BYTES_PER_UNIT[match[2] as keyof typeof BYTES_PER_UNIT] : undefined;
};
