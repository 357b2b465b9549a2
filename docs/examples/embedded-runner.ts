/**
 * A runner that embeds the tunnel client: starts an application for each environment, announces it, and takes it away
 * again. Run with
 *
 *     node docs/examples/embedded-runner.ts https://api.gateway.example RUNNER_ID EXCHANGE_TOKEN [CA_FILE]
 *
 * Outside of this repository the import is '@gitpod-gateway/tunnel-client'.
 */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { connectRunner } from '../../tunnel-client/src/client.ts';

const [gateway = '', runnerId = '', exchangeToken = '', caFile] = process.argv.slice(2);

const client = connectRunner({
  gateway,
  runnerId,
  // Needed once: afterwards the key in the state directory is enough.
  exchangeToken,
  stateDir: process.env['STATE_DIR'] ?? './runner-state',
  ...(caFile === undefined ? {} : { ca: await readFile(caFile, 'utf8') }),
  agent: 'example-runner/1.0',
});

client.on('state', (state) => console.log(`state ${state}`));
client.on('leg', (event) => console.log(`leg ${event.type} ${event.gatewayId}`));
// The client goes on trying; a person decides by `problem.code` whether something has to be done.
client.on('error', (_error, problem) => console.log(`problem ${problem.code ?? ''} ${problem.message}`));
client.on('environment', ({ id, accepted, code, urls }) => {
  console.log(accepted ? `environment ${id} ${urls.map(({ url }) => url).join(' ')}` : `refused ${id} ${code ?? ''}`);
});

// What a real runner starts in a container or a virtual machine.
const application = createServer((request, response) => {
  response.end(`hello from an environment, you asked for ${request.headers.host ?? ''}\n`);
});
application.listen(0, '127.0.0.1');
await once(application, 'listening');
const { port } = application.address() as AddressInfo;

client.environments.set({
  id: `example-${runnerId.slice(-8)}`,
  host: '127.0.0.1',
  creator: 'user-1',
  ports: [{ port, protocol: 'http', admission: 'everyone', name: 'web' }],
});
await client.ready({ signal: AbortSignal.timeout(30_000) });

const stop = async (): Promise<void> => {
  // Gateways send nothing new; open requests may end, for at most ten seconds.
  await client.close({ drain: 10_000 });
  application.closeAllConnections();
  application.close();
};
process.once('SIGTERM', () => void stop());
process.once('SIGINT', () => void stop());
