// needs: chromium
/** The viewer in a real browser: follows, pauses, searches, copies and downloads, in light and dark, on a phone. */
import assert from 'node:assert/strict';
import { appendFile, readFile, truncate, writeFile } from 'node:fs/promises';
import { after, before, beforeEach, describe, it } from 'node:test';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { LOGS_COOKIE } from '../../gateway/src/access/log-access.ts';
import { launchBrowser } from '../support/browser.ts';
import { createLogsWorld, LOGS_HOST, type LogsWorld } from '../support/logs-world.ts';

const numbered = (from: number, count: number): string =>
  Array.from({ length: count }, (_, index) => `line ${from + index}\n`).join('');

let world: LogsWorld;
let browser: Browser;
before(async () => {
  world = await createLogsWorld();
  browser = await launchBrowser();
});
after(async () => {
  await browser.close();
  await world.close();
});
beforeEach(async () => {
  world.upstream = undefined;
  world.refuse = undefined;
  // Another file than before, so that each test has a log of its own.
  await truncate(world.logFile);
});

interface OpenPage {
  readonly page: Page;
  /** Faults of the page itself, breaches of its policy among them. */
  readonly faults: string[];
  close(): Promise<void>;
}
const newPage = async (options: BrowserContextOptions = {}): Promise<OpenPage> => {
  const context = await browser.newContext({
    ignoreHTTPSErrors: true,
    viewport: { width: 1_000, height: 600 },
    ...options,
  });
  const page = await context.newPage();
  const faults: string[] = [];
  page.on('console', (message) => {
    // What the browser says of any answer that is an error.
    if (!message.text().startsWith('Failed to load resource')) faults.push(message.text());
  });
  page.on('pageerror', (error) => faults.push(String(error)));
  return { page, faults, close: () => context.close() };
};
/** Opens the log with a token in the address, and waits for its last line. */
const openLog = async (log: string, options: BrowserContextOptions & { query?: string } = {}): Promise<OpenPage> => {
  await writeFile(world.logFile, log);
  const { query, ...rest } = options;
  const opened = await newPage(rest);
  await opened.page.goto(await world.viewerUrl(query));
  const last = log.trimEnd().split('\n').at(-1)!;
  await line(opened.page, last.replaceAll(/\x1b\[[\d;]*m/g, '')).waitFor();
  return opened;
};
const line = (page: Page, text: string) => page.locator('.l').getByText(text, { exact: true });
const state = (page: Page, text: string) => page.locator('#state').getByText(text, { exact: true });
const scrollTo = (page: Page, top: string): Promise<void> =>
  page.evaluate(`document.getElementById('log').scrollTop = ${top}`);
const top = (page: Page): Promise<number> => page.evaluate(`document.getElementById('log').scrollTop`);
const isAtEnd = (page: Page): Promise<boolean> =>
  page.evaluate(
    `(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight < 2)(document.getElementById('log'))`,
  );

describe('opening the log', () => {
  it('takes the token out of the address, keeps it from scripts, and needs it no more', async () => {
    const { page, faults, close } = await openLog('hello\n');
    assert.equal(page.url(), `https://${LOGS_HOST}:${world.port}/logs`);
    assert.equal(await page.evaluate('history.length'), 2, 'about:blank and the log');
    assert.equal(await page.evaluate('document.cookie'), '');
    const [cookie] = await page.context().cookies();
    assert.deepEqual(
      [cookie?.name, cookie?.httpOnly, cookie?.secure, cookie?.sameSite, cookie?.domain],
      [LOGS_COOKIE, true, true, 'Strict', LOGS_HOST],
    );
    await page.reload();
    await line(page, 'hello').waitFor();
    assert.equal(await page.title(), 'demo log');
    assert.deepEqual(faults, []);
    await close();
  });

  it('asks for a token, says what is wrong with one, and takes it in any form it is pasted', async () => {
    await writeFile(world.logFile, 'hello\n');
    const token = await world.token();
    for (const pasted of [token, `  Bearer ${token}\n`, `https://${LOGS_HOST}/logs#token=${token}`]) {
      const { page, faults, close } = await newPage();
      const answer = await page.goto(`https://${LOGS_HOST}:${world.port}/logs`);
      assert.equal(answer?.status(), 401);
      await page.fill('#token', 'nonsense');
      await page.keyboard.press('Enter');
      await page.getByText('The token is not valid').waitFor();
      await page.fill('#token', await world.token({ environmentId: 'other' }));
      await page.click('#open');
      await page.getByText('for another environment or another scope').waitFor();
      await page.fill('#token', pasted);
      await page.click('#open');
      await line(page, 'hello').waitFor();
      assert.deepEqual(faults, []);
      await close();
    }
  });

  it('says what is wrong with the token of a link, and lets another one be entered', async () => {
    const { page, close } = await newPage();
    await page.goto(`https://${LOGS_HOST}:${world.port}/logs#token=nonsense`);
    await page.getByText('The token is not valid').waitFor();
    assert.equal(page.url(), `https://${LOGS_HOST}:${world.port}/logs`);
    await close();
  });

  it('goes on with the session that is there, when a link from another site comes without it', async () => {
    const { page, close } = await openLog('hello\n');
    await page.route('https://elsewhere.test/', (route) =>
      route.fulfill({
        contentType: 'text/html',
        body: `<a href="https://${LOGS_HOST}:${world.port}/logs">the log</a>`,
      }),
    );
    await page.goto('https://elsewhere.test/');
    const [answer] = await Promise.all([
      page.waitForResponse((response) => response.url().endsWith('/logs') && response.request().isNavigationRequest()),
      page.click('a'),
    ]);
    assert.equal(answer.status(), 401, 'the cookie stayed at home');
    await line(page, 'hello').waitFor();
    await close();
  });
});

describe('reading', () => {
  it('follows, pauses when scrolled up, counts what comes, and follows again at the end', async () => {
    const { page, faults, close } = await openLog(numbered(0, 300));
    await state(page, 'Live').waitFor();
    assert.ok(await isAtEnd(page));
    await appendFile(world.logFile, 'fresh\n');
    await line(page, 'fresh').waitFor();
    assert.ok(await isAtEnd(page), 'it follows');

    await page.mouse.move(500, 300);
    await page.mouse.wheel(0, -2_000);
    await state(page, 'Paused').waitFor();
    // The wheel goes on for a moment.
    let before = -1;
    while (before !== (before = await top(page))) await page.evaluate('new Promise(requestAnimationFrame)');
    await appendFile(world.logFile, numbered(300, 40));
    await page.getByText('40 new lines').waitFor();
    assert.equal(await top(page), before, 'what is read stays where it is');
    await page.getByText('40 new lines').click();
    await line(page, 'line 339').waitFor();
    await state(page, 'Live').waitFor();

    await scrollTo(page, '0');
    await state(page, 'Paused').waitFor();
    await scrollTo(page, '1e9');
    await state(page, 'Live').waitFor();
    await page.click('#state');
    await state(page, 'Paused').waitFor();
    await page.click('#state');
    await state(page, 'Live').waitFor();
    assert.deepEqual(faults, []);
    await close();
  });

  it('shows the last thousand lines first, and the earlier ones on request, where the reader was', async () => {
    const { page, close } = await openLog(numbered(0, 5_000));
    await scrollTo(page, '0');
    await line(page, 'line 4000').waitFor();
    assert.equal(await line(page, 'line 3999').count(), 0);
    await page.getByText('Show them').click();
    await line(page, 'line 3999').waitFor({ state: 'attached' });
    const y = await page.evaluate<number>(
      `[...document.querySelectorAll('.l')].find((node) => node.textContent === 'line 4000').getBoundingClientRect().top`,
    );
    assert.ok(y > 0 && y < 120, `line 4000 is at ${y} px`);
    await scrollTo(page, '0');
    await line(page, 'line 0').waitFor();
    assert.ok(await page.locator('#earlier').isHidden());
    await close();
  });

  it('shows colours, and text for what it is', async () => {
    const hostile = `<img src=x onerror=alert(1)><script>alert(1)</script>&amp;`;
    const { page, faults, close } = await openLog(`\x1b[31mred\x1b[0m \x1b[38;2;1;2;3mexact\x1b[0m\n${hostile}\nend\n`);
    const color = (text: string) =>
      page.evaluate<string>(
        `getComputedStyle([...document.querySelectorAll('.l span')].find((node) => node.textContent === '${text}')).color`,
      );
    assert.equal(await color('red'), 'rgb(180, 35, 24)');
    assert.equal(await color('exact'), 'rgb(1, 2, 3)');
    assert.equal(await line(page, hostile).count(), 1);
    assert.equal(await page.locator('#lines img').count(), 0);
    assert.deepEqual(faults, []);
    await close();
  });

  it('finds lines, goes from one to the next, and finds what comes later', async () => {
    const text = Array.from({ length: 900 }, (_, index) =>
      index % 100 === 50 ? `a Needle (${index})` : `hay ${index}`,
    );
    const { page, close } = await openLog(`${text.join('\n')}\n`);
    await page.keyboard.press('/');
    await page.keyboard.type('needle (');
    const count = (expected: string) => page.locator('#count').getByText(expected, { exact: true }).waitFor();
    await count('9');
    await page.keyboard.press('Enter');
    await count('9/9');
    await page.locator('.current mark').getByText('Needle (').waitFor();
    assert.equal(await page.locator('.current').textContent(), 'a Needle (850)');
    await page.keyboard.press('Enter');
    await count('8/9');
    assert.equal(await page.locator('.current').textContent(), 'a Needle (750)');
    const box = await page.locator('.current').boundingBox();
    assert.ok(box && box.y > 60 && box.y < 560, 'it is in sight');
    await page.keyboard.press('Shift+Enter');
    await count('9/9');
    await page.click('#next');
    await count('1/9');
    await appendFile(world.logFile, 'another NEEDLE (new)\n');
    await count('1/10');
    await page.fill('#query', 'nothing like it');
    await count('0');
    assert.ok(await page.locator('#next').isDisabled());
    await page.press('#query', 'Escape');
    await page.locator('#count:empty').waitFor({ state: 'attached' });
    assert.equal(await page.locator('mark').count(), 0);
    await close();
  });

  it('copies everything, or what is selected, also where that is not on the screen', async () => {
    const log = numbered(0, 900).replace('line 450', '\x1b[31mline\x1b[0m 450');
    const { page, close } = await openLog(log, { permissions: ['clipboard-read', 'clipboard-write'] });
    const clipboard = () => page.evaluate<string>('navigator.clipboard.readText()');
    await page.click('#copy');
    await page.getByText('Copied all').waitFor();
    assert.equal(await clipboard(), numbered(0, 900));

    await scrollTo(page, '0');
    await line(page, 'line 0').waitFor();
    await page.evaluate(
      `document.getSelection().setBaseAndExtent(document.querySelector('.l').firstChild, 2, document.querySelector('.l').firstChild, 2)`,
    );
    await scrollTo(page, '1e9');
    await line(page, 'line 899').waitFor();
    await page.evaluate(`(() => {
      const last = [...document.querySelectorAll('.l')].at(-1).firstChild;
      document.getSelection().setBaseAndExtent(document.querySelector('.l').firstChild, 2, last, 4);
    })()`);
    const first = await page.evaluate<string>(`document.querySelector('.l').textContent`);
    await page.locator('#log').focus();
    await page.keyboard.press('ControlOrMeta+c');
    const from = Number(first.slice(5));
    assert.equal(await clipboard(), `${numbered(from, 899 - from).slice(2)}line`);

    await page.keyboard.press('ControlOrMeta+a');
    await page.keyboard.press('ControlOrMeta+c');
    assert.equal(await clipboard(), numbered(0, 900));
    await close();
  });

  it('keeps the beginning of a selection while scrolling to its end', async () => {
    const { page, close } = await openLog(numbered(0, 900), { permissions: ['clipboard-read', 'clipboard-write'] });
    await scrollTo(page, '0');
    const begin = (await line(page, 'line 3').boundingBox())!;
    await page.mouse.move(begin.x + 1, begin.y + 10);
    await page.mouse.down();
    await page.mouse.move(begin.x + 1, begin.y + 100);
    await page.mouse.wheel(0, 10_000);
    await line(page, 'line 520').waitFor();
    const end = (await line(page, 'line 520').boundingBox())!;
    await page.mouse.move(end.x + 1, end.y + 10);
    await page.mouse.up();
    await page.keyboard.press('ControlOrMeta+c');
    assert.equal(await page.evaluate('navigator.clipboard.readText()'), numbered(3, 517));
    await close();
  });

  it('downloads all of the log, more than it shows', async () => {
    const log = numbered(0, 4_000).replace('line 7\n', '\x1b[31mline 7\x1b[0m\n');
    const { page, close } = await openLog(log);
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#download')]);
    assert.equal(download.suggestedFilename(), 'demo.log');
    assert.equal(await readFile(await download.path(), 'utf8'), log);
    await close();
  });

  it('wraps long lines or not, as the visitor likes, and remembers it', async () => {
    const { page, close } = await openLog(`${'word '.repeat(200)}\nend\n`);
    const sideways = () =>
      page.evaluate<boolean>(`document.getElementById('log').scrollWidth > document.getElementById('log').clientWidth`);
    assert.equal(await sideways(), false);
    await page.click('#wrap');
    assert.equal(await sideways(), true);
    await page.reload();
    await line(page, 'end').waitFor();
    assert.equal(await sideways(), true);
    assert.equal(await page.getAttribute('#wrap', 'aria-pressed'), 'false');
    await close();
  });
});

describe('when something goes wrong', () => {
  it('goes on behind the last line when the leg is lost, without losing or repeating one', async () => {
    const { page, close } = await openLog(numbered(0, 30));
    const lost = world.legs.at(-1)!;
    lost.gateway.abort('closed');
    await lost.gateway.closed;
    await page.getByText('cannot be reached right now').waitFor();
    await state(page, 'Reconnecting').waitFor();
    await appendFile(world.logFile, numbered(30, 10));
    await world.addLeg();
    await line(page, 'line 39').waitFor();
    await state(page, 'Live').waitFor();
    assert.ok(await page.locator('#bar').isHidden());
    const shown = await page.locator('.l').allTextContents();
    assert.equal(`${shown.join('\n')}\n`, numbered(0, 40));
    await close();
  });

  it('says so when the log was truncated', async () => {
    const { page, close } = await openLog(numbered(0, 30));
    await truncate(world.logFile);
    await appendFile(world.logFile, 'anew\n');
    await line(page, 'anew').waitFor();
    await page.getByText('the log was truncated or replaced').waitFor();
    await close();
  });

  it('keeps what was read when the token has expired, and asks for another', async () => {
    const { page, close } = await openLog(numbered(0, 30));
    await world.directory.rotateKeys('token', { void: true });
    const lost = world.legs.at(-1)!;
    await world.addLeg();
    lost.gateway.abort('closed');
    await page.getByText('The token has expired').waitFor();
    await line(page, 'line 29').waitFor();
    await page.getByText('Enter a token').click();
    await page.fill('#token', await world.token());
    await page.click('#open');
    await line(page, 'line 29').waitFor();
    await close();
  });

  it('shows the log of an environment that has only plain lines, and that it has ended', async () => {
    world.upstream = (request, response) => {
      assert.equal(request.headers.cookie, undefined);
      response.writeHead(200, { 'Content-Type': 'text/plain' });
      response.write('first\nsec');
      response.end('ond\n');
    };
    const { page, faults, close } = await newPage();
    await page.goto(await world.viewerUrl());
    await line(page, 'second').waitFor();
    await state(page, 'Ended').waitFor();
    await page.getByText('Read again').click();
    await state(page, 'Ended').waitFor();
    assert.deepEqual(await page.locator('.l').allTextContents(), ['first', 'second']);
    assert.deepEqual(faults, []);
    await close();
  });

  it('says what the log server answers', async () => {
    world.upstream = (_request, response) => {
      response.writeHead(403, { 'Content-Type': 'application/json' });
      response.end(JSON.stringify({ error: { message: 'No logs today.' } }));
    };
    const { page, close } = await newPage();
    await page.goto(await world.viewerUrl());
    await page.getByText('No logs today.').waitFor();
    await state(page, 'Stopped').waitFor();
    await close();
  });

  it('says that nothing has been logged yet', async () => {
    const { page, close } = await newPage();
    await page.goto(await world.viewerUrl());
    await page.getByText('Nothing has been logged yet.').waitFor();
    await appendFile(world.logFile, 'now\n');
    await line(page, 'now').waitFor();
    assert.ok(await page.locator('#empty').isHidden());
    await close();
  });
});

it('light and dark follow the visitor, and a phone needs no sideways scrolling, before and after the token', async () => {
  const grounds = new Set<string>();
  for (const colorScheme of ['light', 'dark'] as const) {
    const { page, close } = await newPage({ colorScheme, viewport: { width: 320, height: 640 } });
    const width = () => page.evaluate<number>('document.documentElement.scrollWidth');
    const ground = async () =>
      grounds.add(await page.evaluate<string>('getComputedStyle(document.body).backgroundColor'));
    await page.goto(`https://${LOGS_HOST}:${world.port}/logs`);
    await page.locator('#token').waitFor();
    assert.equal(await width(), 320);
    await ground();
    await writeFile(world.logFile, `${'x'.repeat(500)}\nend\n`);
    await page.fill('#token', await world.token());
    await page.click('#open');
    await line(page, 'end').waitFor();
    assert.equal(await width(), 320);
    assert.equal(
      await page.evaluate(`document.getElementById('log').scrollWidth <= document.getElementById('log').clientWidth`),
      true,
    );
    for (const id of ['state', 'wrap', 'copy', 'download', 'query']) {
      const box = (await page.locator(`#${id}`).boundingBox())!;
      assert.ok(box.x >= 0 && box.x + box.width <= 320, `${id} lies outside`);
    }
    await ground();
    await close();
  }
  assert.equal(grounds.size, 4);
});
