/**
 * A runner as a program of its own, to be killed: its application with the sample login, and the tunnel client as a
 * library in the same process. Settings come as JSON in the first argument; `ready` is printed when it is reached.
 */
import { createServer } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { createSampleLogin, type SampleLoginOptions } from '../../deploy/demo/sample-login.ts';
import { connectRunner, type RunnerOptions } from '../../tunnel-client/src/client.ts';

export interface LoginRunnerSettings extends Pick<RunnerOptions, 'gateway' | 'runnerId' | 'stateDir'> {
  readonly exchangeToken?: string;
  readonly ca: string;
  /** 0: any; it is printed. The second start names the one of the first: it stands in URLs. */
  readonly appPort: number;
  readonly environmentId: string;
  /** Hex. */
  readonly key: string;
  readonly scm: string;
  readonly client: Pick<SampleLoginOptions['client'], 'id' | 'secret'>;
  readonly scmName: string;
  readonly responseMode: 'query' | 'form_post';
  /** Origin of the application at the gateway, with `{port}` for its port. */
  readonly home: string;
}

const settings = JSON.parse(process.argv[2] ?? '{}') as LoginRunnerSettings;
const server = createServer();
server.listen(settings.appPort, '127.0.0.1');
await once(server, 'listening');
const { port } = server.address() as AddressInfo;

const runner = connectRunner({
  gateway: settings.gateway,
  runnerId: settings.runnerId,
  ...(settings.exchangeToken ? { exchangeToken: settings.exchangeToken } : {}),
  stateDir: settings.stateDir,
  ca: settings.ca,
  oauth: { target: `http://127.0.0.1:${port}` },
  environments: [{ id: settings.environmentId, ports: [{ port, admission: 'everyone' }] }],
});
const login = createSampleLogin({
  key: Buffer.from(settings.key, 'hex'),
  client: { ...settings.client, redirectUri: runner.callbackUrl(settings.scmName) },
  scm: {
    authorizationEndpoint: `${settings.scm}/auth`,
    tokenEndpoint: `${settings.scm}/token`,
    userEndpoint: `${settings.scm}/me`,
  },
  home: settings.home.replace('{port}', String(port)),
  responseMode: settings.responseMode,
});
server.on('request', (request, response) => {
  void login.handle(request, response).then((handled) => {
    if (handled) return;
    const user = login.userOf(request);
    response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8' });
    response.end(`<!doctype html><title>App</title><p id="user">${user ?? 'nobody'}</p><a href="/login">Sign in</a>`);
  });
});
const announced = Promise.withResolvers<void>();
runner.on('environment', ({ accepted }) => accepted && announced.resolve());
await runner.ready();
await announced.promise;
console.log(`ready port=${port} callback=${runner.callbackUrl(settings.scmName)}`);
