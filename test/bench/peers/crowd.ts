/**
 * Many runners of one gateway, as a program of its own.
 *
 *     node crowd.ts legs DIRECTORY ISSUER ADDRESS COUNT       legs that do nothing, ten of a runner
 *     node crowd.ts clients DIRECTORY ISSUER URL CA COUNT     tunnel clients, which come back by themselves
 *
 * DIRECTORY is the file of the gateway's own directory, in which the runners are made. Prints `ready {"open", "ms"}`
 * when all are up. A line on standard input is answered with `open {"open"}`; of clients, the line `watch` with
 * `back {"at"}`, the time of day in ms at which 99 % were up again after a time at which fewer were.
 */
import { mkdtemp, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { systemClock } from '../../../shared/src/clock.ts';
import { parseHostPort } from '../../../shared/src/transport/address.ts';
import { openEmbeddedDirectory } from '../../../gateway/src/directory/embedded.ts';
import { connectRunner } from '../../../tunnel-client/src/client.ts';
import { enrolParties, forEachAtOnce, openLegs } from '../idle-legs.ts';

/** That many are to be back. */
const BACK_SHARE = 0.99;

interface Crowd {
  /** Counts what is up. */
  open(): number;
  /** Called whenever the count may have changed. */
  onChange: () => void;
}

const [mode, directoryPath = '', issuer = '', ...rest] = process.argv.slice(2);
const directory = await openEmbeddedDirectory({ clock: systemClock }, { path: directoryPath, issuer });

const openIdle = async (address: string, count: number): Promise<Crowd> => {
  const legs = await openLegs(await enrolParties(directory, count), parseHostPort(address), count);
  return { open: () => legs.filter((leg) => leg.isOpen).length, onChange: () => {} };
};

const openClients = async (gateway: string, caFile: string, count: number): Promise<Crowd> => {
  const ca = await readFile(caFile, 'utf8');
  const base = await mkdtemp(join(tmpdir(), 'crowd-'));
  const up = new Set<number>();
  const crowd: Crowd = { open: () => up.size, onChange: () => {} };
  await forEachAtOnce(count, async (index) => {
    const { runner, exchangeToken } = await directory.createRunner({ name: 'crowd' });
    const stateDir = join(base, String(index));
    const client = connectRunner({ gateway, runnerId: runner.id, exchangeToken, stateDir, ca });
    client.on('state', (state) => {
      if (state === 'online') up.add(index);
      else up.delete(index);
      crowd.onChange();
    });
    client.on('error', () => {}); // it goes on by itself
    await client.ready();
  });
  return crowd;
};

const startedAt = performance.now();
const crowd =
  mode === 'legs'
    ? await openIdle(rest[0] ?? '', Number(rest[1]))
    : await openClients(rest[0] ?? '', rest[1] ?? '', Number(rest[2]));
const count = Number(rest.at(-1));
createInterface(process.stdin).on('line', (line) => {
  if (line !== 'watch') return console.log(`open ${JSON.stringify({ open: crowd.open() })}`);
  let wasDown = false;
  crowd.onChange = () => {
    if (crowd.open() < count * BACK_SHARE) wasDown = true;
    else if (wasDown) {
      crowd.onChange = () => {};
      console.log(`back ${JSON.stringify({ at: Date.now() })}`);
    }
  };
  console.log('watching');
});
console.log(`ready ${JSON.stringify({ open: crowd.open(), ms: Math.round(performance.now() - startedAt) })}`);
