/**
 * Every limit of the gateway that an operator may set (`limits:` in the configuration, `GATEWAY_LIMITS_…`). Names end
 * in their unit; counts have none. The comment says why the value is what it is, and what happens beyond it.
 */
export const GATEWAY_LIMITS = {
  // HTTP from the internet

  /** Head of an HTTP/1.1 request. Node's own default; browsers with full cookie jars stay below. Beyond: 431, close. */
  maxRequestHeaderBytes: 16 << 10,
  /** Decoded header list of an HTTP/2 request (RFC 9113 section 6.5.2): HPACK bombs end here. Beyond: 431 or reset. */
  maxHeaderListBytes: 64 << 10,
  /** Field lines of a request; more only occur in attacks on header handling. Beyond: 431. */
  maxRequestHeaderFields: 256,
  /** From the first byte of a connection, or of the next request, to the end of its head: slow-header clients. Beyond: 408, close. */
  headersTimeoutMs: 15_000,
  /** A TLS handshake takes three round trips; slower is a stalled client. Beyond: the connection is closed. */
  tlsHandshakeTimeoutMs: 10_000,
  /** An idle kept-alive connection; above the 60 s that load balancers keep theirs, so that they close first. Beyond: closed. */
  keepAliveTimeoutMs: 75_000,
  /** An HTTP/2 connection without an open stream; browsers reopen without a visible delay. Beyond: GOAWAY. */
  sessionIdleTimeoutMs: 300_000,
  /** Requests of one HTTP/2 connection at the upstream, reset ones included (rapid reset). Beyond: refused, then the connection is closed. */
  requestsInFlightPerConnection: 100,
  /** Streams that a client resets in one HTTP/2 connection within 10 s; browsers that navigate reset dozens. Beyond: closed. */
  resetsPerConnection: 200,
  /** Open connections from one client address; an office behind one NAT has a few hundred. Beyond: closed at once. */
  connectionsPerAddress: 1_000,
  /** Open connections in all, 40 KiB each with TLS. Beyond: closed at once. */
  connections: 20_000,
  /** Requests in flight to one environment; one must not take all. Beyond: 429. */
  requestsInFlightPerEnvironment: 1_000,
  /** Requests in flight to all environments of one organization, upgraded ones included; a quarter of `connections`. Beyond: 429. */
  requestsInFlightPerOrganization: 5_000,

  // To the application, through the tunnel

  /** From OPEN to STATUS; the tunnel client gives up on an address sooner. Beyond: 504. */
  connectTimeoutMs: 10_000,
  /** From the end of the request to the head of the response; slow pages of dev servers take tens of seconds. Beyond: 504. */
  responseHeaderTimeoutMs: 60_000,
  /** Head of a response, and the sum of its 1xx heads. Beyond: 502. */
  maxResponseHeaderBytes: 16 << 10,
  /** Interim responses (1xx) before the final one; real ones are one or two. Beyond: 502. */
  informationalResponses: 64,
  /** A response on which nothing moves in either direction while neither end is blocked. Upgraded streams may be silent. Beyond: cut. */
  idleStreamTimeoutMs: 3_600_000,
  /** A client that takes nothing of what waits for it. Beyond: the stream is cut and its memory freed. */
  stalledStreamTimeoutMs: 300_000,
  /** A request body that stops arriving. Beyond: cut. */
  stalledUploadTimeoutMs: 300_000,
  /** Targets with a pool of kept upstream connections. Beyond: the one unused for longest is closed. */
  upstreamPools: 2_000,
  /** Connections to one target at once, upgrades not counted. Beyond: requests wait, up to connectTimeoutMs. */
  connectionsPerTarget: 256,
  /** A kept upstream connection without a request; below the 5 s after which Node servers close theirs. Beyond: closed. */
  upstreamIdleTimeoutMs: 4_000,

  // Logins (OAuth callbacks)

  /** Form of a callback, which is buffered; providers send some KiB. Beyond: 413. */
  maxCallbackBodyBytes: 64 << 10,
  /** Until that form has arrived; it is one packet or two. Beyond: 408. */
  callbackBodyTimeoutMs: 15_000,
  /** A callback waits for its runner to come back: codes live for minutes, a restart takes seconds. Beyond: 503. */
  callbackWaitMs: 15_000,
  /** Callbacks that wait for one runner; each holds a request and its form. Beyond: 503 at once. */
  callbacksWaitingPerRunner: 100,

  // Tunnels

  /** Connections that have not shown who they are, in all (memory under a flood). Beyond: closed at once. */
  unauthenticatedLegs: 256,
  /** The same, from one address; many runners may share a NAT. Beyond: closed at once. */
  unauthenticatedLegsPerAddress: 16,
  /** Until `hello`, which needs one round trip. Beyond: closed with `handshake_timeout`. */
  helloTimeoutMs: 5_000,
  /** Legs of one runner at this gateway: two processes in an update, with replacements. Beyond: `goodbye limit`. */
  legsPerRunner: 16,
  /** Legs of the gateway. 110 KiB each. Beyond: `goodbye limit`. */
  legs: 20_000,
  /** Tunnel streams of one leg. Beyond: 503. */
  streamsPerLeg: 4_096,
  /** Tunnel streams to one environment, upgrades included; one must not take the whole leg. Beyond: 429. */
  streamsPerEnvironment: 2_048,

  // Joining and renewing

  /** Body of an API request; a join has 500 bytes. Beyond: 413. */
  maxApiBodyBytes: 16 << 10,
  /** Joins and renewals of one runner within ten minutes: a process in a crash loop. Beyond: 429 with retryAfterMs. */
  apiAttemptsPerRunner: 20,
  /** The same from one address, whatever runner it names; many runners may share a NAT. Beyond: 429 with retryAfterMs. */
  apiAttemptsPerAddress: 300,
} as const;

/** Those that an organization may have others of: `organizations.<name>.limits`. */
export const ORGANIZATION_LIMITS = [
  'requestsInFlightPerEnvironment',
  'requestsInFlightPerOrganization',
  'legsPerRunner',
] as const satisfies readonly (keyof typeof GATEWAY_LIMITS)[];

/** The limits in force: the defaults above with what the configuration overrides. */
export type GatewayLimits = { readonly [Name in keyof typeof GATEWAY_LIMITS]: number };
export type OrganizationLimits = Pick<GatewayLimits, (typeof ORGANIZATION_LIMITS)[number]>;
