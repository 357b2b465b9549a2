/** What a person sees who opens the domain itself. It says nothing of who uses the gateway. */
import { createHash } from 'node:crypto';

const STYLE = `
:root{color-scheme:light dark;--ink:#1b1b1f;--soft:#5c5c66;--paper:#fbfaf8;--line:#e4e1da;--accent:#b3541e}
@media(prefers-color-scheme:dark){:root{--ink:#ececf0;--soft:#a2a2ad;--paper:#141416;--line:#2c2c31;--accent:#f0965a}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:2rem 1.25rem;background:var(--paper);
color:var(--ink);font:1rem/1.6 system-ui,sans-serif}
main{max-width:34rem;width:100%}
svg{width:3rem;height:3rem;display:block;margin:0 0 1.5rem;color:var(--accent)}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .75rem;font-weight:650;letter-spacing:-.01em}
p{margin:0 0 1rem;color:var(--soft)}
code{font:.9em ui-monospace,monospace;color:var(--ink);background:color-mix(in srgb,var(--line) 55%,transparent);
padding:.15em .4em;border-radius:.3em;overflow-wrap:anywhere}
`;

const MARK = `<svg viewBox="0 0 48 48" fill="none" stroke="currentColor" stroke-width="3" stroke-linecap="round" aria-hidden="true"><path d="M6 40V24a18 18 0 0 1 36 0v16"/><path d="M16 40V25a8 8 0 0 1 16 0v15"/><path d="M3 40h42"/></svg>`;

const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

/** Sent with the page: nothing is loaded, nothing runs. */
export const LANDING_PAGE_POLICY = `default-src 'none'; style-src 'sha256-${createHash('sha256')
  .update(STYLE)
  .digest('base64')}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;

export const landingPage = (domain: string): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Gitpod Gateway</title>
<style>${STYLE}</style>
</head>
<body>
<main>
${MARK}
<h1>This is a Gitpod Gateway</h1>
<p>It carries HTTPS to development environments in private networks. The port of an environment has an address of its own:</p>
<p><code>https://&lt;port&gt;--&lt;environment&gt;.${escapeHtml(domain)}</code></p>
<p>Somebody who gave you such an address can tell you more.</p>
</main>
</body>
</html>
`;
