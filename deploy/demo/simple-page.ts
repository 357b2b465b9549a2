/** A plain page in the colours of the demo, for what is no more than a heading and a form. */
import { createHash } from 'node:crypto';
import type { ServerResponse } from 'node:http';

const STYLE = `
:root{color-scheme:light dark;--page:#f6f4f0;--card:#fff;--line:#e3ded5;--ink:#1d1b18;--soft:#6a655d;--accent:#d9480f;
--accent-ink:#fff}
@media(prefers-color-scheme:dark){:root{--page:#161513;--card:#201e1b;--line:#35322d;--ink:#f0ece4;--soft:#a49d91;
--accent:#ff922b;--accent-ink:#1d1206}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--page);color:var(--ink);
font:1rem/1.6 system-ui,sans-serif}
main{width:min(26rem,100%);background:var(--card);border:1px solid var(--line);border-radius:16px;padding:2rem}
h1{margin:0 0 .5rem;font-size:1.4rem;line-height:1.25;letter-spacing:-.01em}
p{margin:0 0 1.25rem;color:var(--soft)}
b{color:var(--ink)}
label{display:block;font-size:.9rem;margin:0 0 .35rem}
input,button{width:100%;font:inherit;padding:.65rem .8rem;border-radius:10px;border:1px solid var(--line)}
input{background:var(--page);color:var(--ink);margin:0 0 .9rem}
button{background:var(--accent);color:var(--accent-ink);border-color:transparent;font-weight:600;cursor:pointer}
a{color:var(--accent)}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
`;

const POLICY = `default-src 'none'; style-src 'sha256-${createHash('sha256')
  .update(STYLE)
  .digest('base64')}'; base-uri 'none'; frame-ancestors 'none'`;

/** `body` is HTML. */
export const simplePage = (title: string, body: string): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<link rel="icon" href="data:,">
<style>${STYLE}</style>
</head>
<body><main>
${body}
</main></body>
</html>
`;

export const sendHtml = (response: ServerResponse, status: number, page: string): void => {
  response.writeHead(status, {
    'Content-Type': 'text/html; charset=utf-8',
    'Content-Length': Buffer.byteLength(page),
    'Cache-Control': 'no-store',
    'Content-Security-Policy': POLICY,
    'X-Content-Type-Options': 'nosniff',
  });
  response.end(page);
};
