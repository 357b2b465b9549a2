/**
 * The command line of the gateway. Results go to stdout, errors to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.
 */
import { Argument, Command, CommanderError, Option } from 'commander';
import { describeError, RefusedError } from '../../../shared/src/errors.ts';
import { TOKEN_SCOPES } from '../access/tokens.ts';
import { ConfigError } from '../config.ts';
import { DirectoryConflictError } from '../directory/directory.ts';
import { VERSION } from '../version.ts';
import { backUp } from './backup.ts';
import { block, listBlocks, unblock } from './block.ts';
import type { CliWorld } from './context.ts';
import { listEnvironments, moveEnvironment, releaseEnvironment } from './environment.ts';
import { checkHealth } from './health.ts';
import { KEY_NAMES, listKeys, rotateKey } from './key.ts';
import type { KeyName } from './key.ts';
import { checkConfig, showConfig } from './config.ts';
import { runDoctor } from './doctor.ts';
import { showStatus } from './status.ts';
import { createRunner, createToken, listRunners, revokeRunner } from './runner.ts';
import { serve } from './serve.ts';
import { listSessions, revokeSessions } from './session.ts';
import { createAccessToken } from './token.ts';

export type { CliWorld } from './context.ts';

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

/** A sentence, with those of its causes. Errors of listeners bring one in `problem`. */
const explain = (error: unknown): string => {
  if (error instanceof ConfigError) return error.message;
  if (error instanceof RefusedError && error.code === 'runner_unknown') {
    return 'There is no runner with this id. See: gateway runner list';
  }
  if (error instanceof RefusedError && error.code === 'runner_mismatch') {
    return 'This runner comes from another authority, which vouches for its keys. It has no exchange tokens';
  }
  if (error instanceof Error && 'problem' in error && typeof error.problem === 'string') return error.problem;
  return describeError(error);
};

/** Faults of the program show where they come from; foreseen ones would only bury their sentence. */
const isForeseen = (error: unknown): boolean =>
  error instanceof ConfigError ||
  error instanceof RefusedError ||
  error instanceof DirectoryConflictError ||
  (error instanceof Error && !['TypeError', 'ReferenceError', 'RangeError', 'AssertionError'].includes(error.name));

const configOption = (): Option => new Option('--config <file>', 'configuration file (also GATEWAY_CONFIG)');
const jsonOption = (): Option => new Option('--json', 'print JSON');
const tokenFileOption = (): Option =>
  new Option('--token-file <file>', 'write the token to a new file instead of printing it');

/** Shown below the help of each command: what is typed most. */
const EXAMPLES: Readonly<Record<string, string>> = {
  gateway: 'gateway runner create --name build-farm --org acme',
  'gateway serve': 'gateway serve --config /etc/gateway/gateway.yaml',
  'gateway runner': 'gateway runner list',
  'gateway runner create': 'gateway runner create --name build-farm --org acme',
  'gateway runner list': 'gateway runner list --json',
  'gateway runner token': 'gateway runner token 01a1fbb4-0cd0-7c34-9e93-9970be0bb4e1',
  'gateway runner revoke': 'gateway runner revoke 01a1fbb4-0cd0-7c34-9e93-9970be0bb4e1',
  'gateway environment': 'gateway environment list',
  'gateway environment list': 'gateway environment list --runner 01a1fbb4-0cd0-7c34-9e93-9970be0bb4e1',
  'gateway environment release': 'gateway environment release demo',
  'gateway environment move': 'gateway environment move demo --to 01a1fbb4-0cd0-7c34-9e93-9970be0bb4e1',
  'gateway environment blocks': 'gateway environment blocks',
  'gateway environment block': 'gateway environment block demo',
  'gateway environment unblock': 'gateway environment unblock demo',
  'gateway organization': 'gateway organization block acme',
  'gateway organization block': 'gateway organization block acme',
  'gateway organization unblock': 'gateway organization unblock acme',
  'gateway token': 'gateway token create --scope logs --environment demo',
  'gateway token create': 'gateway token create --scope port --environment demo --port 3000',
  'gateway key': 'gateway key list',
  'gateway key list': 'gateway key list --json',
  'gateway key rotate': 'gateway key rotate tickets',
  'gateway session': 'gateway session revoke --user ada@acme.example',
  'gateway session list': 'gateway session list',
  'gateway session revoke': 'gateway session revoke --user ada@acme.example',
  'gateway status': 'gateway status --json',
  'gateway doctor': 'gateway doctor --config /etc/gateway/gateway.yaml',
  'gateway config': 'gateway config check /etc/gateway/gateway.yaml',
  'gateway config check': 'gateway config check /etc/gateway/gateway.yaml',
  'gateway config show': 'gateway config show --config /etc/gateway/gateway.yaml',
  'gateway backup': 'gateway backup gateway-2026-11-20.tar',
  'gateway health': 'gateway health --wait 30s',
};

const addCommand = (parent: Command, name: string, description: string, options: readonly Option[] = []): Command => {
  const command = parent.command(name).description(description).addOption(configOption());
  for (const option of options) command.addOption(option);
  return command;
};

const addExamples = (command: Command, path: string): void => {
  const example = EXAMPLES[path];
  if (example !== undefined) command.addHelpText('after', `\nExample:\n  ${example}`);
  for (const each of command.commands) addExamples(each, `${path} ${each.name()}`);
};

const addRunnerCommands = (program: Command, world: CliWorld): void => {
  const runner = program.command('runner').description('create and manage runners');
  addCommand(runner, 'create', 'register a runner and make the token it joins with', [tokenFileOption(), jsonOption()])
    .requiredOption('--name <name>', 'for people')
    .option('--org <organization>', 'organization of the runner and its environments')
    .action((options: Parameters<typeof createRunner>[1]) => createRunner(world, options));
  addCommand(runner, 'list', 'list runners', [jsonOption()]).action((options: Parameters<typeof listRunners>[1]) =>
    listRunners(world, options),
  );
  addCommand(runner, 'token', 'make a new token for a known runner', [tokenFileOption(), jsonOption()])
    .argument('<id>', 'id of the runner')
    .action((id: string, options: Parameters<typeof createToken>[2]) => createToken(world, id, options));
  addCommand(runner, 'revoke', 'refuse a runner from now on', [jsonOption()])
    .argument('<id>', 'id of the runner')
    .action((id: string, options: Parameters<typeof revokeRunner>[2]) => revokeRunner(world, id, options));
};

const addEnvironmentCommands = (program: Command, world: CliWorld): void => {
  const environment = program.command('environment').description('who holds which environment name');
  addCommand(environment, 'list', 'list environments', [jsonOption()])
    .option('--runner <id>', 'only those of this runner')
    .action((options: Parameters<typeof listEnvironments>[1]) => listEnvironments(world, options));
  addCommand(environment, 'release', 'give a name up, for any runner to take', [jsonOption()])
    .argument('<id>', 'id of the environment')
    .action((id: string, options: Parameters<typeof releaseEnvironment>[2]) => releaseEnvironment(world, id, options));
  addCommand(environment, 'move', 'give a name to another runner of the same organization', [jsonOption()])
    .argument('<id>', 'id of the environment')
    .requiredOption('--to <runner>', 'id of the runner')
    .action((id: string, options: Parameters<typeof moveEnvironment>[2]) => moveEnvironment(world, id, options));
};

/** The abuse switch: of an environment, or of all of an organization. */
const addBlockCommands = (program: Command, world: CliWorld): void => {
  const environment = program.commands.find((command) => command.name() === 'environment')!;
  const organization = program.command('organization').description('what is served of an organization');
  addCommand(environment, 'blocks', 'list what is blocked', [jsonOption()]).action(
    (options: Parameters<typeof listBlocks>[1]) => listBlocks(world, options),
  );
  for (const [parent, kind, id] of [
    [environment, 'environment', 'id of the environment'],
    [organization, 'organization', 'name of the organization'],
  ] as const) {
    addCommand(parent, 'block', 'serve none of its ports from now on', [jsonOption()])
      .argument('<id>', id)
      .action((subject: string, options: Parameters<typeof block>[2]) => block(world, { kind, subject }, options));
    addCommand(parent, 'unblock', 'serve its ports again', [jsonOption()])
      .argument('<id>', id)
      .action((subject: string, options: Parameters<typeof unblock>[2]) => unblock(world, { kind, subject }, options));
  }
};

const addTokenCommands = (program: Command, world: CliWorld): void => {
  const token = program.command('token').description('tokens that open ports and logs of one environment, for an hour');
  addCommand(token, 'create', 'make a token', [
    new Option('--scope <scope>', 'port: one port; logs: the log; ops: everything else on the log port')
      .choices(TOKEN_SCOPES)
      .makeOptionMandatory(),
    new Option('--environment <id>', 'id of the environment').makeOptionMandatory(),
    new Option('--port <number>', 'the port, with --scope port'),
    new Option('--user <id>', 'for whom, as it shall stand in the token'),
    tokenFileOption(),
    jsonOption(),
  ]).action((options: Parameters<typeof createAccessToken>[1]) => createAccessToken(world, options));
};

const addKeyCommands = (program: Command, world: CliWorld): void => {
  const key = program.command('key').description('keys that sign memberships, tokens, cookies and TLS tickets');
  addCommand(key, 'list', 'list keys: which sign, and which are accepted', [jsonOption()]).action(
    (options: Parameters<typeof listKeys>[1]) => listKeys(world, options),
  );
  addCommand(key, 'rotate', 'make a new key; what was signed before stays good until it expires', [
    new Option('--void', 'what was signed before is refused at once'),
    jsonOption(),
  ])
    .addArgument(new Argument('<use>', 'what the key signs').choices(KEY_NAMES))
    .action((name: KeyName, options: Parameters<typeof rotateKey>[2]) => rotateKey(world, name, options));
};

const addSessionCommands = (program: Command, world: CliWorld): void => {
  const session = program.command('session').description('sessions of visitors who have signed in');
  addCommand(session, 'list', 'list what was ended', [jsonOption()]).action(
    (options: Parameters<typeof listSessions>[1]) => listSessions(world, options),
  );
  addCommand(session, 'revoke', 'end the sessions of a user, or one session', [
    new Option('--user <id>', 'all sessions of this user that began before now'),
    new Option('--session <id>', 'this session'),
    jsonOption(),
  ]).action((options: Parameters<typeof revokeSessions>[1]) => revokeSessions(world, options));
};

const createProgram = (world: CliWorld): Command => {
  const program = new Command('gateway')
    .description('Carries HTTPS from the internet through tunnels to environments in private networks')
    .version(VERSION)
    .configureOutput({
      writeOut: (text) => void world.stdout.write(text),
      writeErr: (text) => void world.stderr.write(text),
    })
    .exitOverride()
    .showHelpAfterError('(add --help for more)');
  addCommand(program, 'serve', 'run the gateway').action((options: Parameters<typeof serve>[1]) =>
    serve(world, options),
  );
  addRunnerCommands(program, world);
  addEnvironmentCommands(program, world);
  addBlockCommands(program, world);
  addTokenCommands(program, world);
  addKeyCommands(program, world);
  addSessionCommands(program, world);
  addCommand(program, 'status', 'what the running gateway does', [jsonOption()]).action(
    (options: Parameters<typeof showStatus>[1]) => showStatus(world, options),
  );
  addCommand(program, 'doctor', 'check certificate, names, ports, directory, clock and sign-in', [jsonOption()]).action(
    (options: Parameters<typeof runDoctor>[1]) => runDoctor(world, options),
  );
  const config = program.command('config').description('the configuration, without starting anything');
  addCommand(config, 'check', 'say what is wrong with it, and with the files that it names', [jsonOption()])
    .argument('[file]', 'configuration file')
    .action((file: string | undefined, options: Parameters<typeof checkConfig>[2]) =>
      checkConfig(world, file, options),
    );
  addCommand(config, 'show', 'print it with every default and every variable', [jsonOption()]).action(
    (options: Parameters<typeof showConfig>[1]) => showConfig(world, options),
  );
  addCommand(program, 'backup', 'write directory and keys into an archive, also while the gateway runs', [jsonOption()])
    .argument('<file>', 'a new file (tar)')
    .action((file: string, options: Parameters<typeof backUp>[2]) => backUp(world, file, options));
  addCommand(program, 'health', 'ask the running gateway whether it is ready', [
    new Option('--wait <time>', 'ask again until it is, for so long: 30s'),
    jsonOption(),
  ]).action((options: Parameters<typeof checkHealth>[1]) => checkHealth(world, options));
  addExamples(program, program.name());
  return program;
};

/** Runs one command. `argv` is without program and script. Resolves with the exit code, never rejects. */
export const runCli = async (argv: readonly string[], world: CliWorld): Promise<number> => {
  try {
    await createProgram(world).parseAsync([...argv], { from: 'user' });
    return 0;
  } catch (error) {
    // Help that was asked for has exit code 0; the text is written already.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
    world.stderr.write(`gateway: ${explain(error)}\n`);
    if (!isForeseen(error) && error instanceof Error) world.stderr.write(`${error.stack ?? ''}\n`);
    return EXIT_FAILED;
  }
};
