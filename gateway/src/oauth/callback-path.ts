/**
 * What a runner's host answers to: the end of a login, and nothing else.
 *
 *     callback = "/oauth/" scm "/callback"            https://<runner>.<domain>/oauth/github/callback?code=…&state=…
 *     scm      = [a-z0-9] [a-z0-9-]{0,31}
 *
 * Byte for byte, without percent-encoding: the URL is registered with a provider, who sends browsers to exactly that.
 * GET, or POST of a form (OAuth 2.0 Form Post Response Mode).
 */
import type { GatewayErrorCode } from '../errors.ts';
import { fieldValues } from '../proxy/headers.ts';

const CALLBACK = /^\/oauth\/[a-z0-9][a-z0-9-]{0,31}\/callback(?=\?|$)/;
const FORM = /^application\/x-www-form-urlencoded(?=\s*;|\s*$)/i;

/** The path of all callbacks, as Fastify's router writes it. */
export const CALLBACK_ROUTE = '/oauth/:scm/callback';

export interface CallbackHead {
  readonly method: string;
  /** In origin form, byte for byte. */
  readonly target: string;
  readonly rawHeaders: readonly string[];
}

/** Why this is no callback; undefined when it is one. */
export const refuseCallback = ({ method, target, rawHeaders }: CallbackHead): GatewayErrorCode | undefined => {
  if (!CALLBACK.test(target)) return 'not_found';
  if (method === 'GET') return undefined;
  if (method !== 'POST') return 'login_method_not_allowed';
  const types = fieldValues(rawHeaders, 'content-type');
  return types.length === 1 && FORM.test(types[0] ?? '') ? undefined : 'unsupported_media_type';
};
