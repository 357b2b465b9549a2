/** Numbers of several rounds. */

export const median = (numbers: readonly number[]): number => quantile(numbers, 0.5);

/** Between the two nearest, in proportion. */
export const quantile = (numbers: readonly number[], part: number): number => {
  const sorted = numbers.toSorted((a, b) => a - b);
  const place = (sorted.length - 1) * part;
  const below = sorted[Math.floor(place)] ?? NaN;
  const above = sorted[Math.ceil(place)] ?? NaN;
  return below + (above - below) * (place - Math.floor(place));
};

/** From the smallest to the largest, in parts of the median. */
export const spread = (numbers: readonly number[]): number =>
  (Math.max(...numbers) - Math.min(...numbers)) / Math.abs(median(numbers));

export interface Ratio {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** Of the figures of the same rounds: what slows a whole round down falls out. Undefined without a common round. */
export const ratioOf = (
  numbers: readonly (number | undefined)[],
  others: readonly (number | undefined)[],
): Ratio | undefined => {
  const ratios = numbers.flatMap((number, round) => {
    const other = others[round];
    return number === undefined || other === undefined || other === 0 ? [] : [number / other];
  });
  if (ratios.length === 0) return undefined;
  return { median: median(ratios), min: Math.min(...ratios), max: Math.max(...ratios) };
};
