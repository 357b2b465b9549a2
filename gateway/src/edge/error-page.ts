/** What a person sees instead of an application: one self-contained page, in light and dark, with and without script. */
import { GATEWAY_ERRORS, type GatewayErrorCode, type GatewayErrorEntry } from '../errors.ts';
import { escapeHtml, renderDocument } from '../html.ts';
import { ERROR_PAGE_SCRIPT, ERROR_PAGE_STYLE } from './error-page-assets.ts';

export interface ErrorDetails {
  readonly code: GatewayErrorCode;
  readonly requestId: string;
  /** Host of the request, shown as what it is: text of the client. */
  readonly host: string;
  readonly port?: number | undefined;
  readonly environmentId?: string | undefined;
  /** Absent: trying again by itself makes no sense. */
  readonly retryAfterSeconds?: number | undefined;
  /** Wall clock, ms. */
  readonly now: number;
}

export interface ErrorText {
  readonly status: number;
  readonly title: string;
  readonly message: string;
}

type Stage = 'gateway' | 'runner' | 'application';
interface Stop {
  readonly stage: Stage;
  /** Two or three words below the mark. */
  readonly note: string;
  /** The way to the stage is interrupted, rather than the stage itself failing. */
  readonly apart?: true;
}

/** Where on its way each error stops a request. */
const STOPS: Readonly<Record<GatewayErrorCode, Stop>> = {
  bad_request: { stage: 'gateway', note: 'not accepted' },
  bad_host: { stage: 'gateway', note: 'not accepted' },
  sign_in_required: { stage: 'gateway', note: 'private' },
  port_token_required: { stage: 'gateway', note: 'private' },
  session_ambiguous: { stage: 'gateway', note: 'two sessions' },
  access_ended: { stage: 'gateway', note: 'withdrawn' },
  environment_blocked: { stage: 'gateway', note: 'blocked' },
  token_required: { stage: 'gateway', note: 'token needed' },
  token_invalid: { stage: 'gateway', note: 'not valid' },
  token_expired: { stage: 'gateway', note: 'expired' },
  token_forbidden: { stage: 'gateway', note: 'not allowed' },
  cross_origin: { stage: 'gateway', note: 'not accepted' },
  sign_in_invalid: { stage: 'gateway', note: 'not signed in' },
  sign_in_refused: { stage: 'gateway', note: 'not signed in' },
  sign_in_misconfigured: { stage: 'gateway', note: 'not set up' },
  sign_in_clock: { stage: 'gateway', note: 'wrong clock' },
  sign_in_unavailable: { stage: 'gateway', note: 'no sign-in' },
  not_found: { stage: 'gateway', note: 'nothing here' },
  unknown_environment: { stage: 'gateway', note: 'not found' },
  port_not_exposed: { stage: 'runner', note: 'not exposed' },
  method_not_allowed: { stage: 'gateway', note: 'not accepted' },
  login_method_not_allowed: { stage: 'gateway', note: 'not accepted' },
  body_too_large: { stage: 'gateway', note: 'too large' },
  unsupported_media_type: { stage: 'gateway', note: 'not accepted' },
  login_interrupted: { stage: 'runner', note: 'tunnel cut', apart: true },
  login_service_unreachable: { stage: 'application', note: 'no answer', apart: true },
  login_not_configured: { stage: 'runner', note: 'not set up' },
  login_runner_offline: { stage: 'runner', note: 'offline', apart: true },
  login_unavailable: { stage: 'gateway', note: 'not now' },
  request_timeout: { stage: 'gateway', note: 'too slow' },
  expectation_failed: { stage: 'gateway', note: 'not accepted' },
  misdirected: { stage: 'gateway', note: 'other gateway' },
  too_many_requests: { stage: 'gateway', note: 'too many' },
  headers_too_large: { stage: 'gateway', note: 'not accepted' },
  internal: { stage: 'gateway', note: 'failed' },
  method_not_supported: { stage: 'gateway', note: 'not accepted' },
  upstream_refused: { stage: 'application', note: 'not listening', apart: true },
  logs_unreachable: { stage: 'application', note: 'no log server', apart: true },
  upstream_forbidden: { stage: 'runner', note: 'not allowed' },
  upstream_reset: { stage: 'application', note: 'hung up' },
  upstream_invalid: { stage: 'application', note: 'not HTTP' },
  upstream_speaks_tls: { stage: 'application', note: 'speaks HTTPS' },
  upstream_speaks_plain: { stage: 'application', note: 'speaks HTTP' },
  tunnel_lost: { stage: 'runner', note: 'tunnel cut', apart: true },
  runner_offline: { stage: 'runner', note: 'offline', apart: true },
  overloaded: { stage: 'gateway', note: 'overloaded' },
  draining: { stage: 'gateway', note: 'restarting' },
  directory_unavailable: { stage: 'gateway', note: 'no directory' },
  upstream_connect_timeout: { stage: 'application', note: 'no answer', apart: true },
  upstream_timeout: { stage: 'application', note: 'silent' },
  loop: { stage: 'application', note: 'sent it back' },
};

const WAY = [
  {
    stage: 'browser',
    name: 'Browser',
    icon: '<rect x="3" y="4" width="18" height="16" rx="2.5"/><path d="M3 9h18M6.5 6.6h.01M9.5 6.6h.01"/>',
  },
  {
    stage: 'gateway',
    name: 'Gateway',
    icon: '<path d="M4 21V9a8 8 0 0 1 16 0v12M9 21V11a3 3 0 0 1 6 0v10M2.5 21h19"/>',
  },
  {
    stage: 'runner',
    name: 'Runner',
    icon: '<rect x="3.5" y="4" width="17" height="7" rx="2"/><rect x="3.5" y="13" width="17" height="7" rx="2"/><path d="M7.5 7.5h.01M7.5 16.5h.01M11 7.5h5.5M11 16.5h5.5"/>',
  },
  { stage: 'application', name: 'Application', icon: '<path d="m8.5 7-5 5 5 5M15.5 7l5 5-5 5M13.2 5l-2.4 14"/>' },
] as const;

const CHECK = '<i><svg viewBox="0 0 12 12" aria-hidden="true"><path d="m2 6.5 2.6 2.6L10 3.2"/></svg></i>';
const CROSS = '<i><svg viewBox="0 0 12 12" aria-hidden="true"><path d="m2.5 2.5 7 7m0-7-7 7"/></svg></i>';
const ICON =
  "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'%3E%3Ccircle cx='12' cy='12' r='11' fill='%23c2410c'/%3E%3Cpath d='M12 6v7m0 4h.01' stroke='white' stroke-width='2.6' stroke-linecap='round'/%3E%3C/svg%3E";

const fill = (text: string, { port, environmentId }: Pick<ErrorDetails, 'port' | 'environmentId'>): string => {
  const withPort =
    port === undefined
      ? text.replaceAll('Port {port}', 'The port').replaceAll('port {port}', 'this port')
      : text.replaceAll('{port}', String(port));
  return withPort.replaceAll('{environment}', environmentId ?? 'this environment');
};

/** Status, title and message of an error, as plain text. */
export const errorText = (details: Pick<ErrorDetails, 'code' | 'port' | 'environmentId'>): ErrorText => {
  const entry: GatewayErrorEntry = GATEWAY_ERRORS[details.code];
  return { status: entry.status, title: fill(entry.title, details), message: fill(entry.message, details) };
};

const renderWay = (stop: Stop): string => {
  const stopIndex = WAY.findIndex(({ stage }) => stage === stop.stage);
  const items = WAY.map(({ name, icon }, index) => {
    const state =
      index < stopIndex ? 'reached' : index === stopIndex ? `stopped${stop.apart ? ' apart' : ''}` : 'ahead';
    const mark = index < stopIndex ? CHECK : index === stopIndex ? CROSS : '';
    const note = index === stopIndex ? `<small>${escapeHtml(stop.note)}</small>` : '';
    return `<li class="${state}"><span class="dot"><svg viewBox="0 0 24 24" aria-hidden="true">${icon}</svg>${mark}</span><b>${name}</b>${note}</li>`;
  });
  return `<ol class="way" aria-label="The way of the request; it stopped at the ${stop.stage}: ${escapeHtml(stop.note)}">${items.join('')}</ol>`;
};

/** The whole page. Everything that is not of this program is escaped. */
export const renderErrorPage = (details: ErrorDetails): string => {
  const { status, title, message } = errorText(details);
  const time = new Date(details.now).toISOString().replace(/\.\d+Z$/, 'Z');
  const host = details.host.slice(0, 253);
  const facts: [string, string][] = [
    ['Address', host],
    ['Code', `${status} ${details.code}`],
    ['Time', time],
    ['Request', details.requestId],
  ];
  const shown = facts.filter(([, value]) => value !== '');
  const copied = shown.map(([name, value]) => `${name}: ${value}`).join('\n');
  const retry = details.retryAfterSeconds === undefined ? '' : ` data-retry="${details.retryAfterSeconds}"`;
  const list = shown.map(([name, value]) => `<dt>${name}</dt><dd>${escapeHtml(value)}</dd>`).join('');
  return renderDocument({
    title,
    icon: ICON,
    style: ERROR_PAGE_STYLE,
    attributes: ` data-code="${details.code}"${retry} data-details="${escapeHtml(copied)}"`,
    body: `<main>
${renderWay(STOPS[details.code])}
<div class="text">
<h1>${escapeHtml(title)}</h1>
<p>${escapeHtml(message)}</p>
${retry === '' ? '' : '<div class="again"><a class="button" id="again" href="">Try again</a><span class="wait" id="wait"></span></div>'}
</div>
<dl>${list}<dt></dt><dd class="copy"><button id="copy" type="button" hidden>Copy details</button></dd></dl>
</main>
<footer>This answer comes from the gateway, not from the application.</footer>
<script>${ERROR_PAGE_SCRIPT}</script>`,
  });
};
