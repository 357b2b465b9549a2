import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { runProcess, startProcess } from '../support/processes.ts';
import { temporaryDirectory } from '../support/programs.ts';
import { GATEWAY_MAIN } from '../support/served-processes.ts';

interface Report {
  readonly ok: boolean;
  readonly findings: readonly { readonly check: string; readonly result: string; readonly detail: string }[];
}

test('doctor beside a running gateway, and where something is wrong; status', { timeout: 90_000 }, async (t) => {
  const directory = await temporaryDirectory(t);
  const path = join(directory, 'gateway.yaml');
  const configure = (https: number, quic: number, over: object = {}): Promise<void> =>
    writeFile(
      path,
      JSON.stringify({
        listeners: {
          https: [`127.0.0.1:${https}`],
          quic: [`127.0.0.1:${quic}`],
          internal: `unix:${join(directory, 'gateway.sock')}`,
          ...over,
        },
        stateDir: join(directory, 'state'),
      }),
    );
  const gateway = (...args: string[]) => runProcess(process.execPath, [GATEWAY_MAIN, ...args, '--config', path]);
  const diagnose = async (): Promise<{ code: number | null; report: Report }> => {
    const { code, stdout } = await gateway('doctor', '--json');
    return { code, report: JSON.parse(stdout) as Report };
  };
  const of = (report: Report, check: string) => report.findings.filter((finding) => finding.check === check);

  await configure(0, 0);
  const before = await diagnose();
  assert.equal(before.code, 0);
  assert.match(of(before.report, 'gateway')[0]!.detail, /does not run/);
  assert.match(of(before.report, 'directory')[0]!.detail, /is made at the first start/);
  const silent = await gateway('status');
  assert.equal(silent.code, 1);
  assert.match(silent.stderr, /No gateway answers at unix:/);

  const running = startProcess(t, process.execPath, [GATEWAY_MAIN, 'serve', '--config', path]);
  await running.waitForOutput(/the gateway serves/);
  const portOf = (listener: string): number =>
    Number(new RegExp(`"${listener}":\\["127\\.0\\.0\\.1:(\\d+)"\\]`).exec(running.output())?.[1]);
  const occupied = createServer().listen(0, '127.0.0.1');
  await once(occupied, 'listening');
  t.after(() => occupied.close());
  const { port } = occupied.address() as AddressInfo;
  await configure(portOf('https'), portOf('quic'), { http: [`127.0.0.1:${port}`] });

  const { code, report } = await diagnose();
  assert.equal(code, 1);
  assert.equal(report.ok, false);
  assert.deepEqual(
    of(report, 'port').map(({ result, detail }) => [result, detail.replace(/^\S+ /, '')]),
    [
      ['ok', 'TCP is held by the running gateway'],
      ['failed', 'TCP: another program listens there'],
      ['ok', 'UDP is held by the running gateway'],
    ],
  );
  assert.equal(of(report, 'certificate')[0]?.result, 'warning');
  assert.match(of(report, 'certificate')[0]!.detail, /gateway\.localhost.* until \d{4}-.*self-signed/);
  assert.match(of(report, 'directory')[0]!.detail, /: 0 runners/);
  assert.deepEqual(
    of(report, 'DNS').map(({ result }) => result),
    ['ok', 'ok', 'ok'],
  );

  const table = await gateway('doctor');
  assert.match(table.stderr, /^gateway: One check has failed$/m);
  assert.match(table.stdout, /^CHECK +RESULT +DETAIL$/m);
  for (const line of table.stdout.split('\n')) {
    assert.ok(line.length <= 80 || !line.trim().slice(24).includes(' '), line);
  }
  const status = await gateway('status');
  assert.equal(status.code, 0, status.stderr);
  assert.match(status.stdout, /^ {2}state +ready$/m);
  assert.match(status.stdout, new RegExp(`^ {2}https +127\\.0\\.0\\.1:${portOf('https')}$`, 'm'));
  assert.match(status.stdout, /^ {2}runners +0 with 0 legs$/m);
});
