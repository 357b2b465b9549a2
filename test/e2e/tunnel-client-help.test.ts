/** The command line of the tunnel client as a person meets it: help, slips, settings that make no sense. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { describe, it } from 'node:test';
import { type Finished, runProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';

const MAIN = resolve(import.meta.dirname, '../../tunnel-client/src/main.ts');
const COLUMNS = 80;
const NO_PROXY = { HTTPS_PROXY: undefined, https_proxy: undefined };
const run = (args: readonly string[], env: Record<string, string> = {}): Promise<Finished> =>
  runProcess(process.execPath, [MAIN, ...args], { env: { ...NO_PROXY, ...env } });

/** Names of the commands that a help text lists. */
const commandsOf = (help: string): string[] => {
  const [, list = ''] = /\nCommands:\n((?: .*\n)+)/.exec(help) ?? [];
  return [...list.matchAll(/^ {2}([a-z]+) /gm)].map(([, name = '']) => name).filter((name) => name !== 'help');
};

describe('the command line of the tunnel client', { timeout: 180_000 }, () => {
  it('has help of every command, with an example, in 80 columns', async () => {
    const seen: string[] = [];
    const look = async (path: readonly string[]): Promise<void> => {
      const { code, stdout, stderr } = await run([...path, '--help']);
      assert.deepEqual([code, stderr], [0, ''], path.join(' '));
      const long = stdout.split('\n').filter((line) => line.length > COLUMNS);
      assert.deepEqual(long, [], `tunnel-client ${path.join(' ')} --help`);
      if (path.length > 0) {
        const example = new RegExp(`^ {2}tunnel-client ${path.join(' ')} \\S`, 'm');
        assert.match(stdout.slice(stdout.indexOf('Options:')), example, 'an example');
      }
      seen.push(path.join(' '));
      for (const name of commandsOf(stdout)) await look([...path, name]);
    };
    await look([]);
    for (const name of ['run', 'status', 'diagnose', 'gateway list', 'gateway reselect', 'key new']) {
      assert.ok(seen.includes(name), `${name} is not among ${seen.join(', ')}`);
    }
    assert.match((await run(['--help'])).stdout, /Exit codes: 0 it worked, 1 it did not, 2 /);
  });

  it('suggests what was meant by a slip, and says 2', async () => {
    for (const [args, message] of [
      [['statsu'], /unknown command 'statsu'\n\(Did you mean status\?\)/],
      [['gateway', 'reselct'], /unknown command 'reselct'\n\(Did you mean reselect\?\)/],
      [['run', '--runer', 'a'], /unknown option '--runer'\n\(Did you mean --runner\?\)/],
      [['status', 'now'], /too many arguments/],
      [['gateway'], /Usage: tunnel-client gateway/],
    ] as const) {
      const { code, stdout, stderr } = await run(args);
      assert.deepEqual([code, stdout], [2, ''], args.join(' '));
      assert.match(stderr, message);
    }
  });

  it('says which setting makes no sense, whichever command meets it', async (t) => {
    const ca = join(await temporaryDirectory(t), 'ca.pem');
    await writeFile(ca, 'no certificate');
    const flags = ['--gateway', 'https://api.gateway.localhost:1', '--runner', 'a'];
    const refused = async (args: readonly string[], message: RegExp, env: Record<string, string> = {}) => {
      const { code, stdout, stderr } = await run([...args, ...flags], env);
      assert.deepEqual([code, stdout], [2, ''], `${args.join(' ')}: ${stderr}`);
      assert.match(stderr, /^The configuration of the tunnel client is not usable:\n/);
      assert.match(stderr, message);
      assert.doesNotMatch(stderr, /secret/);
    };
    for (const command of [['run'], ['diagnose'], ['gateway', 'list']]) {
      const noUrl = /^ {2}HTTPS_PROXY: is not the URL of a proxy: it looks like http:\/\/proxy\.example:3128/m;
      await refused(command, noUrl, { HTTPS_PROXY: 'http://me:secret@' });
      await refused([...command, '--ca', ca], /^ {2}ca: the file \S+ holds no certificate in PEM/m);
    }
    await refused(['run'], /^ {2}HTTPS_PROXY: names no HTTP proxy/m, { HTTPS_PROXY: 'socks5://me:secret@proxy:1080' });
    const transport = /^ {2}--transport: must be one of auto, quic, webtransport, websocket$/m;
    await refused(['run', '--transport', 'tcp'], transport);
    await refused(['diagnose', '--transport', 'tcp'], transport);
    await refused(['run'], /^ {2}TUNNEL_TRANSPORT: must be one of/m, { TUNNEL_TRANSPORT: 'udp' });
  });
});
