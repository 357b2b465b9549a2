/** `gateway environment …` */
import { formatTable } from '../../../shared/src/terminal-text.ts';
import type { EnvironmentBinding } from '../directory/directory.ts';
import { CliError, loadConfig, withDirectory } from './context.ts';
import type { CliWorld } from './context.ts';
import { formatJson, formatTime, jsonTime, listedWith } from './output.ts';

export interface EnvironmentOptions {
  readonly config?: string;
  readonly json?: boolean;
}

const toJson = (binding: EnvironmentBinding) => ({
  id: binding.id,
  runnerId: binding.runnerId,
  organization: binding.organization ?? null,
  status: binding.releasedAt === undefined ? 'held' : 'released',
  epoch: binding.epoch,
  claimedAt: jsonTime(binding.claimedAt),
  releasedAt: jsonTime(binding.releasedAt),
  ports: (binding.lastKnown?.ports ?? []).map(({ port, protocol, admission, name }) => ({
    port,
    protocol,
    admission,
    name: name ?? null,
  })),
});

const describePorts = (binding: EnvironmentBinding): string[] =>
  (binding.lastKnown?.ports ?? []).map(
    ({ port, protocol, admission }) => `${port}${protocol === 'https' ? ':https' : ''} (${admission})`,
  );

export const listEnvironments = async (
  world: CliWorld,
  options: EnvironmentOptions & { readonly runner?: string },
): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const filter = options.runner === undefined ? {} : { runnerId: options.runner };
  const bindings = await withDirectory(config, (directory) => directory.environments(filter));
  if (options.json) return void world.stdout.write(formatJson(bindings.map(toJson)));
  if (bindings.length === 0)
    return void world.stdout.write(
      `No environment is known in ${config.stateDir}. Runners announce them when they connect.\n`,
    );
  // In some lines: two ids take 80 columns.
  const rows = bindings.flatMap((binding) => {
    const { organization, releasedAt, claimedAt } = binding;
    const since =
      releasedAt === undefined ? `held since ${formatTime(claimedAt)}` : `released ${formatTime(releasedAt)}`;
    const about = [binding.runnerId, ...(organization === undefined ? [] : [organization]), since];
    return listedWith(binding.id, [...about, ...describePorts(binding)]);
  });
  world.stdout.write(`${formatTable(['environment', 'runner, state and ports'], rows)}\n`);
};

export const releaseEnvironment = async (world: CliWorld, id: string, options: EnvironmentOptions): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const released = await withDirectory(config, (directory) => directory.releaseEnvironment(id));
  if (!released) throw new CliError(`There is no environment ${id}. See: gateway environment list`);
  if (options.json) return void world.stdout.write(formatJson({ id, released: true }));
  world.stdout.write(`The name ${id} is free: whichever runner announces it next holds it.\n`);
};

export const moveEnvironment = async (
  world: CliWorld,
  id: string,
  options: EnvironmentOptions & { readonly to: string },
): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const binding = await withDirectory(config, async (directory) => {
    await directory.moveEnvironment(id, options.to);
    return (await directory.environment(id))!;
  });
  if (options.json) return void world.stdout.write(formatJson(toJson(binding)));
  world.stdout.write(`The name ${id} belongs to runner ${binding.runnerId} now.\n`);
};
