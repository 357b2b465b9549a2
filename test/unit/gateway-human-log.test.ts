import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { stripVTControlCharacters } from 'node:util';
import { createLogger } from '../../gateway/src/observability/log.ts';
import { createHumanLog } from '../../gateway/src/cli/human-log.ts';

describe('log lines at a terminal', () => {
  const lines = (write: (log: ReturnType<typeof createLogger>) => void): string => {
    const written: string[] = [];
    write(createLogger({ destination: createHumanLog({ write: (text) => written.push(text) }) }));
    return stripVTControlCharacters(written.join(''));
  };

  it('have time, level, message, then the fields', () => {
    const text = lines((log) => log.info({ port: 8443, names: ['a.test'], reason: 'two words' }, 'it serves'));
    assert.match(text, /^\d\d:\d\d:\d\d info {2}it serves port=8443 names=\["a\.test"\] reason="two words"\n$/);
  });

  it('show where an error comes from, below', () => {
    const text = lines((log) => log.error({ err: new TypeError('broken') }, 'it failed'));
    assert.match(text, /^\S+ error it failed\n {4}TypeError: broken\n {4}.* at /);
  });

  it('hide secrets as all log lines do, and control no terminal', () => {
    const written: string[] = [];
    const log = createLogger({ destination: createHumanLog({ write: (text) => written.push(text) }) });
    log.warn({ exchangeToken: 'gpx_secret', agent: 'evil\u001b]0;title\u0007' }, 'refused');
    assert.ok(!written.join('').includes('gpx_secret'));
    assert.ok(!written.join('').includes('\u001b]0;'));
  });
});
