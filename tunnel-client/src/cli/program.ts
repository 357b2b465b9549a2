import { Command, CommanderError, Option } from 'commander';
import { describeError } from '../../../shared/src/errors.ts';
import { ADMISSIONS } from '../../../shared/src/protocol/messages.ts';
import { LOG_FORMATS, LOG_LEVELS } from '../config-schema.ts';
import { DEFAULT_INTERNAL, DEFAULT_STATE_DIR } from '../config-sources.ts';
import { ConfigError } from '../problems.ts';
import { TRANSPORT_CHOICES } from '../transport.ts';
import { VERSION } from '../version.ts';
import { diagnoseCommand } from './diagnose.ts';
import { gatewayListCommand, gatewayReselectCommand } from './gateway.ts';
import { inspectCommand } from './inspect.ts';
import { type CliIo, CommandError, EXIT } from './io.ts';
import { newKeyCommand } from './key.ts';
import { runCommand } from './run.ts';
import type { ConfigFlagsWithFile } from './sources.ts';
import { healthCommand, statusCommand } from './status.ts';

type Flags = ConfigFlagsWithFile & { json?: boolean; wait?: string; follow?: boolean };

const collect = (value: string, before: readonly string[] | undefined): readonly string[] => [...(before ?? []), value];

const withEndpoint = (command: Command): Command =>
  command
    .option('--config <file>', 'YAML configuration; its environments are followed while it runs')
    .option('--state-dir <dir>', `keeps key, membership and internal token (default: ${DEFAULT_STATE_DIR})`)
    .option('--internal <address>', `internal listener, host:port or unix:PATH (default: ${DEFAULT_INTERNAL})`);

const RUN_EXAMPLES = `
Share what runs on port 3000 with everyone who has the link:
  tunnel-client run --gateway https://api.gateway.example --runner my-laptop \\
    --exchange-token-file token.txt --expose 3000 --admission everyone

Every setting may also stand in the file or in a TUNNEL_… variable (TUNNEL_GATEWAY, TUNNEL_RUNNER_ID, …).`;

/** Runs one command line and resolves to the exit code; prints what went wrong, never a stack. */
export const runCli = async (args: readonly string[], io: CliIo): Promise<number> => {
  let exitCode: number = EXIT.ok;
  const act =
    (command: (flags: Flags, io: CliIo) => Promise<number>) =>
    async (flags: Flags): Promise<void> => {
      exitCode = await command(flags, io);
    };
  const program = new Command('tunnel-client')
    .description('Keeps encrypted tunnels from a private network to a gateway, and exposes environments through them.')
    .version(VERSION)
    .exitOverride()
    .configureOutput({ writeOut: io.out, writeErr: io.err });
  withEndpoint(
    program.command('run').description('connect, and stay connected until asked to end').copyInheritedSettings(program),
  )
    .option(
      '--gateway <url>',
      'URL of the gateway: https://api.<domain>[:port]; several with commas, the fastest is kept',
    )
    .option('--runner <id>', 'id of the runner, from `gateway runner create`')
    .option('--exchange-token-file <file>', 'the exchange token; needed the first time')
    .option('--expose <port[:https]>', 'expose a port of this machine; may be repeated', collect)
    .option('--environment <id>', 'id of the environment that --expose makes (default: the id of the runner)')
    .addOption(
      new Option(
        '--admission <who>',
        `who may open the ports of --expose: ${ADMISSIONS.join(', ')} (default: creator_only)`,
      ),
    )
    .option('--host <host>', 'where the ports of --expose are (default: 127.0.0.1)')
    .option('--oauth-target <url>', "the runner's HTTP service, which gets OAuth callbacks")
    .option('--inspector', 'keep the last requests in memory, for `tunnel-client inspect` and the page /inspector')
    .option('--ca <file>', 'PEM certificate that is trusted beside those of the system')
    .option('--transport <name>', `${TRANSPORT_CHOICES.join(', ')} (default: auto, the best one that works)`)
    .option('--drain-timeout <time>', 'how long open streams may take to end (default: 30s)')
    .option('--log-format <format>', `${LOG_FORMATS.join(', ')} (default: auto, human at a terminal)`)
    .option('--log-level <level>', `${LOG_LEVELS.join(', ')} (default: info)`)
    .addHelpText('after', RUN_EXAMPLES)
    .action(act(runCommand));
  withEndpoint(program.command('status').description('ask the running client').copyInheritedSettings(program))
    .option('--json', 'as JSON')
    .action(act(statusCommand));
  withEndpoint(
    program
      .command('health')
      .description('exit code 0 when the running client is connected')
      .copyInheritedSettings(program),
  )
    .option('--wait <time>', 'ask again until it is, for so long: 30s')
    .option('--json', 'as JSON')
    .action(act(healthCommand));

  withEndpoint(
    program
      .command('inspect')
      .description('the last requests of an environment, where the running client has --inspector')
      .copyInheritedSettings(program)
      .argument('<environment>', 'id of the environment')
      .argument('[show|replay]', 'show all of a request, or send it to the application again')
      .argument('[request]', 'id of the request, from the list'),
  )
    .option('--follow', 'go on with what comes')
    .option('--json', 'as JSON')
    .action(async (environment: string, action: string | undefined, id: string | undefined, flags: Flags) => {
      exitCode = await inspectCommand({ environment, action, id }, flags, io);
    });

  program
    .command('key')
    .description('the key of a runner')
    .copyInheritedSettings(program)
    .command('new')
    .description('make a key, for TUNNEL_KEY or TUNNEL_KEY_FILE')
    .copyInheritedSettings(program)
    .option('--out <file>', 'a new file for it; else it is printed')
    .option('--json', 'say what was written as JSON')
    .action(async (flags: Parameters<typeof newKeyCommand>[0]) => {
      exitCode = await newKeyCommand(flags, io);
    });

  withEndpoint(
    program
      .command('diagnose')
      .description(
        'find out whether, and how, this machine reaches its gateway; exit code 0 when nothing is in the way',
      )
      .copyInheritedSettings(program),
  )
    .option('--gateway <url>', 'URL of the gateway: https://api.<domain>[:port]')
    .option('--runner <id>', 'id of the runner')
    .option('--exchange-token-file <file>', 'only looked for, never used')
    .option('--ca <file>', 'PEM certificate that is trusted beside those of the system')
    .option('--transport <name>', `${TRANSPORT_CHOICES.join(', ')} (default: auto)`)
    .option('--json', 'as JSON')
    .action(act(diagnoseCommand));
  const gateway = program
    .command('gateway')
    .description('the gateways of the configuration')
    .copyInheritedSettings(program);
  withEndpoint(gateway.command('list').description('measure each of them, now').copyInheritedSettings(program))
    .option('--gateway <url>', 'URL of a gateway; several with commas')
    .option('--runner <id>', 'id of the runner')
    .option('--ca <file>', 'PEM certificate that is trusted beside those of the system')
    .option('--json', 'as JSON')
    .action(act(gatewayListCommand));
  withEndpoint(
    gateway
      .command('reselect')
      .description('have the running client measure again, and move to the fastest')
      .copyInheritedSettings(program),
  )
    .option('--json', 'as JSON')
    .action(act(gatewayReselectCommand));

  try {
    await program.parseAsync([...args], { from: 'user' });
    return exitCode;
  } catch (error) {
    // Commander has printed its own; its code is 0 for --help and --version.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    io.err(`${error instanceof ConfigError || error instanceof CommandError ? error.message : describeError(error)}\n`);
    if (error instanceof ConfigError) return EXIT.usage;
    return error instanceof CommandError ? error.exitCode : EXIT.failed;
  }
};
