/** Programs in a namespace of the benchmark. */
import { boundToParent, type Namespace } from '../../support/namespaces.ts';
import { type Finished, runProcess } from '../../support/processes.ts';
import { type Program, spawnProgram } from '../program.ts';

/** Starts `command` inside `namespace`. Its standard input stays open until it is stopped. */
export const startProgram = (namespace: Namespace, command: readonly string[]): Program =>
  spawnProgram(boundToParent([...namespace.prefix, ...command]));

/** Runs a command in a namespace to its end. */
export const runProgram = (namespace: Namespace, command: readonly string[], timeoutMs: number): Promise<Finished> => {
  const [program = '', ...args] = boundToParent([...namespace.prefix, ...command]);
  return runProcess(program, args, { timeoutMs });
};
