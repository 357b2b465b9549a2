/** A leg over each transport, with a transfer. The legs stay on standby: no gateway sends anything over them. */
import { randomBytes } from 'node:crypto';
import { REFUSALS, RefusedError } from '../../../shared/src/errors.ts';
import { sign } from '../../../shared/src/identity/keys.ts';
import type { GatewayAddress } from '../../../shared/src/protocol/messages.ts';
import { createQuicDialer } from '../../../shared/src/transport/quic.ts';
import { createLegDialer, type DialLeg } from '../leg-dialer.ts';
import { MTU_ADVICE } from '../outbound.ts';
import { createQuicConnector } from '../quic-connector.ts';
import { createTcpConnector } from '../tcp-connector.ts';
import { type Transport, TRANSPORT_LABELS } from '../transport.ts';
import { VERSION } from '../version.ts';
import type { Context } from './context.ts';
import type { Member } from './local-checks.ts';
import { formatMs, outboundFinding, sentence } from './network-checks.ts';
import { failed, type Finding, ok } from './report.ts';
import { transfer, TRANSFER_BYTES, TransferError } from './transfer.ts';

/** Connection, handshake and transfer, ms: 70 KB/s are enough. */
const LEG_LIMIT_MS = 30_000;

const megabytes = (bytesPerSecond: number): string =>
  bytesPerSecond >= 1e7 ? `${Math.round(bytesPerSecond / 1e6)}` : (bytesPerSecond / 1e6).toFixed(1);

/** Of the addresses that were tried, the first one is the gateway's own choice. */
const firstOf = (error: unknown): unknown => (error instanceof AggregateError ? (error.errors[0] ?? error) : error);

const checkLeg = async (
  { deps }: Context,
  dial: DialLeg,
  gateway: GatewayAddress,
  transport: Transport,
  signal: AbortSignal,
): Promise<Finding> => {
  let leg;
  try {
    leg = await dial(gateway, transport, { signal });
  } catch (error) {
    signal.throwIfAborted();
    const advice =
      error instanceof RefusedError
        ? `${REFUSALS[error.code].hint.replace(/\.$/, '')}.`
        : transport === 'quic'
          ? 'Follow the advice for UDP above.'
          : 'Follow the advice for TCP, ALPN and upgrades above.';
    return failed(outboundFinding(firstOf(error)).reason, advice);
  }
  leg.attach({});
  try {
    const { rttMs, tookMs, goodput, loss } = await transfer(leg, deps, { signal });
    const lost = loss === undefined ? '' : `, ${(loss * 100).toFixed(1)} % lost`;
    const result =
      `gateway ${leg.peer.id}: round trip ${formatMs(rttMs)}, 1 MiB each way in ${formatMs(tookMs)} ` +
      `(${megabytes(goodput)} MB/s)${lost}${leg.inspected ? '; TLS is inspected on the way' : ''}`;
    return ok(result, { rttMs, transferMs: tookMs, goodput, loss, inspected: leg.inspected, gatewayId: leg.peer.id });
  } catch (error) {
    if (!(error instanceof TransferError)) throw error;
    const kib = `${Math.round(error.receivedBytes / 1_024)} of ${TRANSFER_BYTES / 1_024} KiB`;
    const data = { receivedBytes: error.receivedBytes, isStalled: error.isStalled };
    return error.isStalled
      ? failed(`small packets pass, and the transfer stopped after ${kib}`, sentence(MTU_ADVICE), data)
      : failed(
          `the leg is up, but the transfer stopped after ${kib}: ${error.message}`,
          'Try again; if it stays so, the log of the gateway says why it ended.',
          data,
        );
  } finally {
    await leg.close('closed');
  }
};

/** Legs over the transports that may be used; resolves with those that carried the transfer. */
export const checkLegs = async (
  context: Context,
  member: Member | undefined,
  gateway: GatewayAddress | undefined,
  transports: readonly Transport[],
): Promise<Transport[]> => {
  const { deps, run, resolver, outbound } = context;
  const { clock } = deps;
  const carried: Transport[] = [];
  if (!member || !gateway) return carried;
  const { key, enrolment } = member;
  const dialer = createQuicDialer({ key });
  const dial = createLegDialer({
    clock,
    enrolment,
    sign: (message) => sign(key, message),
    connectors: {
      quic: createQuicConnector({ clock, resolver, dialer }),
      webtransport: createTcpConnector({ clock, outbound }, { transport: 'webtransport', url: context.url }),
      websocket: createTcpConnector({ clock, outbound }, { transport: 'websocket', url: context.url }),
    },
    hello: {
      instance: randomBytes(16).toString('base64url'),
      instanceStartedAt: clock.now(),
      agent: `tunnel-client/${VERSION} diagnose`,
    },
  });
  try {
    for (const transport of transports) {
      const { state } = await run.run({
        id: `leg:${transport}`,
        name: `Leg, ${TRANSPORT_LABELS[transport]}`,
        limitMs: LEG_LIMIT_MS,
        advice: 'Handshakes pass and data does not: check the MTU on the way, and what else a firewall looks at.',
        work: (signal) => checkLeg(context, dial, gateway, transport, signal),
      });
      if (state === 'ok') carried.push(transport);
    }
  } finally {
    dialer.close();
  }
  return carried;
};
