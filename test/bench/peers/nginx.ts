/** nginx as the edge of the peers, and as the upstream of all. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Namespace } from '../../support/namespaces.ts';
import type { Program } from '../program.ts';
import { startProgram } from './program.ts';
import { EDGE_ADDRESS, hostOf, type Service, SERVICES, TLS_PORT_DISTANCE } from './topology.ts';

export interface Certificate {
  /** PEM files. */
  readonly certificate: string;
  readonly key: string;
}

export const SMALL_BODY_BYTES = 1 << 10;
export const BIG_BODY_BYTES = 1 << 30;

/** A request less per connection would measure how nginx closes connections. */
const KEEPALIVE_REQUESTS = 100_000_000;
/** Unused connections that each worker keeps to the upstream: more than the load tools have of their own. */
const KEPT_CONNECTIONS = 256;

const KEEPALIVE = `keepalive ${KEPT_CONNECTIONS}; keepalive_requests ${KEEPALIVE_REQUESTS};`;

const COMMON = (directory: string): string => `
daemon off;
user root;
pid ${directory}/nginx.pid;
error_log stderr warn;
worker_processes auto;
events { worker_connections 8192; }
http {
  ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${directory}/${name};`).join(' ')}
  sendfile on;
  tcp_nodelay on;
  keepalive_requests ${KEEPALIVE_REQUESTS};
  keepalive_timeout 75s;
  client_max_body_size 0;
  ssl_protocols TLSv1.2 TLSv1.3;
  types { }
  default_type application/octet-stream;`;

const tlsOf = ({ certificate, key }: Certificate): string =>
  `ssl_certificate ${certificate}; ssl_certificate_key ${key};`;

/** Small answers come from the configuration, big ones from a file in memory. */
export const upstreamConfig = (directory: string, certificate: Certificate): string => `${COMMON(directory)}
  access_log off;
  server {
    listen ${SERVICES.web};
    listen ${SERVICES.web + TLS_PORT_DISTANCE} ssl http2;
    ${tlsOf(certificate)}
    root ${directory}/files;
    location = / { return 200 "${'x'.repeat(SMALL_BODY_BYTES)}"; }
  }
}
`;

/**
 * `target` gives where a service of the upstream is reached; `isPlain` opens a connection to it for each request.
 * Bodies are streamed both ways, as the gateway does.
 */
export const edgeConfig = (
  directory: string,
  certificate: Certificate,
  port: number,
  target: (service: Service) => string,
  { isPlain = false }: { isPlain?: boolean } = {},
): string => `${COMMON(directory)}
  log_format line '$remote_addr $host "$request" $status $body_bytes_sent $request_time';
  access_log ${directory}/access.log line;
  map $http_upgrade $connection_header { default upgrade; '' '${isPlain ? 'close' : ''}'; }
  proxy_http_version 1.1;
  proxy_set_header Host $http_host;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection $connection_header;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Proto https;
  proxy_request_buffering off;
  proxy_max_temp_file_size 0;
  proxy_buffer_size 16k;
  proxy_buffers 16 64k;
  proxy_busy_buffers_size 256k;
  ${(Object.keys(SERVICES) as Service[])
    .map(
      (service) => `
  upstream ${service} { server ${target(service)}; ${isPlain ? '' : KEEPALIVE} }
  server {
    listen ${EDGE_ADDRESS}:${port} ssl http2;
    server_name ${hostOf(service)};
    ${tlsOf(certificate)}
    location / { proxy_pass http://${service}; }
  }`,
    )
    .join('')}
}
`;

/** Starts nginx with a configuration made for `directory`. */
export const startNginx = async (
  namespace: Namespace,
  directory: string,
  config: (directory: string) => string,
): Promise<Program> => {
  await mkdir(directory, { recursive: true });
  const file = join(directory, 'nginx.conf');
  await writeFile(file, config(directory));
  return startProgram(namespace, ['nginx', '-p', directory, '-e', 'stderr', '-c', file]);
};
