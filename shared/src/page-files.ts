/**
 * A page of an internal listener, as files of its own: the listener serves no others, so the page's policy can name its
 * origin. They tell nothing and are open to whoever may open the listener; what they show needs the token.
 */
import { readFileSync } from 'node:fs';
import { extname } from 'node:path';

/** `Content-Security-Policy`. */
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

export interface PageFile {
  readonly contentType: string;
  readonly body: Buffer;
}

const TYPES: Readonly<Record<string, string>> = { '.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript' };
/** What every page has, beside its own files. */
const COMMON = ['dom.js', 'session.js'] as const;

/**
 * By path: `html` at `path`, the others below `folder`. `directory` ends in a slash.
 * Throws when a file is missing.
 */
export const readPageFiles = (page: {
  readonly directory: URL;
  readonly path: string;
  readonly html: string;
  readonly folder: string;
  readonly others: readonly string[];
}): ReadonlyMap<string, PageFile> => {
  const read = (name: string, directory: URL): PageFile => ({
    contentType: `${TYPES[extname(name)]}; charset=utf-8`,
    body: readFileSync(new URL(name, directory)),
  });
  const common = new URL('./page/', import.meta.url);
  return new Map([
    [page.path, read(page.html, page.directory)],
    ...page.others.map((name) => [`${page.folder}/${name}`, read(name, page.directory)] as const),
    ...COMMON.map((name) => [`${page.folder}/${name}`, read(name, common)] as const),
  ]);
};
