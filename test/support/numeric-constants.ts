/** Named numbers of a source, as the compiler reads them: what documents and code are compared by. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';

export interface NumericConstant {
  /** Relative to the root of the repository. */
  readonly path: string;
  readonly name: string;
  readonly value: number;
}

const OPERATORS: Readonly<Partial<Record<ts.SyntaxKind, (left: number, right: number) => number>>> = {
  [ts.SyntaxKind.PlusToken]: (left, right) => left + right,
  [ts.SyntaxKind.MinusToken]: (left, right) => left - right,
  [ts.SyntaxKind.AsteriskToken]: (left, right) => left * right,
  [ts.SyntaxKind.SlashToken]: (left, right) => left / right,
  [ts.SyntaxKind.LessThanLessThanToken]: (left, right) => left << right,
};

/** The number that an expression of numbers and known names stands for; undefined for anything else. */
const evaluate = (node: ts.Expression, known: ReadonlyMap<string, number>): number | undefined => {
  if (ts.isNumericLiteral(node)) return Number(node.text);
  if (ts.isParenthesizedExpression(node)) return evaluate(node.expression, known);
  if (ts.isIdentifier(node)) return known.get(node.text);
  if (!ts.isBinaryExpression(node)) return undefined;
  const left = evaluate(node.left, known);
  const right = evaluate(node.right, known);
  return left === undefined || right === undefined ? undefined : OPERATORS[node.operatorToken.kind]?.(left, right);
};

const constantsOf = (path: string, text: string, elsewhere: ReadonlyMap<string, number>): NumericConstant[] => {
  const known = new Map(elsewhere);
  const found: NumericConstant[] = [];
  for (const statement of ts.createSourceFile(path, text, ts.ScriptTarget.Latest).statements) {
    if (!ts.isVariableStatement(statement)) continue;
    for (const { name, initializer } of statement.declarationList.declarations) {
      if (!ts.isIdentifier(name) || !initializer || !/^[A-Z][A-Z0-9_]*$/.test(name.text)) continue;
      const value = evaluate(initializer, known);
      if (value === undefined) continue;
      known.set(name.text, value);
      found.push({ path, name: name.text, value });
    }
  }
  return found;
};

/** Every constant in capitals on the top level of the files that fit `patterns`. Imported ones may stand in others. */
export const readNumericConstants = (root: string, patterns: readonly string[]): NumericConstant[] => {
  const sources = globSync([...patterns], { cwd: root })
    .map((path) => ({ path: path.replaceAll('\\', '/'), text: readFileSync(join(root, path), 'utf8') }))
    .sort((a, b) => a.path.localeCompare(b.path));
  const first = sources.flatMap(({ path, text }) => constantsOf(path, text, new Map()));
  const byName = new Map(first.map(({ name, value }) => [name, value]));
  return sources.flatMap(({ path, text }) => constantsOf(path, text, byName));
};
