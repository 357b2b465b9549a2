/** A process of its own that tries to enrol runners with one token and many keys. Arguments: file, runner id. */
import { systemClock } from '../../shared/src/clock.ts';
import { RefusedError } from '../../shared/src/errors.ts';
import { createKey, keyFingerprint } from '../../shared/src/identity/keys.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';

const [path = '', runnerId = ''] = process.argv.slice(2);
const directory = await openEmbeddedDirectory({ clock: systemClock }, { path, issuer: 'https://api.gateway.test' });

process.once('message', (tokens: string[]) => {
  void (async () => {
    const results: string[] = [];
    for (const exchangeToken of tokens) {
      const { publicKey } = createKey();
      try {
        await directory.enrol({ runnerId, exchangeToken, publicKey });
        results.push(keyFingerprint(publicKey));
      } catch (error) {
        results.push(error instanceof RefusedError ? error.code : String(error));
      }
    }
    await directory.close();
    process.send?.(results, () => process.disconnect?.());
  })();
});
process.send?.('ready');
