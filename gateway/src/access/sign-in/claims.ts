/** From what a provider says of a visitor to who that is here. Pure. */
import { isOrganization } from '../../../../shared/src/identity/membership.ts';
import { MAX_USER_LENGTH } from '../tokens.ts';

/** Which claims say what; a name, or a path whose parts are separated by dots. */
export interface ClaimNames {
  readonly user: string;
  readonly name: string;
  readonly organizations: string;
}

export interface Identity {
  readonly user: string;
  /** For people to read; the user where the provider tells none. */
  readonly name: string;
  readonly organizations: readonly string[];
  /** How many organizations were left out, and why. */
  readonly ignored: { readonly unusable: number; readonly tooMany: number };
}

export type Claims = Readonly<Record<string, unknown>>;

/** Organizations of one visitor. They stand in a cookie of 4 KiB with all else. Beyond: the first ones count. */
export const MAX_ORGANIZATIONS = 64;
/** Characters of them all, for the same reason. Beyond: the first ones count. */
export const MAX_ORGANIZATIONS_LENGTH = 1_500;
/** Characters of a name. Beyond: cut. */
const MAX_NAME_LENGTH = 120;

/** The claim of that very name, which may have dots in it; else the one at the end of the path. */
export const readClaim = (claims: Claims, name: string): unknown => {
  if (Object.hasOwn(claims, name)) return claims[name];
  let value: unknown = claims;
  for (const part of name.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined;
    value = (value as Claims)[part];
  }
  return value;
};

/** Whether `claims` leave open what the configuration asks for, so that the provider has to be asked for more. */
export const lacksClaims = (claims: Claims, names: ClaimNames): boolean =>
  [names.user, names.organizations].some((name) => readClaim(claims, name) === undefined);

const readText = (value: unknown): string | undefined => {
  const text = typeof value === 'number' ? String(value) : value;
  return typeof text === 'string' && text.trim() !== '' ? text.trim() : undefined;
};

/** Arrays as they are; text is a list separated by spaces or commas. */
const readList = (value: unknown): string[] => {
  if (Array.isArray(value)) return value.filter((entry) => typeof entry === 'string');
  return typeof value === 'string' ? value.split(/[\s,]+/).filter(Boolean) : [];
};

export type ClaimFault = 'user_missing' | 'user_unusable' | 'email_unverified';

/** Control characters would end up in logs and tables. */
const UNPRINTABLE = /\p{Cc}/u;

export const readIdentity = (claims: Claims, names: ClaimNames): Identity | ClaimFault => {
  const user = readText(readClaim(claims, names.user));
  if (user === undefined) return 'user_missing';
  if (Buffer.byteLength(user) > MAX_USER_LENGTH || UNPRINTABLE.test(user)) return 'user_unusable';
  // Whoever may enter any address at the provider must not become somebody else here.
  if (names.user === 'email' && claims['email_verified'] === false) return 'email_unverified';

  const listed = [...new Set(readList(readClaim(claims, names.organizations)))];
  const usable = listed.filter(isOrganization);
  const organizations: string[] = [];
  let length = 0;
  for (const organization of usable.slice(0, MAX_ORGANIZATIONS)) {
    length += organization.length;
    if (length > MAX_ORGANIZATIONS_LENGTH) break;
    organizations.push(organization);
  }
  const name = readText(readClaim(claims, names.name));
  return {
    user,
    name: (name === undefined || UNPRINTABLE.test(name) ? user : name).slice(0, MAX_NAME_LENGTH),
    organizations,
    ignored: { unusable: listed.length - usable.length, tooMany: usable.length - organizations.length },
  };
};
