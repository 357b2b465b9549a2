/** `tunnel-client key new` */
import { readFile } from 'node:fs/promises';
import {
  createKey,
  keyFingerprint,
  parseKey,
  privateKeyToJwk,
  publicKeyToJwk,
} from '../../../shared/src/identity/keys.ts';
import { createSecretFile } from '../../../shared/src/identity/secret-file.ts';
import { type CliIo, CommandError, EXIT } from './io.ts';

/**
 * Makes a key: into a new file, with the public part on stdout for whoever vouches for the runner, or the whole key on
 * stdout for a store of secrets.
 */
export const newKeyCommand = async (
  flags: { readonly out?: string; readonly json?: boolean },
  io: CliIo,
): Promise<number> => {
  const key = createKey();
  const text = `${JSON.stringify(privateKeyToJwk(key))}\n`;
  const { out } = flags;
  if (out === undefined) {
    io.out(text);
    return EXIT.ok;
  }
  try {
    await createSecretFile(out, text);
  } catch (error) {
    throw new CommandError(`The key cannot be written to ${out}. Its directory has to be writable`, { cause: error });
  }
  const kept = parseKey(await readFile(out, 'utf8'));
  if (!Buffer.from(kept.publicKey).equals(key.publicKey))
    throw new CommandError(`${out} exists already, and is left alone`);
  const publicKey = publicKeyToJwk(key.publicKey);
  if (flags.json) io.out(`${JSON.stringify({ file: out, publicKey, fingerprint: keyFingerprint(key.publicKey) })}\n`);
  else {
    io.out(`The key is in ${out}, for its owner alone. Its public part:\n\n`);
    io.out(`  ${JSON.stringify(publicKey)}\n  ${keyFingerprint(key.publicKey)}\n\n`);
    io.out(`Use it with: TUNNEL_KEY_FILE=${out} tunnel-client run …\n`);
  }
  return EXIT.ok;
};
