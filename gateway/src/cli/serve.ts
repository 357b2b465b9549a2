/** `gateway serve` */
import { once } from 'node:events';
import { formatHostPort } from '../../../shared/src/transport/address.ts';
import { createLogger, createLogSink } from '../observability/log.ts';
import type { Logger, LogSink } from '../observability/log.ts';
import { loadConfig } from './context.ts';
import type { CliWorld } from './context.ts';
import { createHumanLog } from './human-log.ts';
import { reload } from './reload.ts';

/** The file descriptor. */
const STDOUT = 1;
/** How long the last lines of the log are waited for, ms: a stuck sink keeps no gateway from ending. */
const LAST_LINES_MS = 1_000;

/** Lines go out in the background; the last ones are waited for. */
const flush = (log: Logger, sink: LogSink | undefined): Promise<void> =>
  new Promise((resolve) => {
    const timer = setTimeout(() => {
      sink?.discard();
      resolve();
    }, LAST_LINES_MS);
    log.flush(() => {
      clearTimeout(timer);
      resolve();
    });
  });

const format = (addresses: readonly { readonly host: string; readonly port: number }[]): string[] =>
  addresses.map(({ host, port }) => formatHostPort(host, port));

export const serve = async (world: CliWorld, options: { readonly config?: string }): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const sink = world.stdout.isTTY ? undefined : createLogSink(STDOUT);
  const log = createLogger({
    level: config.logLevel,
    destination: sink?.destination ?? createHumanLog(world.stdout),
  });
  try {
    // Only this command needs the listeners and their native parts: the others start faster without.
    const { startGateway } = await import('../gateway.ts');
    const gateway = await startGateway(
      config,
      { log, ...(sink && { droppedLogLines: () => sink.dropped() }) },
      { signal: world.stop },
    );
    log.info(
      {
        gatewayId: gateway.id,
        domains: config.domains,
        https: format(gateway.addresses.https),
        quic: format(gateway.addresses.quic),
      },
      'the gateway serves',
    );
    // At a terminal, SIGHUP says that it is gone, and the gateway with it.
    const stopReloading = world.stdout.isTTY
      ? undefined
      : world.onReload?.(() => void reload({ log, gateway }, () => loadConfig(world, options.config)));
    if (!world.stop.aborted) await once(world.stop, 'abort');
    log.info('the gateway drains');
    await gateway.close();
    stopReloading?.();
    log.info('the gateway has ended');
  } catch (error) {
    // Asked to end before it was up: that is no failure.
    if (!world.stop.aborted) throw error;
  } finally {
    await flush(log, sink);
  }
};
