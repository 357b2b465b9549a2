/**
 * `npm test`: brings the system packages that tests need, runs the test files, lists what was left out.
 *
 *     npm test                                 everything but test/long
 *     npm test -- test/unit/frames.test.ts     these files or directories
 *     npm test -- --name 'half-close'          tests whose name matches
 *     npm run test:long                        soak and size runs
 *
 * Exits non-zero when a test fails, and under CI=true also when anything was left out.
 */
import { globSync, readFileSync, statSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import {
  describeNeed,
  installCommand,
  installPackages,
  packagesFor,
  parseNeeds,
  unmetNeeds,
  type NeedName,
} from './support/system-packages.ts';

const ROOT = resolve(import.meta.dirname, '..');
const SUITES = ['test/unit', 'test/compliance', 'test/integration', 'test/e2e'];
/** Test files at once: the tests measure time limits of seconds, and more at once would make them wait for a core. */
const CONCURRENCY = 2;
/** Files that are named at the end for the time that they took. */
const SLOWEST_FILES = 8;
/** One test, ms. Far above what any needs; a test that hangs fails by it. */
const TEST_TIMEOUT_MS = 120_000;
const LONG_TEST_TIMEOUT_MS = 3_600_000;

interface TestFile {
  readonly path: string;
  readonly needs: readonly NeedName[];
}

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    long: { type: 'boolean', default: false },
    name: { type: 'string', multiple: true },
    concurrency: { type: 'string', default: String(CONCURRENCY) },
  },
});

/** The test files that the command line names, or all of the suite. Exits when a name fits nothing. */
const selectFiles = (): TestFile[] => {
  const roots = positionals.length > 0 ? positionals : flags.long ? ['test/long'] : SUITES;
  const paths = roots.flatMap((root) => {
    const path = resolve(root);
    const found = statSync(path, { throwIfNoEntry: false })?.isDirectory()
      ? globSync('**/*.test.ts', { cwd: path }).map((file) => join(path, file))
      : globSync(path);
    if (found.length === 0 && positionals.length > 0) {
      console.error(`No test file fits ${root}.`);
      process.exit(2);
    }
    return found.sort();
  });
  return [...new Set(paths)].map((path) => ({
    path,
    needs: parseNeeds(readFileSync(path, 'utf8'), relative(ROOT, path)),
  }));
};

/** Brings what is missing, if that may be done here, and says what is not there. */
const bringPackages = (files: readonly TestFile[]): ReadonlySet<NeedName> => {
  const needs = files.flatMap(({ needs }) => needs);
  const missing = unmetNeeds(needs);
  const packages = packagesFor(missing);
  if (packages.length > 0) {
    console.log(`Tests need ${missing.map(describeNeed).join(', ')}. Debian packages: ${packages.join(' ')}`);
    const outcome = installPackages(packages);
    if (outcome !== 'installed') {
      console.log(outcome === 'failed' ? 'Installing them failed. By hand:' : 'To run all tests, as root:');
      console.log(`    ${installCommand(packages)}\n`);
    }
  }
  return new Set(unmetNeeds(needs));
};

interface Outcome {
  readonly failed: boolean;
  readonly skipped: readonly string[];
  /** ms of each file. */
  readonly took: ReadonlyMap<string, number>;
}

/** Compiled once for the hundreds of processes that tests start; Node checks each entry against its source. */
process.env['NODE_COMPILE_CACHE'] ??= join(ROOT, 'node_modules/.cache/compiled');

const runFiles = (files: readonly TestFile[]): Promise<Outcome> =>
  new Promise((resolve, reject) => {
    let failed = false;
    const skipped: string[] = [];
    const took = new Map<string, number>();
    const stream = run({
      cwd: ROOT,
      files: files.map(({ path }) => path),
      concurrency: Number(flags.concurrency),
      timeout: flags.long ? LONG_TEST_TIMEOUT_MS : TEST_TIMEOUT_MS,
      execArgv: ['--import', pathToFileURL(join(import.meta.dirname, 'support/leak-check.ts')).href],
      ...(flags.name ? { testNamePatterns: flags.name } : {}),
    });
    stream.on('test:fail', (event) => {
      failed ||= event.todo === undefined;
    });
    stream.on('test:pass', (event) => {
      if (event.skip === undefined) return;
      const reason = typeof event.skip === 'string' && event.skip ? ` (${event.skip})` : '';
      skipped.push(`${relative(ROOT, event.file ?? '')}: ${event.name}${reason}`);
    });
    stream.on('test:summary', (event) => {
      failed ||= !event.success;
      if (event.file !== undefined) took.set(relative(ROOT, event.file), event.duration_ms);
    });
    const output = stream.compose(new spec());
    output.on('error', reject);
    output.on('end', () => resolve({ failed, skipped, took }));
    output.pipe(process.stdout, { end: false });
  });

const files = selectFiles();
const unmet = bringPackages(files);
const isRunnable = (file: TestFile): boolean => !file.needs.some((need) => unmet.has(need));
const runnable = files.filter(isRunnable);
const leftOut = files.filter((file) => !isRunnable(file));

const outcome: Outcome =
  runnable.length > 0 ? await runFiles(runnable) : { failed: false, skipped: [], took: new Map() };

console.log(`\n${runnable.length} of ${files.length} test files ran.`);
for (const { path, needs } of leftOut) {
  console.log(
    `  left out: ${relative(ROOT, path)}, needs ${needs
      .filter((need) => unmet.has(need))
      .map(describeNeed)
      .join(', ')}`,
  );
}
const slowest = [...outcome.took].sort(([, a], [, b]) => b - a).slice(0, SLOWEST_FILES);
for (const [path, ms] of slowest) console.log(`${(ms / 1_000).toFixed(1).padStart(6)} s  ${path}`);
for (const test of outcome.skipped) console.log(`  skipped:  ${test}`);

const isIncomplete = leftOut.length > 0 || outcome.skipped.length > 0;
if (isIncomplete && process.env['CI'] === 'true') console.log('CI=true: what was left out counts as a failure.');
process.exitCode = outcome.failed || (isIncomplete && process.env['CI'] === 'true') ? 1 : 0;
