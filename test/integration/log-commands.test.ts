/** The built-in log server on the output of a command: one process for all, what is kept of it, and its end. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { type LogWorld, parseEvents, startLogWorld } from '../support/logs.ts';
import { createManualClock } from '../support/manual-clock.ts';
import { until } from '../support/runner.ts';

const EVENTS = { accept: 'text/event-stream' };
const worlds: LogWorld[] = [];
const directories: string[] = [];

/** Runs `script` in a shell, in whose `$D` the test may write. */
const startWorld = async (
  script: string,
  options: Parameters<typeof startLogWorld>[1] = {},
): Promise<LogWorld & { readonly starts: () => number; readonly write: (name: string, text: string) => void }> => {
  const directory = mkdtempSync(join(tmpdir(), 'logs-test-'));
  directories.push(directory);
  const command = ['sh', '-c', `D=${directory}; echo >> $D/starts; ${script}`];
  const world = await startLogWorld(() => ({ command }), { directory, ...options });
  worlds.push(world);
  return {
    ...world,
    starts: () => (existsSync(join(directory, 'starts')) ? readFileSync(join(directory, 'starts')).length : 0),
    write: (name, text) => writeFileSync(join(directory, name), text),
  };
};

afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true, force: true });
});

/** A shell that waits for a file of the test, 20 ms at a time. */
const waitFor = (name: string): string => `while [ ! -e $D/${name} ]; do sleep 0.02; done`;

describe('the output of a command', () => {
  it('is that of one process for everybody, both of its pipes, line by line', async () => {
    const world = await startWorld(`printf 'ou'; printf 'err\\n' >&2; ${waitFor('go')}; printf 't\\nä\\n'; sleep 60`);
    const readers = await Promise.all([world.read(), world.read(), world.read({ headers: EVENTS })]);
    await readers[0].contains('err\n');
    world.write('go', '');
    for (const reader of readers) await reader.contains('ä');
    assert.equal(readers[0].text(), 'err\nout\nä\n');
    assert.equal(readers[1].text(), 'err\nout\nä\n');
    assert.deepEqual(
      parseEvents(readers[2].text()).map(({ data }) => data),
      ['err', 'out', 'ä'],
    );
    assert.equal(world.starts(), 1);
    assert.equal(await world.all('/logs?follow=false&tail=1'), 'ä\n');
  });

  it('starts with the first reader, and not before', async () => {
    const world = await startWorld('echo here; sleep 60');
    assert.equal(world.starts(), 0);
    const reader = await world.read();
    await reader.contains('here\n');
    assert.equal(world.starts(), 1);
  });

  it('goes on without anybody for 10 min, so that a reader that comes back has missed nothing', async () => {
    const clock = createManualClock();
    const world = await startWorld(`echo one; ${waitFor('go')}; echo two; touch $D/wrote; sleep 60`, { clock });
    const reader = await world.read();
    await reader.contains('one\n');
    reader.close();
    await until(() => world.server.stats('demo')?.followers === 0);
    world.write('go', '');
    await until(() => existsSync(join(world.directory, 'wrote')));
    await clock.advance(599_000);
    const next = await world.read({ path: `/logs?since=${reader.offset + reader.body().length}` });
    await next.contains('two\n');
    assert.equal(next.text(), 'two\n');
    assert.equal(next.offset, reader.offset + 4);
    assert.equal(world.starts(), 1);
    next.close();
    await until(() => world.server.stats('demo')?.followers === 0);
    await clock.advance(601_000);
    const after = await world.read();
    await after.contains('one\n');
    assert.equal(world.starts(), 2);
    assert.ok(after.offset > next.offset);
  });

  it('is read by a slow follower at its pace, which is told how many lines it skipped', async () => {
    const lines = 1_500_000;
    const world = await startWorld(`seq 1 ${lines}; echo the end; sleep 60`);
    const slow = await world.ask({ headers: EVENTS });
    const slowText = await world.ask();
    const fast = await world.read({ path: '/logs?tail=0' });
    await fast.contains('the end\n');
    const readAll = async (response: typeof slow): Promise<string> => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
      });
      await until(() => text.includes('the end'));
      response.destroy();
      return text;
    };
    const events = parseEvents(await readAll(slow));
    let expected = 1;
    let skipped = 0;
    for (const { event, data } of events) {
      if (event === 'skipped') {
        const { lines: count } = JSON.parse(data) as { lines: number };
        expected += count;
        skipped += count;
      } else if (data !== 'the end') {
        assert.equal(data, String(expected));
        expected += 1;
      }
    }
    assert.equal(expected, lines + 1, 'every line came or was counted');
    assert.ok(skipped > 0, 'some were skipped');

    expected = 1;
    let told = 0;
    for (const line of (await readAll(slowText)).split('\n').slice(0, -1)) {
      const marker = /^\[… (\d+) lines skipped …\] Log-Offset: \d+$/.exec(line);
      if (marker) {
        expected += Number(marker[1]);
        told += 1;
      } else if (line !== 'the end') {
        assert.equal(line, String(expected));
        expected += 1;
      }
    }
    assert.ok(told > 0);
    assert.equal(expected, lines + 1);
  });

  it('keeps the offsets of what is printed, and says where what is gone has ended', async () => {
    const world = await startWorld('seq 1 1500000; echo the end; sleep 60');
    const first = await world.read({ path: '/logs?tail=0' });
    await first.contains('the end\n');
    const gone = await world.read({ path: `/logs?follow=false&since=${first.offset + 7}` });
    assert.ok(gone.offset > first.offset + 7);
    const rest = await gone.ended;
    assert.match(rest, /^\d+\n/);
    const begin = Number(rest.split('\n', 1)[0]);
    const before = Array.from({ length: begin - 1 }, (_, index) => `${index + 1}\n`).join('').length;
    assert.equal(gone.offset - first.offset, before, 'a whole line stands at the offset');
  });
});

describe('a command that ends', () => {
  it('ends its readers, with a last line that has no newline', async () => {
    const world = await startWorld(`${waitFor('go')}; printf 'one\\ntwo'`);
    const reader = await world.read();
    const events = await world.read({ headers: EVENTS });
    world.write('go', '');
    assert.equal(await reader.ended, 'one\ntwo');
    assert.deepEqual(
      parseEvents(await events.ended).map(({ data }) => data),
      ['one', 'two'],
    );
  });

  it('and has said everything is not run again for who has read all of it', async () => {
    const clock = createManualClock();
    const world = await startWorld('echo one', { clock });
    const reader = await world.read();
    assert.equal(await reader.ended, 'one\n');
    await clock.advance(10_000);
    assert.equal(await world.all(`/logs?since=${reader.offset + 4}`), '');
    assert.equal(await world.all(`/logs?since=${reader.offset}`), 'one\n');
    assert.equal(world.starts(), 1);
    // Who asks for the log and not for its continuation, gets it from a new run.
    const again = await world.read();
    assert.equal(await again.ended, 'one\n');
    assert.ok(again.offset > reader.offset);
    assert.equal(world.starts(), 2);
  });

  it('by accident runs again for the next reader, not more often than each 5 s', async () => {
    const clock = createManualClock();
    const world = await startWorld('echo one; exit 3', { clock });
    const reader = await world.read();
    assert.equal(await reader.ended, 'one\n');
    const since = reader.offset + 4;
    assert.equal(await world.all(`/logs?since=${since}`), '');
    assert.equal(await world.all('/logs'), 'one\n');
    assert.equal(world.starts(), 1);
    await clock.advance(5_000);
    const events = await world.read({ path: `/logs?since=${since}`, headers: EVENTS });
    assert.deepEqual(
      parseEvents(await events.ended).map(({ event }) => event),
      ['reset', 'message'],
    );
    assert.equal(world.starts(), 2);
  });

  it('that cannot be started is 502', async () => {
    const world = await startLogWorld(() => ({ command: ['/no/such/program'] }));
    worlds.push(world);
    const reader = await world.read();
    assert.equal(reader.status, 502);
    assert.match(await reader.ended, /ENOENT/);
    assert.equal((await world.read()).status, 502);
  });

  it('is ended with everything it has started', async () => {
    const world = await startWorld('(sleep 600; echo late) & echo $! $$; wait');
    const reader = await world.read();
    await reader.contains('\n');
    const processes = reader.text().trim().split(' ').map(Number);
    const isAlive = (pid: number): boolean => {
      try {
        // A zombie, which nobody has waited for yet, is dead.
        return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
      } catch {
        return false;
      }
    };
    assert.deepEqual(processes.map(isAlive), [true, true]);
    await world.server.close();
    await until(() => processes.every((pid) => !isAlive(pid)));
  });
});
