/** The pages around the sign-in, as HTML. Everything that is not of this program is escaped. Pure. */
import { escapeHtml, renderDocument } from '../../html.ts';
import { PAGE_POLICY, PAGE_STYLE, PASSAGE_POLICY, PASSAGE_SCRIPT } from './page-assets.ts';
import type { Session } from './session.ts';

export interface Page {
  readonly html: string;
  /** `Content-Security-Policy`. */
  readonly policy: string;
}

/** Where the routes are; all on the apex. */
export const PATHS = {
  home: '/',
  login: '/auth/login',
  callback: '/auth/callback',
  signOut: '/auth/sign-out',
  signedOut: '/auth/signed-out',
  providerSignOut: '/auth/provider-sign-out',
  portStart: '/auth/port/start',
  portChain: '/auth/port/chain',
} as const;

const MARK =
  '<svg class="mark" viewBox="0 0 48 48" aria-hidden="true"><path d="M6 40V24a18 18 0 0 1 36 0v16M16 40V25a8 8 0 0 1 16 0v15M3 40h42"/></svg>';
const ICON =
  "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 48 48' fill='none' stroke='%23c2410c' stroke-width='4' stroke-linecap='round'%3E%3Cpath d='M6 40V24a18 18 0 0 1 36 0v16M16 40V25a8 8 0 0 1 16 0v15M3 40h42'/%3E%3C/svg%3E";

const document = (title: string, body: string, attributes = ''): string =>
  renderDocument({ title, icon: ICON, style: PAGE_STYLE, attributes, body });

const sheet = (title: string, text: string, actions = ''): string => `<main>
<div class="text">
${MARK}
<h1>${escapeHtml(title)}</h1>
${text}
${actions === '' ? '' : `<div class="again">${actions}</div>`}
</div>
</main>`;

const page = (title: string, body: string): Page => ({ html: document(title, body), policy: PAGE_POLICY });
const link = (href: string, text: string, kind: 'button' | 'other' = 'button'): string =>
  `<a class="${kind}" href="${escapeHtml(href)}">${escapeHtml(text)}</a>`;

/** Goes on by itself. `keep` and `restore` say what becomes of a fragment of the address. */
export const passagePage = (
  next: string,
  fragment: { readonly keep?: string; readonly restore?: string } = {},
): Page => {
  const attributes = Object.entries({ next, ...fragment })
    .map(([name, value]) => ` data-${name}="${escapeHtml(value)}"`)
    .join('');
  const go = `<noscript><meta http-equiv="refresh" content="0;url=${escapeHtml(next)}"></noscript>`;
  const body = `${go}<main><div class="text"><p class="last">${link(next, 'Go on', 'other')}</p></div></main>
<script>${PASSAGE_SCRIPT}</script>`;
  return { html: document('One moment', body, attributes), policy: PASSAGE_POLICY };
};

export const signedOutLandingPage = (domain: string, canSignIn: boolean): Page =>
  page(
    'Gitpod Gateway',
    canSignIn
      ? sheet(
          'This is a Gitpod Gateway',
          '<p>Sign in to see your development environments and the ports they have open.</p>',
          link(PATHS.login, 'Sign in'),
        )
      : sheet(
          'This is a Gitpod Gateway',
          `<p>It carries HTTPS to development environments in private networks. The port of an environment has an address of its own:</p>
<p><code>https://&lt;port&gt;--&lt;environment&gt;.${escapeHtml(domain)}</code></p>
<p>Somebody who gave you such an address can tell you more.</p>`,
        ),
  );

export interface ListedPort {
  readonly port: number;
  readonly name: string | undefined;
  readonly url: string;
  /** Who may open it. */
  readonly audience: string;
}

export interface ListedEnvironment {
  readonly id: string;
  readonly isOnline: boolean;
  readonly ports: readonly ListedPort[];
}

const count = (number: number, one: string, many: string): string => `${number} ${number === 1 ? one : many}`;

const renderPort = ({ port, name, url, audience }: ListedPort): string =>
  `<li><a href="${escapeHtml(url)}">${port}${name === undefined ? '' : ` · ${escapeHtml(name)}`}</a><small>${escapeHtml(audience)}</small></li>`;

const renderEnvironment = ({ id, isOnline, ports }: ListedEnvironment): string => `<section class="env">
<h2>${escapeHtml(id)} <span class="state${isOnline ? ' on' : ''}">${isOnline ? 'online' : 'offline'}</span></h2>
${ports.length === 0 ? '<p class="none">No port is exposed.</p>' : `<ul class="ports">${ports.map(renderPort).join('')}</ul>`}
</section>`;

const renderOrganizations = (organizations: readonly string[]): string =>
  organizations.length === 0
    ? 'in no organization'
    : organizations.map((organization) => escapeHtml(organization)).join(', ');

/** `hidden`: how many more there are than are shown. */
export const landingPage = (
  { name, user, organizations }: Session,
  environments: readonly ListedEnvironment[],
  hidden: number,
): Page => {
  const known = name === user ? '' : `${escapeHtml(user)} · `;
  const header = `<header class="who"><div><h1>${escapeHtml(name)}</h1><p>${known}${renderOrganizations(organizations)}</p></div>
<form method="post" action="${PATHS.signOut}"><button class="other">Sign out</button></form></header>`;
  const more = hidden === 0 ? '' : `<div class="empty"><p>${count(hidden, 'more is', 'more are')} not shown.</p></div>`;
  const list =
    environments.length === 0
      ? `<div class="empty"><p>You have no environments here. One appears when its runner announces it with <b>${escapeHtml(user)}</b> as its creator.</p></div>`
      : environments.map(renderEnvironment).join('\n') + more;
  return page('Your environments', `<main>\n${header}\n${list}\n</main>`);
};

/** The same for what does not exist and for what this visitor may not open: nothing of the address is in it. */
export const notAllowedPage = ({ name, user }: Session): Page =>
  page(
    'Not found',
    sheet(
      'There is nothing here for you',
      `<p>No environment has this port, or <b>${escapeHtml(name)}</b>${name === user ? '' : ` (${escapeHtml(user)})`} may not open it. Ask its owner, or use another account.</p>`,
      // Empty addresses are this page's own, whatever it is.
      `${link('', 'Try again')}<form method="post" action=""><button class="other">Switch account</button></form>`,
    ),
  );

export const signedOutPage = (canSignOutOfProvider: boolean): Page =>
  page(
    'Signed out',
    sheet(
      'You are signed out',
      `<p>Your session here has ended, and with it those at all ports of environments.${canSignOutOfProvider ? ' You may still be signed in at the provider, which would let you in again without a question.' : ''}</p>`,
      link(PATHS.login, 'Sign in again') +
        (canSignOutOfProvider ? link(PATHS.providerSignOut, 'Sign out of the provider', 'other') : ''),
    ),
  );

export interface FailureText {
  readonly title: string;
  readonly message: string;
}

/** `again` is where the visitor starts anew. */
export const failedPage = ({ title, message }: FailureText, again: string, requestId: string): Page =>
  page(
    title,
    sheet(title, `<p>${escapeHtml(message)}</p>`, link(again, 'Start again')).replace(
      '</main>',
      `<dl><dt>Request</dt><dd>${escapeHtml(requestId)}</dd></dl></main>`,
    ),
  );
