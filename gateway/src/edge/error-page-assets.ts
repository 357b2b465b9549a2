/** Style and script of the error page. They are constant, so that the policy of the page can name them by hash. */
import { policyHash } from '../html.ts';

export const ERROR_PAGE_STYLE = `
:root{color-scheme:light dark;--ground:#f4f3ef;--sheet:#fff;--ink:#1d1c1a;--soft:#66625b;--line:#dedbd3;--ok:#2f7d4f;--okGround:#e7f3ea;--stop:#c2410c;--stopGround:#fdeee4;--accent:#1d1c1a;--onAccent:#fff}
@media (prefers-color-scheme:dark){:root{--ground:#151412;--sheet:#1e1d1a;--ink:#f1efe9;--soft:#a8a297;--line:#383530;--ok:#7cc796;--okGround:#1d3325;--stop:#fb9055;--stopGround:#3c2415;--accent:#f1efe9;--onAccent:#1d1c1a}}
*{box-sizing:border-box;margin:0}
html{-webkit-text-size-adjust:100%}
body{min-height:100vh;min-height:100svh;display:flex;flex-direction:column;align-items:center;justify-content:center;gap:20px;padding:32px 16px;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{width:100%;max-width:640px;background:var(--sheet);border:1px solid var(--line);border-radius:16px;overflow:hidden}
.way{display:flex;list-style:none;padding:32px 28px 26px;border-bottom:1px solid var(--line)}
.way li{position:relative;flex:1;display:flex;flex-direction:column;align-items:center;text-align:center;color:var(--soft);min-width:0}
.way li+li::before{content:"";position:absolute;top:23px;right:calc(50% + 32px);width:calc(100% - 64px);border-top:2px dashed var(--line)}
.way .reached+.reached::before,.way .reached+.stopped:not(.apart)::before{border-top:2px solid var(--ok)}
.way .apart::before{border-top:2px dashed var(--stop)!important}
.dot{position:relative;display:grid;place-items:center;width:48px;height:48px;border:2px solid var(--line);border-radius:50%}
.dot>svg{width:22px;height:22px;fill:none;stroke:currentColor;stroke-width:1.7;stroke-linecap:round;stroke-linejoin:round}
.dot i{position:absolute;right:-5px;bottom:-5px;width:20px;height:20px;border-radius:50%;border:2px solid var(--sheet);display:grid;place-items:center;color:var(--sheet)}
.dot i svg{width:9px;height:9px;fill:none;stroke:currentColor;stroke-width:2.6;stroke-linecap:round;stroke-linejoin:round}
.reached .dot{border-color:var(--ok);background:var(--okGround);color:var(--ok)}
.reached i{background:var(--ok)}
.stopped .dot{border-color:var(--stop);background:var(--stopGround);color:var(--stop)}
.stopped i{background:var(--stop)}
.way b{margin-top:10px;font-size:14px;font-weight:600;line-height:1.3}
.reached b,.stopped b{color:var(--ink)}
.way small{font-size:13px;line-height:1.3;color:var(--stop);margin-top:2px}
.text{padding:30px 32px 28px}
h1{font-size:27px;line-height:1.2;letter-spacing:-.015em;font-weight:650;text-wrap:balance;overflow-wrap:anywhere}
.text p{margin-top:12px;color:var(--soft);text-wrap:pretty;overflow-wrap:anywhere}
.again{display:flex;flex-wrap:wrap;align-items:center;gap:12px 16px;margin-top:24px}
a.button,button{font:inherit;font-size:15px;font-weight:600;line-height:1;border-radius:9px;cursor:pointer}
a.button{padding:13px 18px;background:var(--accent);color:var(--onAccent);text-decoration:none}
.wait{color:var(--soft);font-size:15px;font-variant-numeric:tabular-nums}
dl{display:grid;grid-template-columns:auto minmax(0,1fr);gap:6px 20px;padding:20px 32px;border-top:1px solid var(--line);font-size:14px;line-height:1.6;align-items:baseline}
dt{color:var(--soft)}
dd{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:13px;overflow-wrap:anywhere;user-select:all}
dd.copy{margin-top:8px;display:flex;flex-wrap:wrap;gap:4px 12px;align-items:baseline}
button{padding:5px 9px;font-size:13px;background:none;color:var(--soft);border:1px solid var(--line);border-radius:7px;font-family:system-ui,sans-serif;user-select:none}
button:hover{color:var(--ink);border-color:var(--soft)}
a.button:focus-visible,button:focus-visible{outline:3px solid var(--ok);outline-offset:2px}
footer{font-size:13px;color:var(--soft);text-align:center;max-width:640px}
[hidden]{display:none!important}
@media (max-width:520px){
body{justify-content:flex-start;padding:16px 12px}
.way{padding:24px 6px 20px}
.way li+li::before{top:19px;right:calc(50% + 25px);width:calc(100% - 50px)}
.dot{width:40px;height:40px}.dot>svg{width:19px;height:19px}
.way b{font-size:12.5px}.way small{font-size:12px}
.text{padding:24px 20px}h1{font-size:23px}
dl{padding:18px 20px;gap:4px 14px}
}`;

/** The longest pause between two tries; an environment that is off for hours is asked twice a minute. */
const MAX_RETRY_SECONDS = 30;

/**
 * Asks for the same address until the answer is another one, then reloads. Each pause is half as long again as the one
 * before; nothing is asked while nobody looks.
 */
export const ERROR_PAGE_SCRIPT = `
(() => {
  const { code, retry, details } = document.body.dataset;
  const byId = (id) => document.getElementById(id);
  const copy = byId('copy');
  if (navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener('click', () => navigator.clipboard.writeText(details).then(() => {
      copy.textContent = 'Copied';
      setTimeout(() => { copy.textContent = 'Copy details'; }, 2000);
    }, () => { copy.hidden = true; }));
  }
  if (!retry) return;
  const wait = byId('wait'), again = byId('again');
  let pause = Number(retry), left = pause, timer, busy = false;
  const show = (text) => { wait.textContent = text; };
  const plan = () => {
    left = Math.round(pause);
    clearInterval(timer);
    show('Trying again in ' + left + ' s');
    timer = setInterval(() => {
      left -= 1;
      if (left > 0) show('Trying again in ' + left + ' s'); else ask();
    }, 1000);
  };
  const ask = async () => {
    clearInterval(timer);
    if (busy) return;
    busy = true;
    show('Trying\\u2026');
    try {
      const answer = await fetch(location.href, { method: 'HEAD', cache: 'no-store', redirect: 'manual' });
      if (answer.headers.get('Gateway-Error') !== code) return location.reload();
      pause = Math.min(${MAX_RETRY_SECONDS}, pause * 1.5);
    } catch {
      pause = Math.min(${MAX_RETRY_SECONDS}, pause * 1.5);
    } finally {
      busy = false;
    }
    if (document.hidden) show(''); else plan();
  };
  again.addEventListener('click', (event) => { event.preventDefault(); pause = Number(retry); ask(); });
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) { clearInterval(timer); show(''); } else ask();
  });
  if (!document.hidden) plan();
})();`;

/** Nothing but the two texts above and the icon in the page itself may load or run; it may ask its own origin. */
export const ERROR_PAGE_POLICY = [
  "default-src 'none'",
  `style-src ${policyHash(ERROR_PAGE_STYLE)}`,
  `script-src ${policyHash(ERROR_PAGE_SCRIPT)}`,
  "connect-src 'self'",
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
].join('; ');
