/** Happy Eyeballs (RFC 8305): who is tried when, and who wins. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { interleaveFamilies, raceAttempts } from '../../tunnel-client/src/happy-eyeballs.ts';
import { createManualClock, settle } from '../support/manual-clock.ts';
import { never, rejection } from '../support/legs.ts';

interface Attempt {
  readonly name: string;
  readonly signal: AbortSignal;
  resolve(value: string): void;
  reject(error: Error): void;
}

const start = (names: readonly string[], signal: AbortSignal = never) => {
  const clock = createManualClock();
  const attempts: Attempt[] = [];
  const discarded: string[] = [];
  const result = raceAttempts(
    { clock },
    names,
    (name, options) =>
      new Promise<string>((resolve, reject) => attempts.push({ name, signal: options.signal, resolve, reject })),
    (late) => discarded.push(late),
    { signal },
  );
  result.catch(() => undefined);
  const attempt = (name: string): Attempt => {
    const found = attempts.find((entry) => entry.name === name);
    if (!found) throw new Error(`${name} was not tried`);
    return found;
  };
  return { clock, attempts, attempt, discarded, result };
};

describe('raceAttempts', () => {
  it('tries the next address 250 ms after the one before, and the first to connect wins', async () => {
    const race = start(['a', 'b', 'c']);
    await race.clock.advance(249);
    assert.equal(race.attempts.length, 1);
    await race.clock.advance(1);
    assert.equal(race.attempts.length, 2);
    race.attempt('b').resolve('b');
    assert.equal(await race.result, 'b');
    assert.equal(race.attempt('a').signal.aborted, true);
    await race.clock.advance(10_000);
    assert.equal(race.attempts.length, 2, 'nothing is tried when there is a winner');
  });

  it('tries the next address at once when one has failed', async () => {
    const race = start(['a', 'b']);
    race.attempt('a').reject(new Error('refused'));
    await settle();
    race.attempt('b').resolve('b');
    assert.equal(await race.result, 'b');
  });

  it('discards a connection that comes too late', async () => {
    const race = start(['a', 'b']);
    await race.clock.advance(250);
    race.attempt('b').resolve('b');
    await race.result;
    race.attempt('a').resolve('a');
    await settle();
    assert.deepEqual(race.discarded, ['a']);
  });

  it('rejects with every error when all have failed', async () => {
    const race = start(['a', 'b']);
    race.attempt('a').reject(new Error('one'));
    await settle();
    race.attempt('b').reject(new Error('two'));
    const error = await rejection(race.result);
    assert.ok(error instanceof AggregateError);
    assert.deepEqual(
      error.errors.map((entry: Error) => entry.message),
      ['one', 'two'],
    );
  });

  it('ends all attempts when the signal is aborted', async () => {
    const abort = new AbortController();
    const race = start(['a', 'b'], abort.signal);
    abort.abort(new Error('gone'));
    assert.equal(((await rejection(race.result)) as Error).message, 'gone');
    assert.equal(race.attempt('a').signal.aborted, true);
    race.attempt('a').resolve('a');
    await settle();
    assert.deepEqual(race.discarded, ['a']);
  });
});

describe('interleaveFamilies', () => {
  it('takes the families in turn, beginning with the first', () => {
    const entry = (address: string) => ({ address, family: address.includes(':') ? (6 as const) : (4 as const) });
    const order = (...addresses: string[]) => interleaveFamilies(addresses.map(entry)).map(({ address }) => address);
    assert.deepEqual(order('::1', '::2', '1.1.1.1', '2.2.2.2', '3.3.3.3'), [
      '::1',
      '1.1.1.1',
      '::2',
      '2.2.2.2',
      '3.3.3.3',
    ]);
    assert.deepEqual(order('1.1.1.1', '2.2.2.2'), ['1.1.1.1', '2.2.2.2']);
    assert.deepEqual(order(), []);
  });
});
