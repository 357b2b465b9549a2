/** The page before the first page of a port that is open to everyone. Nothing is loaded, nothing runs. */
import { escapeHtml, policyHash, renderDocument } from '../html.ts';

const STYLE = `
:root{color-scheme:light dark;--ground:#f4f3ef;--sheet:#fff;--ink:#1d1c1a;--soft:#66625b;--line:#dedbd3;--mark:#9a6700;--markGround:#fbf1d9;--accent:#1d1c1a;--onAccent:#fff}
@media (prefers-color-scheme:dark){:root{--ground:#151412;--sheet:#1e1d1a;--ink:#f1efe9;--soft:#a8a297;--line:#383530;--mark:#e8b64c;--markGround:#33280f;--accent:#f1efe9;--onAccent:#1d1c1a}}
*{box-sizing:border-box;margin:0}
html{-webkit-text-size-adjust:100%}
body{min-height:100vh;min-height:100svh;display:flex;flex-direction:column;align-items:center;justify-content:center;gap:20px;padding:32px 16px;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{width:100%;max-width:560px;background:var(--sheet);border:1px solid var(--line);border-radius:16px;overflow:hidden}
.text{padding:32px}
.mark{display:grid;place-items:center;width:48px;height:48px;border-radius:50%;background:var(--markGround);color:var(--mark);margin-bottom:20px}
.mark svg{width:24px;height:24px;fill:none;stroke:currentColor;stroke-width:1.8;stroke-linecap:round;stroke-linejoin:round}
h1{font-size:26px;line-height:1.2;letter-spacing:-.015em;font-weight:650;text-wrap:balance}
p{margin-top:12px;color:var(--soft);text-wrap:pretty}
button{margin-top:24px;padding:13px 18px;font:inherit;font-size:15px;font-weight:600;line-height:1;border:0;border-radius:9px;background:var(--accent);color:var(--onAccent);cursor:pointer}
button:focus-visible{outline:3px solid var(--mark);outline-offset:2px}
dl{display:grid;grid-template-columns:auto minmax(0,1fr);gap:6px 20px;padding:20px 32px;border-top:1px solid var(--line);font-size:14px;line-height:1.6;align-items:baseline}
dt{color:var(--soft)}
dd{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:13px;overflow-wrap:anywhere}
footer{font-size:13px;color:var(--soft);text-align:center;max-width:560px}
@media (max-width:520px){
body{justify-content:flex-start;padding:16px 12px}
.text{padding:24px 20px}h1{font-size:23px}button{width:100%}
dl{padding:18px 20px;gap:4px 14px}
}`;

export const INTERSTITIAL_POLICY = `default-src 'none'; style-src ${policyHash(STYLE)}; form-action 'self'; base-uri 'none'`;

export interface InterstitialDetails {
  readonly host: string;
  readonly port: number;
  readonly organization: string | undefined;
  readonly creator: string | undefined;
  /** Where the form goes. */
  readonly action: string;
}

/** Everything that is not of this program is escaped. */
export const renderInterstitial = (details: InterstitialDetails): string => {
  const facts: [string, string | undefined][] = [
    ['Address', details.host],
    ['Opened by', details.creator],
    ['Organization', details.organization],
  ];
  const shownBy = details.creator || details.organization ? 'whoever is named below' : 'somebody';
  const list = facts
    .filter((fact): fact is [string, string] => fact[1] !== undefined && fact[1] !== '')
    .map(([name, value]) => `<dt>${name}</dt><dd>${escapeHtml(value)}</dd>`)
    .join('');
  return renderDocument({
    title: 'A development environment',
    style: STYLE,
    body: `<main>
<div class="text">
<div class="mark"><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12Z"/><circle cx="12" cy="12" r="2.8"/></svg></div>
<h1>You are about to open somebody's development environment</h1>
<p>Port ${details.port} of it is open to everyone. What it shows comes from ${shownBy}, not from this gateway. Enter no password that you use anywhere else.</p>
<form method="post" action="${escapeHtml(details.action)}"><button type="submit">Go on</button></form>
</div>
<dl>${list}</dl>
</main>
<footer>This page comes from the gateway, not from the application. It is shown once for each address.</footer>`,
  });
};
