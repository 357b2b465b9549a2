import { Command, CommanderError } from 'commander';
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

/** A command with an example below its help. */
const declare = (parent: Command, name: string, description: string, example: string): Command =>
  parent
    .command(name)
    .description(description)
    .copyInheritedSettings(parent)
    .addHelpText('after', `\n${example.trim()}`);

const withEndpoint = (command: Command): Command =>
  command
    .option('--config <file>', 'YAML configuration; its environments are followed while it runs')
    .option('--state-dir <dir>', `keeps key, membership and internal token (default: ${DEFAULT_STATE_DIR})`)
    .option('--internal <address>', `internal listener, host:port or unix:PATH (default: ${DEFAULT_INTERNAL})`);

/** Makes the handler of a command; what it resolves to becomes the exit code. */
type Act = <A extends unknown[]>(command: (...args: A) => Promise<number>) => (...args: A) => Promise<void>;

const addRun = (program: Command, act: Act, io: CliIo): void => {
  withEndpoint(
    declare(
      program,
      'run',
      'connect, and stay connected until asked to end',
      `
Share what runs on port 3000 with everyone who has the link:
  tunnel-client run --gateway https://api.gateway.example --runner my-laptop \\
    --exchange-token-file token.txt --expose 3000 --admission everyone

Every setting may also stand in the file or in a variable: TUNNEL_GATEWAY,
TUNNEL_RUNNER_ID, …`,
    ),
  )
    .option(
      '--gateway <url>',
      'URL of the gateway: https://api.<domain>[:port]; several with commas, the fastest is kept',
    )
    .option('--runner <id>', 'id of the runner, from `gateway runner create`')
    .option('--exchange-token-file <file>', 'the exchange token; needed the first time')
    .option('--expose <port[:https]>', 'expose a port of this machine; may be repeated', collect)
    .option('--environment <id>', 'id of the environment that --expose makes (default: the id of the runner)')
    .option('--admission <who>', `who may open the ports of --expose: ${ADMISSIONS.join(', ')} (default: creator_only)`)
    .option('--host <host>', 'where the ports of --expose are (default: 127.0.0.1)')
    .option('--oauth-target <url>', "the runner's HTTP service, which gets OAuth callbacks")
    .option('--inspector', 'keep the last requests in memory, for `tunnel-client inspect` and the page /inspector')
    .option('--ca <file>', 'PEM certificate that is trusted beside those of the system')
    .option('--transport <name>', `${TRANSPORT_CHOICES.join(', ')} (default: auto, the best one that works)`)
    .option('--drain-timeout <time>', 'how long open streams may take to end (default: 30s)')
    .option('--log-format <format>', `${LOG_FORMATS.join(', ')} (default: auto, human at a terminal)`)
    .option('--log-level <level>', `${LOG_LEVELS.join(', ')} (default: info)`)
    .action(act((flags: Flags) => runCommand(flags, io)));
};

/** What asks the running client. */
const addQuestions = (program: Command, act: Act, io: CliIo): void => {
  withEndpoint(
    declare(
      program,
      'status',
      'ask the running client',
      `
How the client is that runs with this file:
  tunnel-client status --config tunnel-client.yaml`,
    ),
  )
    .option('--json', 'as JSON')
    .action(act((flags: Flags) => statusCommand(flags, io)));
  withEndpoint(
    declare(
      program,
      'health',
      'exit code 0 when the running client is connected',
      `
In a script, after the start of the client:
  tunnel-client health --wait 30s --internal 127.0.0.1:9091`,
    ),
  )
    .option('--wait <time>', 'ask again until it is, for so long: 30s')
    .option('--json', 'as JSON')
    .action(act((flags: Flags) => healthCommand(flags, io)));
  withEndpoint(
    declare(
      program,
      'inspect',
      'the last requests of an environment, where the running client has --inspector',
      `
What came to an environment, and one of its requests with all of its answer:
  tunnel-client inspect my-app --follow
  tunnel-client inspect my-app show 12`,
    )
      .argument('<environment>', 'id of the environment')
      .argument('[show|replay]', 'show all of a request, or send it to the application again')
      .argument('[request]', 'id of the request, from the list'),
  )
    .option('--follow', 'go on with what comes')
    .option('--json', 'as JSON')
    .action(
      act((environment: string, action: string | undefined, id: string | undefined, flags: Flags) =>
        inspectCommand({ environment, action, id }, flags, io),
      ),
    );
};

const KEY_EXAMPLE = `
A key for a runner whose membership another authority signs:
  tunnel-client key new --out runner-key.json`;

const addKey = (program: Command, act: Act, io: CliIo): void => {
  const key = declare(program, 'key', 'the key of a runner', KEY_EXAMPLE);
  declare(key, 'new', 'make a key, for TUNNEL_KEY or TUNNEL_KEY_FILE', KEY_EXAMPLE)
    .option('--out <file>', 'a new file for it; else it is printed')
    .option('--json', 'say what was written as JSON')
    .action(act((flags: Parameters<typeof newKeyCommand>[0]) => newKeyCommand(flags, io)));
};

const addDiagnose = (program: Command, act: Act, io: CliIo): void => {
  withEndpoint(
    declare(
      program,
      'diagnose',
      'find out whether, and how, this machine reaches its gateway; exit code 0 when nothing is in the way',
      `
With the file of the client; before there is one, with the gateway alone:
  tunnel-client diagnose --config tunnel-client.yaml
  tunnel-client diagnose --gateway https://api.gateway.example --runner laptop`,
    ),
  )
    .option('--gateway <url>', 'URL of the gateway: https://api.<domain>[:port]')
    .option('--runner <id>', 'id of the runner')
    .option('--exchange-token-file <file>', 'only looked for, never used')
    .option('--ca <file>', 'PEM certificate that is trusted beside those of the system')
    .option('--transport <name>', `${TRANSPORT_CHOICES.join(', ')} (default: auto)`)
    .option('--json', 'as JSON')
    .action(act((flags: Flags) => diagnoseCommand(flags, io)));
};

const LIST_EXAMPLE = `
How fast each gateway of the configuration answers from here:
  tunnel-client gateway list --config tunnel-client.yaml`;

const addGateway = (program: Command, act: Act, io: CliIo): void => {
  const gateway = declare(program, 'gateway', 'the gateways of the configuration', LIST_EXAMPLE);
  withEndpoint(declare(gateway, 'list', 'measure each of them, now', LIST_EXAMPLE))
    .option('--gateway <url>', 'URL of a gateway; several with commas')
    .option('--runner <id>', 'id of the runner')
    .option('--ca <file>', 'PEM certificate that is trusted beside those of the system')
    .option('--json', 'as JSON')
    .action(act((flags: Flags) => gatewayListCommand(flags, io)));
  withEndpoint(
    declare(
      gateway,
      'reselect',
      'have the running client measure again, and move to the fastest',
      `
Every URL of the runner changes with its gateway:
  tunnel-client gateway reselect --config tunnel-client.yaml`,
    ),
  )
    .option('--json', 'as JSON')
    .action(act((flags: Flags) => gatewayReselectCommand(flags, io)));
};

/** Runs one command line and resolves to the exit code; prints what went wrong, never a stack. */
export const runCli = async (args: readonly string[], io: CliIo): Promise<number> => {
  let exitCode: number = EXIT.ok;
  const act: Act =
    (command) =>
    async (...given) => {
      exitCode = await command(...given);
    };
  const program = new Command('tunnel-client')
    .description('Keeps encrypted tunnels from a private network to a gateway, and exposes environments through them.')
    .version(VERSION)
    .exitOverride()
    .configureOutput({ writeOut: io.out, writeErr: io.err })
    // With the arguments of each, nothing would be left of 80 columns for what it does.
    .configureHelp({ subcommandTerm: (command) => command.name() })
    .addHelpText(
      'after',
      `
tunnel-client COMMAND --help has an example of each.

Exit codes: 0 it worked, 1 it did not, 2 the command line or the configuration
makes no sense. 130 and 143: it was asked twice to end, by SIGINT or SIGTERM.`,
    );
  for (const add of [addRun, addQuestions, addDiagnose, addGateway, addKey]) add(program, act, io);

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
