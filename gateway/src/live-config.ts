/**
 * What of the configuration is in force. A part that can use a change while it runs asks here whenever it needs a value,
 * and keeps none; what a part is made with stays as it is until the gateway is started again.
 */
import { isDeepStrictEqual } from 'node:util';
import type { GatewayConfig } from './config.ts';
import type { GatewayLimits } from './limits.ts';

/** Keys that are used at once. All others need a restart, and so do {@link RESTART_LIMITS}. */
const LIVE_KEYS = [
  'accessLog',
  'advertise',
  'cors',
  'drainDelayMs',
  'drainTimeoutMs',
  'everyonePorts',
  'logLevel',
  'name',
  'region',
  'signIn',
] as const satisfies readonly (keyof GatewayConfig)[];

/** Limits that servers and libraries are given when they are made. */
export const RESTART_LIMITS: ReadonlySet<keyof GatewayLimits> = new Set<keyof GatewayLimits>([
  'maxRequestHeaderBytes',
  'maxHeaderListBytes',
  'maxRequestHeaderFields',
  'headersTimeoutMs',
  'tlsHandshakeTimeoutMs',
  'keepAliveTimeoutMs',
  'requestsInFlightPerConnection',
  'upstreamPools',
  'maxCallbackBodyBytes',
  'helloTimeoutMs',
  'maxApiBodyBytes',
]);

export interface ConfigChange {
  /** Keys that are in force now, with their value where that is a word or a number. */
  readonly applied: readonly string[];
  /** Keys that differ from what is in force, and stay so. */
  readonly needsRestart: readonly string[];
}

export interface LiveConfig {
  current(): GatewayConfig;
  /** One object for as long as the gateway runs; its values change. */
  readonly limits: GatewayLimits;
  /** Puts in force what can be. */
  take(next: GatewayConfig): ConfigChange;
}

/** Keys as they stand in the file. */
const nameInFile = (key: string): string => key.replace(/^(drain\w+)Ms$/, '$1');

const describeValue = (value: unknown): string =>
  ['string', 'number', 'boolean'].includes(typeof value) ? ` ${String(value)}` : '';

export const createLiveConfig = (started: GatewayConfig): LiveConfig => {
  const limits: { -readonly [Name in keyof GatewayLimits]: number } = { ...started.limits };
  let current: GatewayConfig = { ...started, limits };

  const takeLimits = (next: GatewayLimits, change: { applied: string[]; needsRestart: string[] }): void => {
    for (const name of Object.keys(limits) as (keyof GatewayLimits)[]) {
      if (limits[name] === next[name]) continue;
      if (RESTART_LIMITS.has(name)) change.needsRestart.push(`limits.${name}`);
      else {
        limits[name] = next[name];
        change.applied.push(`limits.${name} ${next[name]}`);
      }
    }
  };

  const takeOrganizations = (next: GatewayConfig['organizations'], applied: string[]): void => {
    const before = current.organizations;
    for (const name of new Set([...Object.keys(before), ...Object.keys(next)])) {
      if (!isDeepStrictEqual(before[name], next[name])) applied.push(`organizations.${name}`);
    }
    current = { ...current, organizations: next };
  };

  return {
    current: () => current,
    limits,
    take(next) {
      const change = { applied: [] as string[], needsRestart: [] as string[] };
      takeLimits(next.limits, change);
      takeOrganizations(next.organizations, change.applied);
      const live = new Set<string>(LIVE_KEYS);
      // Sign-in that was not there at the start has no pages; nor can the pages be taken away.
      if ((current.signIn === undefined) !== (next.signIn === undefined)) live.delete('signIn');
      for (const key of Object.keys(next) as (keyof GatewayConfig)[]) {
        if (key === 'limits' || key === 'organizations' || isDeepStrictEqual(current[key], next[key])) continue;
        if (live.has(key)) {
          current = { ...current, [key]: next[key] };
          change.applied.push(`${nameInFile(key)}${describeValue(next[key])}`);
        } else change.needsRestart.push(nameInFile(key));
      }
      return change;
    },
  };
};
