import type { Environment } from '../../../shared/src/protocol/messages.ts';
import type { Leg } from '../../../shared/src/protocol/leg.ts';

/** What is known of an environment at this moment, and the legs by which it is reached. */
export type EnvironmentRoute =
  /** No runner has ever claimed this id (or the claim was forgotten, 30 days after its release). */
  | { readonly kind: 'unknown' }
  /** Claimed, but no leg of an instance that announces it takes new streams. */
  | {
      readonly kind: 'offline';
      readonly runnerId: string;
      readonly organization: string | undefined;
      /** As last announced. */
      readonly environment: Environment | undefined;
    }
  | {
      readonly kind: 'online';
      readonly runnerId: string;
      readonly organization: string | undefined;
      readonly environment: Environment;
      /** Best first, never empty. */
      readonly legs: readonly Leg[];
    };
