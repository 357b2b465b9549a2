import { createHash, randomBytes } from 'node:crypto';

/** 256 bits that nobody guesses, in 43 characters that stand in URLs and cookies as they are. */
export const randomValue = (): string => randomBytes(32).toString('base64url');

export const isRandomValue = (text: string): boolean => /^[\w-]{43}$/.test(text);

/** SHA-256 of a random value, in the same form. */
export const hashOf = (value: string): string => createHash('sha256').update(value).digest('base64url');
