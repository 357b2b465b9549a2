import js from '@eslint/js';
import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

/** Import directions, for a quick word in the editor. `test/unit/imports.test.ts` checks all of them. */
const restrict = (files, ...patterns) => ({
  files,
  rules: { '@typescript-eslint/no-restricted-imports': ['error', { patterns }] },
});
const notFrom = (group, message) => ({ group, message });
const OWNED = [
  notFrom(['@chainsafe/libp2p-quic*'], 'Only shared/src/transport/quic*.ts knows the QUIC binding.'),
  notFrom(['prom-client'], 'Only gateway/src/observability knows prom-client.'),
];

export default defineConfig(
  { ignores: ['**/dist/**', '**/node_modules/**', 'state/**', 'runner-state/**', 'demo-state/**'] },
  js.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.recommended],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      // A promise is awaited, returned, or handed to a supervisor.
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          allowForKnownSafeCalls: [
            { from: 'package', package: 'node:test', name: ['test', 'it', 'describe', 'suite'] },
          ],
        },
      ],
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/return-await': ['error', 'error-handling-correctness-only'],
      '@typescript-eslint/prefer-promise-reject-errors': 'error',
      '@typescript-eslint/only-throw-error': 'error',
      'no-promise-executor-return': 'off',
      'no-async-promise-executor': 'error',

      '@typescript-eslint/consistent-type-imports': [
        'error',
        { fixStyle: 'inline-type-imports', disallowTypeAnnotations: false },
      ],
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/no-unnecessary-type-assertion': 'error',
      // The compiler says the same (noUnusedLocals, noUnusedParameters).
      '@typescript-eslint/no-unused-vars': 'off',
      // Bytes below 0x20 are the subject of half the parsers here.
      'no-control-regex': 'off',
      eqeqeq: ['error', 'always'],
      'preserve-caught-error': 'error',
    },
  },
  {
    // Library code does not print: it logs, or throws.
    files: ['gateway/src/**/*.ts', 'tunnel-client/src/**/*.ts', 'shared/src/**/*.ts'],
    ignores: ['**/src/cli/**', '**/src/main.ts'],
    rules: { 'no-console': 'error' },
  },
  {
    // A handler in a test may be async: what it rejects with fails the test as an unhandled rejection.
    files: ['test/**/*.ts'],
    rules: { '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: false }] },
  },
  restrict(
    ['shared/src/**/*.ts'],
    notFrom(['**/gateway/src/**', '**/tunnel-client/src/**'], 'shared is below gateway and tunnel client.'),
    ...OWNED,
  ),
  restrict(
    ['shared/src/transport/**/*.ts'],
    notFrom(['**/protocol/**'], 'A transport knows nothing of the protocol.'),
    OWNED[1],
  ),
  restrict(
    ['gateway/src/**/*.ts'],
    notFrom(['**/tunnel-client/src/**'], 'Gateway and tunnel client only meet on the wire.'),
    OWNED[0],
  ),
  restrict(
    ['tunnel-client/src/**/*.ts'],
    notFrom(['**/gateway/src/**'], 'Gateway and tunnel client only meet on the wire.'),
    notFrom(['fastify', '@fastify/*', 'lru-cache', 'undici'], 'The tunnel client is embedded: it stays small.'),
    ...OWNED,
  ),
  {
    files: ['deploy/demo/page.js'],
    languageOptions: {
      globals: Object.fromEntries(
        (
          'document window location performance crypto WebSocket EventSource XMLHttpRequest Blob ' +
          'setTimeout setInterval clearInterval'
        )
          .split(' ')
          .map((name) => [name, 'readonly']),
      ),
    },
  },
  {
    files: ['test/support/hostile-page.js'],
    languageOptions: {
      globals: Object.fromEntries(
        'document navigator fetch Blob EventSource URL WebSocket Worker XMLHttpRequest setTimeout'
          .split(' ')
          .map((name) => [name, 'readonly']),
      ),
    },
  },
  {
    files: ['gateway/src/logs/page/*.js'],
    languageOptions: {
      globals: Object.fromEntries(
        (
          'document history location localStorage navigator performance fetch AbortController Blob Element ' +
          'HTMLInputElement MessageChannel ResizeObserver TextDecoder TextEncoder URL URLSearchParams ' +
          'getComputedStyle requestAnimationFrame setTimeout clearTimeout'
        )
          .split(' ')
          .map((name) => [name, 'readonly']),
      ),
    },
    rules: { 'no-control-regex': 'off' },
  },
  {
    files: ['gateway/src/observability/dashboard/page/*.js', 'shared/src/page/*.js'],
    languageOptions: {
      globals: Object.fromEntries(
        'document location localStorage fetch URLSearchParams addEventListener setTimeout clearTimeout'
          .split(' ')
          .map((name) => [name, 'readonly']),
      ),
    },
  },
  {
    files: ['tunnel-client/src/inspector/page/*.js'],
    languageOptions: {
      globals: Object.fromEntries(
        (
          'document location localStorage fetch addEventListener AbortController TextDecoderStream TextEncoder atob ' +
          'requestAnimationFrame setTimeout clearTimeout'
        )
          .split(' ')
          .map((name) => [name, 'readonly']),
      ),
    },
  },
  { files: ['*.js'], languageOptions: { globals: { process: 'readonly', console: 'readonly', URL: 'readonly' } } },
);
