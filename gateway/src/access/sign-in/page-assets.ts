/** Style and scripts of the pages around the sign-in. They are constant, so that the policies can name them by hash. */
import { policyHash } from '../../html.ts';
import { ERROR_PAGE_STYLE } from '../../edge/error-page-assets.ts';

export const PAGE_STYLE = `${ERROR_PAGE_STYLE}
.mark{display:block;width:44px;height:44px;margin-bottom:20px;color:var(--stop)}
.mark path{fill:none;stroke:currentColor;stroke-width:3;stroke-linecap:round}
.text p.last{margin-bottom:0}
.text b,.text code{color:var(--ink);font-weight:600}
.text code{font:600 .9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.again form{display:contents}
button.main{padding:13px 18px;font-size:15px;background:var(--accent);color:var(--onAccent);border:0;border-radius:9px}
button.main:hover{color:var(--onAccent);opacity:.9}
button.other,a.other{padding:12px 17px;font-size:15px;font-weight:600;line-height:1;color:var(--ink);border:1px solid var(--line);border-radius:9px;text-decoration:none;background:none}
button.other:hover,a.other:hover{border-color:var(--soft)}
.who{display:flex;flex-wrap:wrap;align-items:center;justify-content:space-between;gap:14px 20px;padding:24px 32px;border-bottom:1px solid var(--line)}
.who h1{font-size:20px}
.who p{color:var(--soft);font-size:14px;margin-top:2px;overflow-wrap:anywhere}
.who div{min-width:0}
.env{padding:22px 32px;border-top:1px solid var(--line)}
.env:first-of-type{border-top:0}
.env h2{display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 12px;font:600 15px/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.state{font:600 13px/1.4 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--soft);white-space:nowrap}
.state::before{content:"";display:inline-block;width:8px;height:8px;margin-right:6px;border-radius:50%;background:var(--soft)}
.state.on{color:var(--ok)}
.state.on::before{background:var(--ok)}
.ports{list-style:none;padding:0;margin-top:12px;display:flex;flex-direction:column;gap:8px}
.ports li{display:flex;flex-wrap:wrap;align-items:baseline;justify-content:space-between;gap:2px 16px;border:1px solid var(--line);border-radius:9px;padding:10px 14px}
.ports a{color:var(--ink);font-weight:600;text-underline-offset:3px;overflow-wrap:anywhere}
.ports small{color:var(--soft);font-size:13px}
.none{color:var(--soft);font-size:14px;margin-top:8px}
.env .none,.empty p{overflow-wrap:anywhere}
.empty{padding:26px 32px 30px;color:var(--soft)}
.empty b{color:var(--ink)}
a:focus-visible{outline:3px solid var(--ok);outline-offset:2px;border-radius:4px}
@media (max-width:520px){.who,.env,.empty{padding-left:20px;padding-right:20px}}`;

/**
 * Goes on to the next address, and carries the fragment of the first one over the provider's forms: it stays in the
 * browser, in this tab. The key is the hash that the port host made for this visit.
 */
export const PASSAGE_SCRIPT = `
(() => {
  const { next, keep, restore } = document.body.dataset;
  let target = next;
  try {
    if (keep && location.hash.length > 1) {
      sessionStorage.setItem('fragment ' + keep, location.hash);
      target += '&fragment=1';
    }
    // Redirects have carried it here, and this page is none.
    if (!keep && !restore) target += location.hash;
    if (restore) {
      target += sessionStorage.getItem('fragment ' + restore) ?? '';
      sessionStorage.removeItem('fragment ' + restore);
    }
  } catch {}
  location.replace(target);
})();`;

const policy = (...more: string[]): string =>
  [
    "default-src 'none'",
    `style-src ${policyHash(PAGE_STYLE)}`,
    'img-src data:',
    "base-uri 'none'",
    "frame-ancestors 'none'",
    ...more,
  ].join('; ');

/** Nothing runs; forms go to the own origin. */
export const PAGE_POLICY = policy("form-action 'self'");
/** The one script, and no form. */
export const PASSAGE_POLICY = policy(`script-src ${policyHash(PASSAGE_SCRIPT)}`, "form-action 'none'");
