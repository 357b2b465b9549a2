/** `gateway token …` */
import { join } from 'node:path';
import { systemClock } from '../../../shared/src/clock.ts';
import { ID_RULE, isExposablePort, isId, LOG_PORT, portHost, publicUrl } from '../../../shared/src/hostname.ts';
import { createSigningKeys } from '../access/signing-keys.ts';
import { issueToken, MAX_USER_LENGTH, type TokenClaims, type TokenScope } from '../access/tokens.ts';
import type { GatewayConfig } from '../config.ts';
import { CliError, loadConfig, withDirectory, type CliWorld } from './context.ts';
import { formatFields, formatJson, formatTime, jsonTime, shellWord } from './output.ts';
import { writeTokenFile } from './token-file.ts';

export interface CreateOptions {
  readonly config?: string;
  readonly json?: boolean;
  readonly scope: TokenScope;
  readonly environment: string;
  readonly port?: string;
  readonly user?: string;
  readonly tokenFile?: string;
}

const parseClaims = ({ scope, environment, port, user }: CreateOptions): TokenClaims => {
  if (!isId(environment)) throw new CliError(`"${environment}" is no id of an environment: ${ID_RULE}`);
  if (user !== undefined && (user === '' || user.length > MAX_USER_LENGTH)) {
    throw new CliError(`A user id has 1 to ${MAX_USER_LENGTH} characters`);
  }
  const claims = { scope, environmentId: environment, ...(user === undefined ? {} : { user }) };
  if (scope !== 'port') {
    if (port !== undefined) throw new CliError(`--port goes with --scope port; the log port is always ${LOG_PORT}`);
    return claims;
  }
  if (port === undefined) throw new CliError('--scope port needs --port: the token opens that one port');
  const number = /^\d{1,5}$/.test(port) ? Number(port) : NaN;
  if (!isExposablePort(number)) {
    throw new CliError(`"${port}" is no port of an environment: 1024 to 65535, and not ${LOG_PORT} (the log port)`);
  }
  return { ...claims, port: number };
};

/** Where the token is good. */
const urlOf = (config: GatewayConfig, { scope, environmentId, port = LOG_PORT }: TokenClaims): string => {
  const publicPort = config.publicPort ?? config.listeners.https[0]!.port;
  const host = portHost(port, environmentId, config.domains[0]!);
  return publicUrl(host, publicPort, scope === 'logs' ? '/logs' : '/');
};

/** Prints a token, or writes it to the file that was asked for. */
export const createAccessToken = async (world: CliWorld, options: CreateOptions): Promise<void> => {
  const claims = parseClaims(options);
  const config = await loadConfig(world, options.config);
  if (config.authority?.only) {
    throw new CliError(`Tokens come from ${config.authority.issuer}: this gateway accepts none of its own`);
  }
  const { tokenFile } = options;
  const { token, expiresAt } = await withDirectory(config, (directory) =>
    issueToken(createSigningKeys({ directory, clock: systemClock }), claims, { clock: systemClock }),
  );
  if (tokenFile !== undefined) await writeTokenFile(tokenFile, token);
  const url = urlOf(config, claims);
  // A fragment is never sent to a server; the page takes the token out of it at once.
  const viewerUrl = claims.scope === 'logs' && tokenFile === undefined ? `${url}#token=${token}` : undefined;
  if (options.json) {
    const { scope, environmentId, port, user } = claims;
    world.stdout.write(
      formatJson({
        scope,
        environment: environmentId,
        port: port ?? null,
        user: user ?? null,
        ...(tokenFile === undefined ? { token } : { tokenFile }),
        expiresAt: jsonTime(expiresAt),
        url,
        ...(viewerUrl === undefined ? {} : { viewerUrl }),
      }),
    );
    return;
  }
  const bearer = tokenFile === undefined ? token : `$(cat ${shellWord(tokenFile)})`;
  // A self-signed gateway is trusted by its certificate.
  const ca =
    config.tls.length === 0 ? ` --cacert ${shellWord(join(config.stateDir, 'self-signed', 'certificate.pem'))}` : '';
  const lines = [
    'Token created.\n\n',
    formatFields({
      scope: claims.scope,
      environment: claims.environmentId,
      ...(claims.port === undefined ? {} : { port: String(claims.port) }),
      ...(claims.user === undefined ? {} : { user: claims.user }),
      expires: formatTime(expiresAt),
      ...(tokenFile === undefined ? { token } : { 'token file': tokenFile }),
    }),
  ];
  if (viewerUrl !== undefined) lines.push('\nIn a browser:\n\n', `  ${viewerUrl}\n`);
  lines.push('\nIn a terminal:\n\n', `  curl -N${ca} -H "Authorization: Bearer ${bearer}" ${url}\n`);
  world.stdout.write(lines.join(''));
};
