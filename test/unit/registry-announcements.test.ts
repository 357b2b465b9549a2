import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { environment, startTunnels, type Tunnels } from '../support/tunnels.ts';
import { until } from '../support/runner.ts';

const kindOf = async (tunnels: Tunnels, id: string): Promise<string> => (await tunnels.registry.route(id)).kind;

describe('announcements', () => {
  let tunnels: Tunnels;
  beforeEach(async () => {
    tunnels = await startTunnels();
  });
  afterEach(() => tunnels.close());

  it('routes what is announced and tells its URLs', async () => {
    const runner = await tunnels.enrol('one', 'acme');
    const { announce, leg } = await runner.dial();
    assert.deepEqual(await announce(1, [environment('demo')]), [
      { id: 'demo', accepted: true, urls: [{ port: 3_000, url: 'https://3000--demo.test/' }] },
    ]);
    const route = await tunnels.registry.route('demo');
    assert.ok(route.kind === 'online');
    assert.deepEqual([route.runnerId, route.organization], [runner.id, 'acme']);
    assert.deepEqual(
      route.legs.map(({ id }) => id),
      [leg.id],
    );
    assert.equal(await kindOf(tunnels, 'other'), 'unknown');
  });

  it('refuses one bad environment and takes the others', async () => {
    const { announce } = await (await tunnels.enrol()).dial();
    const results = await announce(1, [
      environment('good'),
      environment('Bad Id'),
      { id: 'log-port', ports: [{ port: 22_999 }] },
      { id: 'twice', ports: [{ port: 3_000 }, { port: 3_000 }] },
      'nonsense',
      environment('also-good'),
    ]);
    const codes = Object.fromEntries(results.map(({ id, code }) => [id, code]));
    assert.deepEqual(codes, {
      good: undefined,
      'also-good': undefined,
      'Bad Id': 'invalid',
      'log-port': 'invalid',
      twice: 'invalid',
      '': 'invalid',
    });
    assert.match(results.find(({ id }) => id === 'log-port')?.message ?? '', /^ports\.0\.port: .*22999/);
    assert.equal(await kindOf(tunnels, 'good'), 'online');
    assert.equal(await kindOf(tunnels, 'log-port'), 'unknown');
  });

  it('stops routing an environment whose new announcement is broken', async () => {
    const { announce } = await (await tunnels.enrol()).dial();
    await announce(1, [environment('demo')]);
    await announce(2, [{ id: 'demo', ports: [{ port: 3_000, admission: 'nobody' }] }], { full: false });
    assert.equal(await kindOf(tunnels, 'demo'), 'offline');
    assert.equal((await tunnels.directory.environment('demo'))?.releasedAt, undefined);
  });

  it('applies the parts of a revision together, with the last one', async () => {
    const { leg, results, announce } = await (await tunnels.enrol()).dial();
    leg.send({ type: 'environments', revision: 1, part: 0, last: false, full: true, set: [environment('first')] });
    // Messages of a leg are read in order: this one is answered when part 0 was read.
    const other = await (await tunnels.enrol()).dial();
    await other.announce(1, [environment('other')]);
    assert.equal(await kindOf(tunnels, 'first'), 'unknown');
    leg.send({ type: 'environments', revision: 1, part: 1, last: true, full: true, set: [environment('second')] });
    assert.deepEqual(
      (await results(1)).map(({ id }) => id),
      ['first', 'second'],
    );
    assert.equal(await kindOf(tunnels, 'first'), 'online');
    await announce(2, [environment('second')]);
    assert.equal(await kindOf(tunnels, 'first'), 'offline');
  });

  it('closes a leg whose parts do not fit together', async () => {
    const { leg } = await (await tunnels.enrol()).dial();
    leg.send({ type: 'environments', revision: 1, part: 1, last: true, full: true, set: [] });
    const end = await leg.closed;
    assert.deepEqual([end.code, end.by], ['protocol_error', 'remote']);
  });

  it('passes over a revision that is not above the last one, on whichever leg it comes', async () => {
    const runner = await tunnels.enrol();
    const first = await runner.dial();
    const second = await runner.dial();
    await first.announce(5, [environment('demo')]);
    second.leg.send({ type: 'environments', revision: 5, part: 0, last: true, full: true, set: [] });
    second.leg.send({ type: 'environments', revision: 4, part: 0, last: true, full: true, set: [] });
    await second.announce(6, [environment('more')], { full: false });
    assert.equal(await kindOf(tunnels, 'demo'), 'online');
    assert.equal(await kindOf(tunnels, 'more'), 'online');
    const revisions = second.messages.map((each) => (each.type === 'environmentsResult' ? each.revision : 0));
    assert.deepEqual(revisions, [6]);
  });

  it('takes 400 environments in one message', async () => {
    const { announce } = await (await tunnels.enrol()).dial();
    const results = await announce(
      1,
      Array.from({ length: 400 }, (_, index) => environment(`env-${index}`)),
    );
    assert.equal(results.filter(({ accepted }) => accepted).length, 400);
    assert.equal(tunnels.registry.environments().length, 400);
    assert.equal(await kindOf(tunnels, 'env-399'), 'online');
  });

  it('refuses what is beyond 1,000 live environments, one by one', async () => {
    const { announce } = await (await tunnels.enrol()).dial();
    const all = Array.from({ length: 1_002 }, (_, index) => environment(`env-${index}`));
    const results = await announce(1, all.slice(0, 1_001));
    assert.deepEqual(
      results.filter(({ accepted }) => !accepted).map(({ id, code }) => [id, code]),
      [['env-1000', 'environment_limit']],
    );
    const more = await announce(2, all.slice(1_001), { full: false });
    assert.equal(more[0]?.code, 'environment_limit');
    // Names that are given back make room in the same message.
    const swapped = await announce(3, all.slice(1_001), { full: false, delete: ['env-0'] });
    assert.equal(swapped[0]?.accepted, true);
  });

  it('refuses an environment of another runner, says so in the log, and leaves the first alone', async () => {
    const first = await (await tunnels.enrol('first')).dial();
    await first.announce(1, [environment('demo')]);
    const rival = await tunnels.enrol('rival');
    const results = await (await rival.dial()).announce(1, [environment('demo'), environment('own')]);
    assert.deepEqual(
      results.map(({ id, accepted, code }) => [id, accepted, code]),
      [
        ['demo', false, 'claimed'],
        ['own', true, undefined],
      ],
    );
    const route = await tunnels.registry.route('demo');
    assert.ok(route.kind === 'online');
    assert.deepEqual(
      route.legs.map(({ id }) => id),
      [first.leg.id],
    );
    const line = await tunnels.waitFor((each) => each.msg === 'environment refused');
    assert.deepEqual([line['runnerId'], line['environmentId'], line['code']], [rival.id, 'demo', 'claimed']);
  });

  it('keeps a name for its runner after it was released', async () => {
    const runner = await tunnels.enrol();
    const { announce } = await runner.dial();
    await announce(1, [environment('demo')]);
    await announce(2, [], { full: false, delete: ['demo'] });
    const route = await tunnels.registry.route('demo');
    assert.ok(route.kind === 'offline' && route.environment?.id === 'demo');
    const rival = await (await tunnels.enrol()).dial();
    assert.equal((await rival.announce(1, [environment('demo')]))[0]?.code, 'claimed');
    assert.equal((await announce(3, [environment('demo')], { full: false }))[0]?.accepted, true);
  });

  it('gives back what a full announcement no longer has, also after a restart of the gateway', async () => {
    const runner = await tunnels.enrol();
    // As a gateway finds it that was started after the announcement.
    await tunnels.directory.claim(runner.id, [
      { id: 'old', host: '127.0.0.1', ports: [], logs: 'upstream', authNonce: 0 },
      { id: 'kept', host: '127.0.0.1', ports: [], logs: 'upstream', authNonce: 0 },
    ]);
    await (await runner.dial()).announce(1, [environment('kept')]);
    assert.notEqual((await tunnels.directory.environment('old'))?.releasedAt, undefined);
    assert.equal((await tunnels.directory.environment('kept'))?.releasedAt, undefined);
  });

  it('keeps serving while the directory is away, and refuses only what is new', async () => {
    const runner = await tunnels.enrol();
    const { announce, leg } = await runner.dial();
    await announce(1, [environment('demo')]);
    tunnels.setDirectoryUp(false);
    const results = await announce(2, [environment('demo', 4_000), environment('new')]);
    assert.deepEqual(
      results.map(({ id, accepted, code }) => [id, accepted, code]),
      [
        ['demo', true, undefined],
        ['new', false, 'unavailable'],
      ],
    );
    const route = await tunnels.registry.route('demo');
    assert.ok(route.kind === 'online' && route.environment.ports[0]?.port === 4_000);
    await assert.rejects(async () => tunnels.registry.route('unheard-of'));
    // A known runner may come back, an unknown one has to wait.
    await leg.close('closed');
    const again = await runner.dial();
    assert.equal(await kindOf(tunnels, 'demo'), 'online');
    assert.equal(again.leg.isOpen, true);
    tunnels.setDirectoryUp(true);
    const stranger = await tunnels.enrol();
    tunnels.setDirectoryUp(false);
    await assert.rejects(stranger.dial(), { name: 'RefusedError', code: 'unavailable' });
  });

  it('drops the routes at once when an operator releases or moves an environment, and tells the runner', async () => {
    const runner = await tunnels.enrol('one', 'acme');
    const other = await tunnels.enrol('two', 'acme');
    const { announce, messages } = await runner.dial();
    await announce(1, [environment('released'), environment('moved'), environment('kept')]);
    await tunnels.directory.releaseEnvironment('released');
    await tunnels.directory.moveEnvironment('moved', other.id);
    await until(async () => (await kindOf(tunnels, 'moved')) === 'offline');
    await until(async () => (await kindOf(tunnels, 'released')) === 'unknown');
    assert.equal(await kindOf(tunnels, 'kept'), 'online');
    await until(() => messages.length === 3);
    const told = messages.slice(1).flatMap((each) => (each.type === 'environmentsResult' ? each.results : []));
    assert.deepEqual(
      told.map(({ id, code }) => [id, code]),
      [
        ['released', 'released'],
        ['moved', 'claimed'],
      ],
    );
    // The runner may claim a released name again, as anybody may; an operator reads of it.
    assert.equal((await announce(2, [environment('released')], { full: false }))[0]?.accepted, true);
    await tunnels.waitFor((line) => line.level === 'warn' && /claimed again/.test(line.msg));
    assert.equal((await announce(3, [environment('moved')], { full: false }))[0]?.code, 'claimed');
    const moved = await (await other.dial()).announce(1, [environment('moved')]);
    assert.equal(moved[0]?.accepted, true);
    assert.equal(await kindOf(tunnels, 'moved'), 'online');
  });
});
