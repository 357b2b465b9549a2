/**
 * The page, as files of its own: the internal listener serves no others, so its policy can name its origin. They tell
 * nothing of the gateway and are open to whoever may open the listener; what they show needs the token.
 */
import { readFileSync } from 'node:fs';

export interface PageFile {
  readonly contentType: string;
  readonly body: Buffer;
}

const SCRIPTS = ['chart.js', 'dom.js', 'format.js', 'main.js', 'overview.js', 'runner.js', 'session.js'] as const;

export const PAGE_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const read = (name: string): Buffer => readFileSync(new URL(`./page/${name}`, import.meta.url));

/** By path. Throws when a file is missing. */
export const readPageFiles = (): ReadonlyMap<string, PageFile> =>
  new Map([
    ['/', { contentType: 'text/html; charset=utf-8', body: read('dashboard.html') }],
    ['/dashboard/dashboard.css', { contentType: 'text/css; charset=utf-8', body: read('dashboard.css') }],
    ...SCRIPTS.map(
      (name) => [`/dashboard/${name}`, { contentType: 'text/javascript; charset=utf-8', body: read(name) }] as const,
    ),
  ]);
