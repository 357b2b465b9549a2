/** The values of a field, joined as RFC 9110 section 5.3 joins lines; undefined where there is none. */
const joined = (rawHeaders: readonly string[], name: string): string | undefined => {
  const values = rawHeaders.filter((_, index) => index % 2 === 1 && rawHeaders[index - 1]!.toLowerCase() === name);
  return values.length === 0 ? undefined : values.join(', ');
};

/** Whether a browser shows the answer as a page (design section 8, errors). `rawHeaders` alternate name and value. */
export const isNavigation = (method: string, rawHeaders: readonly string[]): boolean => {
  const mode = joined(rawHeaders, 'sec-fetch-mode');
  if (mode !== undefined) return mode === 'navigate';
  return (
    (method === 'GET' || method === 'HEAD') &&
    /\btext\/html\b/i.test(joined(rawHeaders, 'accept') ?? '') &&
    joined(rawHeaders, 'origin') === undefined &&
    joined(rawHeaders, 'upgrade') === undefined &&
    joined(rawHeaders, 'x-requested-with') === undefined
  );
};
