/** `gateway key …` */
import { systemClock } from '../../../shared/src/clock.ts';
import { formatTable } from '../../../shared/src/terminal-text.ts';
import { KEY_USES, pendingKey, signingKey } from '../directory/key-ring.ts';
import type { KeyRing, KeyUse } from '../directory/key-ring.ts';
import { loadConfig, withDirectory } from './context.ts';
import type { CliWorld } from './context.ts';
import { formatJson, formatTime, jsonTime } from './output.ts';

/** What people call the rings that they rotate by hand. */
export const KEY_NAMES = ['cookie', 'token', 'authority', 'tickets'] as const;
export type KeyName = (typeof KEY_NAMES)[number];

const useOf = (name: KeyName): KeyUse => (name === 'cookie' ? 'session' : name);
const nameOf = (use: KeyUse): KeyName => (use === 'session' ? 'cookie' : use);

/** What the keys sign, and what is asked again when they are void. */
const SIGNED: Readonly<Record<KeyName, string>> = {
  cookie: 'sessions and port cookies',
  token: 'tokens',
  authority: 'memberships',
  tickets: 'TLS session tickets',
};
const VOIDED: Readonly<Record<KeyName, string>> = {
  cookie: 'Everybody signs in again.',
  token: 'Tokens made before are refused.',
  authority: 'Memberships made before are refused; runners get new ones with their own keys, by themselves.',
  tickets: 'Clients make a full handshake next time.',
};

export interface KeyOptions {
  readonly config?: string;
  readonly json?: boolean;
}

const statusOf = (ring: KeyRing, keyId: string, now: number): string => {
  if (signingKey(ring, now).keyId === keyId) return 'signs';
  return ring.keys.some((key) => key.keyId === keyId && key.signsFrom > now) ? 'published' : 'accepted';
};

const toJson = (ring: KeyRing) => {
  const now = systemClock.now();
  return {
    use: nameOf(ring.use),
    keys: ring.keys.map(({ keyId, createdAt, signsFrom, acceptedUntil }) => ({
      keyId,
      status: statusOf(ring, keyId, now),
      createdAt: jsonTime(createdAt),
      signsFrom: jsonTime(signsFrom),
      acceptedUntil: jsonTime(acceptedUntil),
    })),
  };
};

export const listKeys = async (world: CliWorld, options: KeyOptions): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const rings = await withDirectory(config, (directory) => Promise.all(KEY_USES.map((use) => directory.keyRing(use))));
  if (options.json) return void world.stdout.write(formatJson(rings.map(toJson)));
  const now = systemClock.now();
  const rows = rings.flatMap((ring) =>
    ring.keys.map((key) => [
      nameOf(ring.use),
      `${key.keyId.slice(0, 12)}…`,
      statusOf(ring, key.keyId, now),
      formatTime(key.signsFrom),
      key.acceptedUntil === undefined ? '-' : formatTime(key.acceptedUntil),
    ]),
  );
  world.stdout.write(`${formatTable(['use', 'key', 'status', 'signs from', 'until'], rows)}\n`);
};

const describeRotation = (name: KeyName, ring: KeyRing, isVoid: boolean): string => {
  const now = systemClock.now();
  const current = signingKey(ring, now);
  const pending = pendingKey(ring, now);
  const signed = SIGNED[name];
  if (isVoid) {
    return `Key ${current.keyId} signs ${signed}, and no other is accepted. ${VOIDED[name]}\nRunning gateways know it within seconds.\n`;
  }
  if (pending) {
    const last = ring.keys.find((key) => key.keyId === current.keyId)?.acceptedUntil;
    const until =
      last === undefined || name === 'tickets'
        ? ''
        : `\nThose of the key before it are accepted until ${formatTime(last)}.`;
    return `Key ${pending.keyId} is known to all from now on, and signs ${signed} from ${formatTime(pending.signsFrom)}.${until}\n`;
  }
  const latest = ring.keys.find((key) => key.acceptedUntil !== undefined);
  return (
    `Key ${current.keyId} signs ${signed} from now on.\n` +
    (latest ? `Those made before are accepted until ${formatTime(latest.acceptedUntil!)} at the latest.\n` : '')
  );
};

export const rotateKey = async (
  world: CliWorld,
  name: KeyName,
  options: KeyOptions & { readonly void?: boolean },
): Promise<void> => {
  const config = await loadConfig(world, options.config);
  const isVoid = options.void ?? false;
  const ring = await withDirectory(config, (directory) => directory.rotateKeys(useOf(name), { void: isVoid }));
  world.stdout.write(options.json ? formatJson(toJson(ring)) : describeRotation(name, ring, isVoid));
};
