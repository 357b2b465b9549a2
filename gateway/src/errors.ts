/**
 * Every answer that the gateway gives by itself instead of an application: code → HTTP status and what people read.
 * The code also stands in the `Gateway-Error` header, in the access log and in metrics; codes are never reused.
 */
export interface GatewayErrorEntry {
  readonly status: number;
  /** Heading of the page. */
  readonly title: string;
  /** One or two sentences: what happened and what to do. `{port}` and `{environment}` are filled in, escaped. */
  readonly message: string;
  /** Seconds after which trying again makes sense; the page does so by itself. */
  readonly retryAfterSeconds?: number;
  /** With 405: the methods that are allowed (RFC 9110 section 15.5.6). */
  readonly allow?: string;
}

export const GATEWAY_ERRORS = {
  bad_request: {
    status: 400,
    title: 'Bad request',
    message: 'The request is malformed or ambiguous, so it was not passed on.',
  },
  bad_host: {
    status: 400,
    title: 'Bad host',
    message: 'The Host of the request is missing or malformed, or names a port this gateway does not serve.',
  },
  sign_in_required: {
    status: 401,
    title: 'This port is private',
    message:
      'Port {port} is not open to everyone. Open its address in a browser tab of its own and sign in there, or send a token for it as "Authorization: Bearer …" or "X-Gitpod-Port-Token: …"; an operator makes one with: gateway token create --scope port --environment {environment} --port {port}.',
  },
  port_token_required: {
    status: 401,
    title: 'This port is private',
    message:
      'Port {port} is not open to everyone, and this gateway has no sign-in, so it opens with a token only, sent as "Authorization: Bearer …" or "X-Gitpod-Port-Token: …"; an operator makes one with: gateway token create --scope port --environment {environment} --port {port}.',
  },
  session_ambiguous: {
    status: 400,
    title: 'Two sessions at once',
    message:
      'The browser sent two sessions for this port, so that it is not clear who asks. Delete the cookies of this address and sign in again.',
  },
  token_required: {
    status: 401,
    title: 'A token is needed',
    message:
      'Send a token for this environment as "Authorization: Bearer …". An operator makes one with: gateway token create.',
  },
  token_invalid: {
    status: 401,
    title: 'The token is not valid',
    message: 'The token was not made by this gateway, is damaged, or was voided. Ask for a new one.',
  },
  token_expired: {
    status: 401,
    title: 'The token has expired',
    message: 'Tokens live for one hour. Ask for a new one.',
  },
  token_forbidden: {
    status: 403,
    title: 'The token is not for this',
    message: 'The token is valid, but for another environment or another scope.',
  },
  access_ended: {
    status: 403,
    title: 'No longer open to you',
    message: 'Who may open this port was changed while the request was under way.',
  },
  environment_blocked: {
    status: 403,
    title: 'Environment blocked',
    message: 'The operator of this gateway has blocked the environment. Nothing of it is served.',
  },
  cross_origin: {
    status: 403,
    title: 'Not from here',
    message: 'This address takes requests of its own pages only.',
  },
  sign_in_invalid: {
    status: 400,
    title: 'This sign-in cannot be finished',
    message: 'It has expired, was finished before, or was begun in another browser. Start again.',
  },
  sign_in_refused: {
    status: 403,
    title: 'You were not signed in',
    message: 'The provider did not let you in, or you cancelled.',
  },
  sign_in_misconfigured: {
    status: 502,
    title: 'The sign-in is not set up right',
    message:
      'The gateway and the sign-in provider do not agree with each other. The operator of the gateway finds the reason in its log, under the request below.',
  },
  sign_in_clock: {
    status: 502,
    title: 'The clocks do not agree',
    message:
      'The clocks of the gateway and of the sign-in provider differ by more than half a minute, so that nobody can sign in. The operator of the gateway sets its clock.',
  },
  sign_in_unavailable: {
    status: 503,
    title: 'Nobody can sign in right now',
    message: 'The sign-in provider does not answer. Ports that are open to everyone are not affected.',
    retryAfterSeconds: 5,
  },
  not_found: {
    status: 404,
    title: 'Nothing here',
    message: 'No environment or service has this address. Check the link.',
  },
  unknown_environment: {
    status: 404,
    title: 'Environment not found',
    message: 'No environment has this address. It may have been deleted, or the link may be mistyped.',
  },
  port_not_exposed: {
    status: 404,
    title: 'Port {port} is not exposed',
    message: 'The environment is running, but it does not expose port {port}. Expose the port, then reload.',
  },
  method_not_allowed: {
    status: 405,
    title: 'Method not allowed',
    message: 'This method is not allowed here.',
    allow: 'GET, HEAD',
  },
  login_method_not_allowed: {
    status: 405,
    title: 'Method not allowed',
    message: 'A login is finished with GET, or with POST of a form.',
    allow: 'GET, POST',
  },
  request_timeout: { status: 408, title: 'Request timed out', message: 'The request took too long to arrive.' },
  body_too_large: {
    status: 413,
    title: 'Too large',
    message: 'The body of the request is larger than the gateway accepts here.',
  },
  unsupported_media_type: {
    status: 415,
    title: 'Not a form',
    message: 'The body of this request has to be a form (application/x-www-form-urlencoded).',
  },
  expectation_failed: {
    status: 417,
    title: 'Expectation failed',
    message: 'The request expects something other than 100-continue of the gateway.',
  },
  misdirected: { status: 421, title: 'Wrong gateway', message: 'This gateway does not serve the host of the request.' },
  too_many_requests: {
    status: 429,
    title: 'Too many requests',
    message: 'There are too many requests at once. Try again in a moment.',
    retryAfterSeconds: 5,
  },
  headers_too_large: {
    status: 431,
    title: 'Headers too large',
    message: 'The headers of the request are larger than the gateway accepts.',
  },
  internal: {
    status: 500,
    title: 'The gateway failed',
    message: 'The gateway could not handle the request. This is a fault of the gateway, not of the application.',
  },
  method_not_supported: {
    status: 501,
    title: 'Method not supported',
    message: 'The gateway does not pass on this method.',
  },
  upstream_refused: {
    status: 502,
    title: 'Nothing listens on port {port}',
    message:
      'The environment is running, but nothing answers on port {port}. Start the server; if it is running, it may listen on another address: make it listen on 0.0.0.0 (or the address the environment announces).',
    retryAfterSeconds: 5,
  },
  logs_unreachable: {
    status: 502,
    title: 'The log is not reachable',
    message:
      'The log server of the environment cannot be reached right now: the environment may be starting, or its runner may be reconnecting. Try again in a moment.',
    retryAfterSeconds: 1,
  },
  upstream_forbidden: {
    status: 502,
    title: 'Target not allowed',
    message: 'The runner does not connect to this target.',
  },
  upstream_reset: {
    status: 502,
    title: 'The connection was cut',
    message: 'The application closed the connection before it answered.',
  },
  upstream_invalid: {
    status: 502,
    title: 'Broken answer',
    message: 'The application answered with something that is not valid HTTP.',
  },
  upstream_speaks_tls: {
    status: 502,
    title: 'Port {port} speaks HTTPS',
    message:
      'The application on port {port} expects TLS, but the port is exposed as http. Expose it with protocol https, or open the address with an "s" behind the port.',
  },
  upstream_speaks_plain: {
    status: 502,
    title: 'Port {port} speaks plain HTTP',
    message:
      'The port is exposed as https, but the application on port {port} answers without TLS. Expose it with protocol http.',
  },
  tunnel_lost: {
    status: 502,
    title: 'The tunnel was cut',
    message: 'The tunnel to the runner was lost while the request was under way.',
    retryAfterSeconds: 5,
  },
  // Logins have no retryAfterSeconds: the page would send a one-time code again.
  login_interrupted: {
    status: 502,
    title: 'The login was cut off',
    message: 'The connection to the runner was cut while it finished the login. Start the login again.',
  },
  login_service_unreachable: {
    status: 502,
    title: 'The login could not be finished',
    message:
      'The runner is connected, but its service that finishes logins does not answer. Start the login again once that service runs.',
  },
  login_not_configured: {
    status: 502,
    title: 'This runner finishes no logins',
    message:
      'The runner is connected, but its tunnel client has no service to pass logins to. Its operator sets oauth.target; then start the login again.',
  },
  login_runner_offline: {
    status: 503,
    title: 'The login could not be finished',
    message:
      'The runner that this login is for is not connected, and did not come back in time. Start the login again in a moment.',
  },
  login_unavailable: {
    status: 503,
    title: 'The login could not be finished',
    message: 'The gateway or the runner has too much to do, or is restarting. Start the login again in a moment.',
  },
  runner_offline: {
    status: 503,
    title: 'The environment is offline',
    message: 'The environment is known, but its runner is not connected right now. Try again in a moment.',
    retryAfterSeconds: 5,
  },
  overloaded: {
    status: 503,
    title: 'Overloaded',
    message: 'The gateway or the runner has as much work as it takes. Try again in a moment.',
    retryAfterSeconds: 5,
  },
  draining: {
    status: 503,
    title: 'Restarting',
    message: 'The gateway or the runner is restarting. Try again in a moment.',
    retryAfterSeconds: 5,
  },
  directory_unavailable: {
    status: 503,
    title: 'Directory unavailable',
    message: 'The gateway cannot look up environments right now. Try again in a moment.',
    retryAfterSeconds: 5,
  },
  upstream_connect_timeout: {
    status: 504,
    title: 'Port {port} does not answer',
    message:
      'No connection to port {port} came about in time. A firewall or a wrong host in the announcement may be the reason.',
    retryAfterSeconds: 5,
  },
  upstream_timeout: {
    status: 504,
    title: 'The application is silent',
    message: 'The application accepted the request but did not begin to answer in time.',
  },
  loop: {
    status: 508,
    title: 'Loop',
    message: 'The request has passed this gateway before. The application sends it back in a circle.',
  },
} as const satisfies Record<string, GatewayErrorEntry>;

export type GatewayErrorCode = keyof typeof GATEWAY_ERRORS;
