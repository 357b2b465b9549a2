// Run by npm scripts before anything in TypeScript. Plain JavaScript that an old Node.js understands: its only work is
// to say what to do when the Node.js that npm finds cannot run this project.
import { existsSync } from 'node:fs';

const NEEDED = 26;

if (Number(process.versions.node.split('.')[0]) < NEEDED) {
  const installed = existsSync(new URL('node_modules/node/package.json', import.meta.url));
  console.error(
    `This needs Node.js ${NEEDED} or newer; the one that runs is ${process.version} (${process.execPath}).\n` +
      (installed
        ? 'The npm package "node" would have brought it, but its install script did not run (ignore-scripts, or the\n' +
          'script was not allowed). Either let it run:\n\n' +
          '    npm rebuild node --ignore-scripts=false\n\n' +
          `or put Node.js ${NEEDED} on the PATH (https://nodejs.org).`
        : 'Run `npm ci` first: it brings the right Node.js along.'),
  );
  process.exit(1);
}
