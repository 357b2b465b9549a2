/** `tunnel-client inspect`: what it prints of a running client, and how it ends. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { after, before, describe, it } from 'node:test';
import { loadOrCreateInternalToken } from '../../shared/src/identity/internal-token.ts';
import { runCli } from '../../tunnel-client/src/cli/program.ts';
import type { ExchangeSummary, ExchangeView } from '../../tunnel-client/src/inspector/inspector.ts';
import { type InternalListener, listenInternal } from '../../tunnel-client/src/internal-listener.ts';
import { silentLogger } from '../../tunnel-client/src/logger.ts';
import { type Application, httpApplication } from '../support/applications.ts';
import { readAll } from '../support/legs.ts';
import { until } from '../support/runner.ts';
import { portHost, startWholeWay, type WholeWay } from '../support/whole-way.ts';

const ENVIRONMENT = 'shop';
const SECRET = 's3cr3t';
/** Would clear the terminal, and turn the direction of what follows. */
const HOSTILE = '\u001b[2J\u202e';

describe('tunnel-client inspect', () => {
  let way: WholeWay;
  let application: Application;
  let listener: InternalListener;
  before(async () => {
    application = await httpApplication((request, response) => {
      request.resume();
      if (request.url === '/bytes') return void response.end(Buffer.from([0, 1]));
      response.writeHead(200, { 'content-type': 'application/json', 'set-cookie': `sid=${SECRET}` });
      response.end(JSON.stringify({ hello: 'world', token: SECRET }).replace('world', `world\n\t${HOSTILE}`));
    });
    way = await startWholeWay({ runner: { inspector: true } });
    await way.expose(ENVIRONMENT, [application.port]);
    const token = await loadOrCreateInternalToken(way.runner.stateDir);
    listener = await listenInternal(
      { client: way.runner.client, token, log: silentLogger },
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
    );
  });
  after(async () => {
    await listener?.close();
    await way?.close();
    await application?.close();
  });

  const visit = async (path: string): Promise<void> => {
    const outgoing = httpsRequest(way.to(portHost(ENVIRONMENT, application.port), path));
    outgoing.end();
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    await readAll(response);
  };
  const start = (...args: readonly string[]) => {
    const stop = new AbortController();
    const said = { out: '', err: '' };
    const code = runCli(['inspect', ...args, '--internal', listener.address, '--state-dir', way.runner.stateDir], {
      env: {},
      cwd: way.runner.stateDir,
      out: (text) => (said.out += text),
      err: (text) => (said.err += text),
      isTerminal: false,
      stop: stop.signal,
    });
    return { said, code, stop };
  };
  const run = async (...args: readonly string[]) => {
    const { said, code: exit } = start(...args);
    const code = await exit;
    return { ...said, code };
  };
  const listed = async (): Promise<readonly ExchangeSummary[]> =>
    (JSON.parse((await run(ENVIRONMENT, '--json')).out) as { requests: ExchangeSummary[] }).requests;
  /** Its id, once it is complete. */
  const idOf = async (path: string): Promise<string> => {
    let found: ExchangeSummary | undefined;
    await until(async () => {
      found = (await listed()).find(({ target, state }) => target === path && state === 'done');
      return found !== undefined;
    });
    return found?.id ?? '';
  };

  it('lists, newest last', async () => {
    assert.equal((await run(ENVIRONMENT)).out, 'No requests are kept.\n');
    await visit('/one');
    await visit('/two');
    await idOf('/two');
    const { out, code } = await run(ENVIRONMENT);
    assert.equal(code, 0);
    const [head, first, second, ...rest] = out.split('\n');
    assert.match(head ?? '', /^ID {2}TIME .*STATUS {2}DURATION {2}SENT {2}RECEIVED {2}REQUEST$/);
    assert.match(first ?? '', /^\d+ .* 200 .* GET \/one$/);
    assert.match(second ?? '', /GET \/two$/);
    assert.deepEqual(rest, ['']);
  });

  it('shows one with nothing that a terminal would obey, and no secret', async () => {
    const { out, code } = await run(ENVIRONMENT, 'show', await idOf('/one'));
    assert.equal(code, 0);
    assert.match(out, /^GET \/one HTTP\/1\.1\nhost: /);
    assert.match(out, /\n200 OK\ncontent-type: application\/json\nset-cookie: sid=\[redacted\]\n/);
    assert.ok(out.includes('"token":"[redacted]"}\n'), out);
    assert.match(out, /Complete after [\d.]+ ms\.\n$/);
    assert.doesNotMatch(out, /[^\P{Cc}\n]|\p{Cf}/u);
    assert.ok(!out.includes(SECRET));
    await visit('/bytes');
    assert.match((await run(ENVIRONMENT, 'show', await idOf('/bytes'))).out, /\(2 B, no text\)/);
  });

  it('sends one again and shows what came of it', async () => {
    const first = await idOf('/one');
    const { out, code } = await run(ENVIRONMENT, 'replay', first, '--json');
    assert.equal(code, 0);
    const view = JSON.parse(out) as ExchangeView;
    assert.deepEqual([view.replayOf, view.status, view.state], [first, 200, 'done']);
  });

  it('follows until it is stopped', async () => {
    const { said, code, stop } = start(ENVIRONMENT, '--follow');
    await until(() => said.out.includes('GET /one'));
    await visit('/later');
    await until(() => said.out.includes('GET /later'));
    stop.abort();
    assert.equal(await code, 0);
    assert.equal(said.err, '');
    const lines = said.out.trimEnd().split('\n');
    assert.match(lines[0] ?? '', /^ID /);
    assert.equal(lines.filter((line) => line.endsWith('GET /later')).length, 1);
    const ids = lines.slice(1).map((line) => Number(line.split(' ')[0]));
    assert.deepEqual(
      ids,
      ids.toSorted((a, b) => a - b),
    );
  });

  it('says what it was not given, and what is not there', async () => {
    const cases: readonly (readonly [args: readonly string[], code: number, says: RegExp])[] = [
      [['Wrong!'], 2, /not the id of an environment/],
      [[ENVIRONMENT, 'look', '1'], 2, /neither show nor replay/],
      [[ENVIRONMENT, 'show'], 2, /needs the id/],
      [[ENVIRONMENT, 'show', '99999'], 1, /404: the request is not, or no longer, kept/],
      [[ENVIRONMENT, 'replay', '99999'], 1, /404/],
    ];
    for (const [args, expected, says] of cases) {
      const { code, err, out } = await run(...args);
      assert.deepEqual([code, out], [expected, ''], args.join(' '));
      assert.match(err, says);
    }
  });
});
