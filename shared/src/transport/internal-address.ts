/** Where an internal listener is, the one for operators and the own commands: a port of this machine or a socket. */
import { formatHostPort, parseHostPort } from './address.ts';

export type InternalAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

/** `unix:PATH` or `host:port`. Throws RangeError. */
export const parseInternalAddress = (text: string): InternalAddress => {
  if (!text.startsWith('unix:')) return { kind: 'tcp', ...parseHostPort(text) };
  const path = text.slice('unix:'.length);
  if (path === '') throw new RangeError('the path is missing: write unix:PATH');
  return { kind: 'unix', path };
};

export const formatInternalAddress = (address: InternalAddress): string =>
  address.kind === 'unix' ? `unix:${address.path}` : formatHostPort(address.host, address.port);

const EVERYWHERE: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };

/** How Node connects to it; a listener on all addresses is asked on its own machine. */
export const internalTarget = (address: InternalAddress): { socketPath: string } | { host: string; port: number } =>
  address.kind === 'unix'
    ? { socketPath: address.path }
    : { host: EVERYWHERE[address.host] ?? address.host, port: address.port };
