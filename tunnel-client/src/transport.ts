/** The transports that a leg may use, and why one is used. */
import type { TransportName } from '../../shared/src/transport/connection.ts';

/** Best first: one is tried when those before it give no answer. */
export const TRANSPORTS = ['quic', 'webtransport', 'websocket'] as const satisfies readonly TransportName[];
export type Transport = (typeof TRANSPORTS)[number];

export const TRANSPORT_CHOICES = ['auto', ...TRANSPORTS] as const;
/** `auto`: the best one that works. */
export type TransportChoice = (typeof TRANSPORT_CHOICES)[number];

export const TRANSPORT_LABELS: Readonly<Record<Transport, string>> = {
  quic: 'QUIC',
  webtransport: 'WebTransport',
  websocket: 'WebSocket',
};

/** Why a leg uses the transport that it uses. */
const TRANSPORT_REASONS = {
  configured: 'the configuration says so',
  first: 'it is the first choice',
  quic_silent: 'QUIC gave no answer: UDP seems to be blocked',
  quic_failed: 'QUIC could not be used',
  no_http2: 'WebTransport needs HTTP/2, which something on the way does not speak',
  webtransport_silent: 'neither QUIC nor WebTransport gave an answer',
  webtransport_failed: 'neither QUIC nor WebTransport could be used',
  lossy: 'QUIC loses packets on this path, and carries less',
  better: 'it works again, and is the better one',
} as const;
export type TransportReason = keyof typeof TRANSPORT_REASONS;

/** For a person: `WebTransport, because QUIC gave no answer: UDP seems to be blocked`. */
export const transportSentence = (transport: TransportName, reason: TransportReason): string => {
  const label = transport === 'memory' ? 'memory' : TRANSPORT_LABELS[transport];
  return `${label}, because ${TRANSPORT_REASONS[reason]}`;
};
