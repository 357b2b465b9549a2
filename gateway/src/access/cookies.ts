/** The gateway's own cookies: their values in a request, and the lines that set and delete them. Pure. */

/** The value of the cookie, and undefined also where it comes twice: one of the two is somebody else's. */
export const cookieOf = (rawHeaders: readonly string[], name: string): string | undefined => {
  const values = cookiesWith(rawHeaders, (candidate) => candidate === name);
  return values.length === 1 ? values[0]!.value : undefined;
};

/** All cookies whose name fits, in the order in which they came. */
export const cookiesWith = (
  rawHeaders: readonly string[],
  fits: (name: string) => boolean,
): { readonly name: string; readonly value: string }[] => {
  const found: { name: string; value: string }[] = [];
  for (let index = 0; index < rawHeaders.length; index += 2) {
    if (rawHeaders[index]!.toLowerCase() !== 'cookie') continue;
    for (const pair of rawHeaders[index + 1]!.split(';')) {
      const equals = pair.indexOf('=');
      if (equals < 0) continue;
      const name = pair.slice(0, equals).trim();
      if (fits(name)) found.push({ name, value: pair.slice(equals + 1).trim() });
    }
  }
  return found;
};

/** `__Host-` demands `Secure`, `Path=/` and no `Domain` (RFC 6265bis section 4.1.3.2). */
export const setCookie = (name: string, value: string, maxAgeMs: number): string =>
  `${name}=${value}; Max-Age=${Math.max(0, Math.floor(maxAgeMs / 1_000))}; Path=/; Secure; HttpOnly; SameSite=Lax`;

export const deleteCookie = (name: string): string => setCookie(name, '', 0);
