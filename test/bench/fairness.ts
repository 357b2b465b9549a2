/** Small requests of one environment beside the downloads of another, on one leg. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Agent, request as httpsRequest } from 'node:https';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { cleanEnvironment } from '../support/processes.ts';
import type { World } from './world.ts';

/** Requests of which the median counts. */
const REQUESTS = 1_000;
/** From the first download until all are under way, and from their end until nothing is left of them, ms. */
const SETTLE_MS = 3_000;

export interface FairnessResult {
  /** Median of a small request on a kept connection, ms: on an idle leg, and beside the downloads. */
  readonly idleMs: number;
  readonly busyMs: number;
  /** Of all downloads while it was measured, MiB/s. */
  readonly bulkRate: number;
}

const median = (numbers: readonly number[]): number => numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? NaN;

const timedRequest = (world: World, environmentId: string, agent: Agent): Promise<number> =>
  new Promise((resolve, reject) => {
    const host = world.host(environmentId);
    const startedAt = performance.now();
    const request = httpsRequest(
      {
        host: '127.0.0.1',
        port: world.httpsPort,
        servername: host,
        headers: { host: `${host}:${world.httpsPort}` },
        agent,
      },
      (response) => {
        if (response.statusCode !== 200) reject(new Error(`status ${response.statusCode}`));
        response.resume();
        response.on('end', () => resolve(performance.now() - startedAt));
        response.on('error', reject);
      },
    );
    request.on('error', reject);
    request.end();
  });

/** `world` has two environments with an application each: `downloads` of the first, requests of the second. */
export const measureFairness = async (world: World, downloads: number): Promise<FairnessResult> => {
  const [bulk = '', small = ''] = world.environments;
  // As options of the agent: with a check of names for each request, Node keeps no connection.
  const agent = new Agent({ keepAlive: true, maxSockets: 1, ca: world.ca, checkServerIdentity: () => undefined });
  const measure = async (): Promise<number> => {
    const times: number[] = [];
    for (let round = 0; round < REQUESTS; round++) times.push(await timedRequest(world, small, agent));
    return median(times);
  };
  await measure();
  const idleBefore = await measure();
  const program = join(import.meta.dirname, 'downloads.ts');
  const child = spawn(process.execPath, [program, String(world.httpsPort), world.host(bulk), String(downloads)], {
    env: cleanEnvironment(),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    let received = 0;
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      for (const [, mib] of text.matchAll(/received (\d+) MiB/g)) received = Number(mib);
    });
    await delay(SETTLE_MS);
    const receivedBefore = received;
    const startedAt = performance.now();
    const busyMs = await measure();
    // The program tells once a second.
    await delay(1_000);
    const bulkRate = (received - receivedBefore) / ((performance.now() - startedAt) / 1_000);
    child.kill();
    await once(child, 'exit');
    await delay(SETTLE_MS);
    const idleAfter = await measure();
    // Mean of both: what else runs on the machine makes either slower.
    const idleMs = (idleBefore + idleAfter) / 2;
    return { idleMs, busyMs, bulkRate };
  } finally {
    child.kill();
    agent.destroy();
  }
};
