/**
 * Which of several gateways a runner belongs to, where `gateway` is a list: the one that is connected to fastest when
 * the runner joins. It is kept, because its domain is part of every URL, and measured again only when asked to.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { createBackoff, RECONNECT_BACKOFF } from '../../shared/src/backoff.ts';
import { type Clock, delay } from '../../shared/src/clock.ts';
import { describeError } from '../../shared/src/errors.ts';
import { writeSecretFile } from '../../shared/src/identity/secret-file.ts';
import { UnreachableError } from './api-client.ts';
import type { GatewayUrl } from './gateway-url.ts';
import type { Outbound } from './outbound.ts';

/** Connections to each gateway; the fastest counts. */
const TRIES = 3;
/** Until a connection counts as failed, ms: a SYN that is lost is repeated after 1 and 3 s. */
const TRY_TIMEOUT_MS = 5_000;
const FILE = 'gateway.json';

export interface GatewayMeasurement {
  /** `https://api.<domain>[:port]`. */
  readonly gateway: string;
  /** Until TLS was up, ms, the fastest of three; undefined: it was not reached. */
  readonly connectMs: number | undefined;
  /** What the last try said. */
  readonly problem: string | undefined;
}

const storedSchema = z.object({
  version: z.literal(1),
  gateway: z.string(),
  /** ms since the epoch. */
  chosenAt: z.number(),
  measurements: z.array(
    z.object({ gateway: z.string(), connectMs: z.number().optional(), problem: z.string().optional() }),
  ),
});

export interface GatewaySelection {
  /** Undefined until it is chosen. */
  current(): GatewayUrl | undefined;
  /** Of the last time, in the order of the configuration; empty where there is one gateway, which is not measured. */
  measurements(): readonly GatewayMeasurement[];
  /** The one that is kept; without one, the fastest, tried until one answers. Rejects with the signal's reason. */
  choose(options: { signal: AbortSignal }): Promise<GatewayUrl>;
  /** Measures again, and keeps the fastest; nothing where there is one. Rejects with UnreachableError when none answers. */
  reselect(options: { signal: AbortSignal }): Promise<GatewayUrl>;
  /** Keeps this one, whatever was measured. */
  keep(url: GatewayUrl): Promise<void>;
}

export interface SelectionDeps {
  readonly clock: Clock;
  readonly random: () => number;
  readonly outbound: Pick<Outbound, 'connectTls'>;
  /** No gateway answers; tried again after `retryInMs`. */
  readonly onError: (error: Error, retryInMs: number) => void;
}

/** Time until TLS is up, for each gateway at once; the tries one after the other. */
export const measureGateways = (
  deps: Pick<SelectionDeps, 'clock' | 'outbound'>,
  urls: readonly GatewayUrl[],
  { signal }: { signal: AbortSignal },
): Promise<GatewayMeasurement[]> =>
  Promise.all(
    urls.map(async ({ origin, host, port }) => {
      let connectMs: number | undefined;
      let problem: string | undefined;
      for (let tries = 0; tries < TRIES; tries++) {
        const limit = new AbortController();
        const cancel = deps.clock.timer(TRY_TIMEOUT_MS, () =>
          limit.abort(new Error(`no answer within ${TRY_TIMEOUT_MS / 1_000} s`)),
        );
        const startedAt = deps.clock.monotonic();
        try {
          const target = { host, port, servername: host, alpn: ['http/1.1'] };
          const socket = await deps.outbound.connectTls(target, { signal: AbortSignal.any([signal, limit.signal]) });
          connectMs = Math.min(connectMs ?? Infinity, deps.clock.monotonic() - startedAt);
          socket.on('error', () => undefined);
          socket.destroy();
        } catch (error) {
          signal.throwIfAborted();
          problem = describeError(error);
        } finally {
          cancel();
        }
      }
      return { gateway: origin, connectMs, problem };
    }),
  );

export const fastestOf = (measurements: readonly GatewayMeasurement[]): GatewayMeasurement | undefined =>
  measurements
    .filter(({ connectMs }) => connectMs !== undefined)
    .sort((a, b) => (a.connectMs ?? 0) - (b.connectMs ?? 0))[0];

/** What was chosen before; undefined when nothing was, or nothing that can be read: it is measured again. */
export const readSelection = async (stateDir: string): Promise<z.output<typeof storedSchema> | undefined> => {
  try {
    return storedSchema.parse(JSON.parse(await readFile(join(stateDir, FILE), 'utf8')));
  } catch {
    return undefined;
  }
};

export const createGatewaySelection = (
  deps: SelectionDeps,
  options: { readonly urls: readonly [GatewayUrl, ...GatewayUrl[]]; readonly stateDir: string },
): GatewaySelection => {
  const { urls } = options;
  const path = join(options.stateDir, FILE);
  let current: GatewayUrl | undefined = urls.length === 1 ? urls[0] : undefined;
  let measurements: readonly GatewayMeasurement[] = [];

  const load = async (): Promise<void> => {
    const stored = await readSelection(options.stateDir);
    if (!stored) return;
    current = urls.find(({ origin }) => origin === stored.gateway);
    measurements = stored.measurements.map(({ gateway, connectMs, problem }) => ({ gateway, connectMs, problem }));
  };

  const keep = async (url: GatewayUrl): Promise<void> => {
    current = url;
    const stored = { version: 1, gateway: url.origin, chosenAt: deps.clock.now(), measurements };
    await writeSecretFile(path, `${JSON.stringify(stored)}\n`);
  };

  const reselect: GatewaySelection['reselect'] = async ({ signal }) => {
    if (urls.length === 1) return urls[0];
    measurements = await measureGateways(deps, urls, { signal });
    const fastest = fastestOf(measurements);
    const url = urls.find(({ origin }) => origin === fastest?.gateway);
    if (!url) {
      const told = measurements.map(({ gateway, problem }) => `${gateway}: ${problem ?? 'no answer'}`);
      throw new UnreachableError(`none of the gateways can be reached. ${told.join('. ')}`);
    }
    await keep(url);
    return url;
  };

  return {
    current: () => current,
    measurements: () => measurements,
    reselect,
    keep,
    async choose({ signal }) {
      if (!current) await load();
      const backoff = createBackoff(deps, RECONNECT_BACKOFF);
      while (!current) {
        try {
          return await reselect({ signal });
        } catch (error) {
          signal.throwIfAborted();
          const retryInMs = backoff.next();
          deps.onError(error as Error, retryInMs);
          await delay(deps.clock, retryInMs, signal);
        }
      }
      return current;
    },
  };
};
