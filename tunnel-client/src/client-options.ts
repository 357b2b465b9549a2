/** What a runner's tunnel client is told, and what is wrong with it before anything starts. */
import type { Clock } from '../../shared/src/clock.ts';
import { describeError } from '../../shared/src/errors.ts';
import { ID_RULE, isId } from '../../shared/src/hostname.ts';
import { type IdentityKey, parseKey } from '../../shared/src/identity/keys.ts';
import { parseCertificates } from './certificate-trust.ts';
import type { EnvironmentInput } from './environments.ts';
import { type GatewayUrl, parseGatewayUrl } from './gateway-url.ts';
import type { GivenMembership } from './given-membership.ts';
import type { Logger } from './logger.ts';
import type { ProxySettings } from './proxy-settings.ts';
import { TRANSPORT_CHOICES, type TransportChoice } from './transport.ts';

export interface RunnerOptions {
  /** `https://api.<domain>[:port]`. Of a list, the one that is connected to fastest when the runner joins, and kept. */
  readonly gateway: string | readonly string[];
  /** With a list: without a leg for so long, ms, the gateways are measured again. Absent: only when asked to. */
  readonly reselectAfterMs?: number;
  readonly runnerId: string;
  /** Needed once; afterwards the key in `stateDir` is enough. */
  readonly exchangeToken?: string;
  /** Keeps the key and the membership. */
  readonly stateDir: string;
  /** The private key of the runner, an Ed25519 JWK in JSON. Absent: kept in `stateDir`. */
  readonly key?: string;
  /** A membership that another authority has signed for the key, as a file that is followed or as it stands. */
  readonly membership?: GivenMembership;
  /** PEM of roots that are trusted beside those of the system. */
  readonly ca?: string;
  /** The HTTP proxy that gateways are reached through over TCP; of environment variables: {@link proxySettingsOf}. */
  readonly proxy?: ProxySettings;
  /** What legs are carried by; `auto`, the default: the best one that works. */
  readonly transport?: TransportChoice;
  readonly environments?: readonly EnvironmentInput[];
  /** `target`: URL of the runner's HTTP service, which gets `GET` and `POST /oauth/<scm>/callback`. */
  readonly oauth?: { readonly target: string };
  /** Keeps the last requests of each environment in memory, to be looked at. They are users' data: off by default. */
  readonly inspector?: boolean;
  /** Environment variables of log commands; absent: those of the process. */
  readonly commandVariables?: Readonly<Record<string, string | undefined>>;
  readonly logger?: Logger;
  readonly clock?: Clock;
  /** Program and version, for the operator's eyes. */
  readonly agent?: string;
  /** TCP ports on which the embedding program listens for itself: no environment is reached there on this machine. */
  readonly ownPorts?: () => readonly number[];
}

/** Throws RangeError. */
const checkCa = (pem: string): void => {
  try {
    parseCertificates(pem);
  } catch (error) {
    throw new RangeError(`the text given as \`ca\` ${describeError(error)}`, { cause: error });
  }
};

/** Throws RangeError. */
const parseOwnKey = (text: string): IdentityKey => {
  try {
    return parseKey(text);
  } catch (error) {
    throw new RangeError(`the text given as \`key\` is no key of a runner: ${describeError(error)}`, { cause: error });
  }
};

/** Throws RangeError. */
const parseGateways = (given: string | readonly string[]): readonly [GatewayUrl, ...GatewayUrl[]] => {
  const [first, ...others] = (typeof given === 'string' ? [given] : given).map(parseGatewayUrl);
  if (!first) throw new RangeError('`gateway` names no gateway');
  return [first, ...others];
};

/** Those of the options that have a form of their own. Throws RangeError. */
export const checkOptions = (
  options: RunnerOptions,
): { readonly urls: readonly [GatewayUrl, ...GatewayUrl[]]; readonly key: IdentityKey | undefined } => {
  const urls = parseGateways(options.gateway);
  if (!isId(options.runnerId)) throw new RangeError(`"${options.runnerId}" is not the id of a runner: ${ID_RULE}`);
  if (options.ca !== undefined) checkCa(options.ca);
  if (!TRANSPORT_CHOICES.includes(options.transport ?? 'auto')) {
    throw new RangeError(`"${options.transport}" is no transport: it is one of ${TRANSPORT_CHOICES.join(', ')}`);
  }
  return { urls, key: options.key === undefined ? undefined : parseOwnKey(options.key) };
};
