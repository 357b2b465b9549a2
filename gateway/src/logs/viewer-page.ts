/**
 * The page in which a browser shows a log. One self-contained document: its style and its script stand in it and are
 * named by hash in its policy, so that nothing else can run beside the log of an environment.
 */
import { readFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { escapeHtml, policyHash } from '../html.ts';
import type { Exchange } from '../proxy/exchange.ts';
import type { LogSession } from './session.ts';

export interface ViewerPage {
  /** With a session the viewer, without one the question for a token (401). */
  answer(exchange: Exchange, of: { readonly environmentId: string; readonly session: LogSession | undefined }): void;
}

/** In this order: each file uses what stands before it. */
export const VIEWER_SCRIPTS = [
  'ansi.js',
  'lines.js',
  'line.js',
  'selection.js',
  'view.js',
  'search.js',
  'stream.js',
  'session.js',
  'main.js',
] as const;

const readAsset = (name: string): string => readFileSync(new URL(`./page/${name}`, import.meta.url), 'utf8');

/** One module as a statement: a scope of its own, whose exports are names for the modules behind it. */
const scopeOf = (module: string): string => {
  const names = [...module.matchAll(/^export const (\w+)/gm)].map(([, name]) => name);
  const body = module.replaceAll(/^import [^;]*;\n/gm, '').replaceAll(/^export /gm, '');
  return `const { ${names.join(', ')} } = (() => {\n${body}return { ${names.join(', ')} };\n})();\n`;
};

/** Modules, each behind those it imports from, as one script. They import by the names that are exported. */
export const bundleScripts = (modules: readonly string[]): string =>
  `(() => {\n'use strict';\n${modules.map(scopeOf).join('')}})();\n`;

/** Reads the files of the page; throws when one is missing. */
export const createViewerPage = (): ViewerPage => {
  const style = readAsset('viewer.css');
  const script = bundleScripts(VIEWER_SCRIPTS.map(readAsset));
  const [head = '', tail = ''] = readAsset('viewer.html')
    .replace('/*STYLE*/', () => style)
    .replace('/*SCRIPT*/', () => script)
    .split('<!--DATA-->');
  const policy = [
    "default-src 'none'",
    `style-src ${policyHash(style)}`,
    `script-src ${policyHash(script)}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ');

  return {
    answer(exchange, { environmentId, session }) {
      const data = JSON.stringify({ environment: environmentId, session });
      const body = Buffer.from(`${head}<div id="data" hidden data-page="${escapeHtml(data)}"></div>${tail}`);
      const response = exchange.response as ServerResponse;
      response.setHeader('Content-Type', 'text/html; charset=utf-8');
      response.setHeader('Content-Length', String(body.length));
      response.setHeader('Content-Security-Policy', policy);
      response.setHeader('Cache-Control', 'no-store');
      response.setHeader('X-Content-Type-Options', 'nosniff');
      response.setHeader('Referrer-Policy', 'no-referrer');
      response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
      response.setHeader('Vary', 'Accept, Authorization, Cookie, Sec-Fetch-Mode');
      if (!session) {
        response.setHeader('WWW-Authenticate', 'Bearer realm="gateway"');
        response.setHeader('Gateway-Error', exchange.record.errorCode ?? 'token_required');
      }
      response.statusCode = session ? 200 : 401;
      if (exchange.method !== 'HEAD') exchange.record.bytesSent += body.length;
      response.end(exchange.method === 'HEAD' ? undefined : body);
    },
  };
};
