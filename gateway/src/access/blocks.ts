/**
 * Environments and organizations of which an operator lets nothing be served, kept in the directory and known to every
 * gateway of it within seconds. The check is local: no request waits for the directory.
 */
import type { Directory } from '../directory/directory.ts';
import { follow, type Followed, type FollowedDeps } from './followed.ts';

export interface Blocks extends Pick<Followed<unknown>, 'onChange' | 'close'> {
  isBlocked(of: { readonly environmentId: string; readonly organization: string | undefined }): boolean;
}

/** Reads the list; rejects when that is not possible. */
export const createBlocks = async (
  deps: FollowedDeps & { readonly directory: Pick<Directory, 'blocks'> },
): Promise<Blocks> => {
  const { current, onChange, close } = await follow(deps, {
    async read() {
      const list = await deps.directory.blocks();
      return {
        environments: new Set(list.flatMap(({ kind, subject }) => (kind === 'environment' ? [subject] : []))),
        organizations: new Set(list.flatMap(({ kind, subject }) => (kind === 'organization' ? [subject] : []))),
      };
    },
    isAbout: ({ kind }) => kind === 'blocks',
    failure: 'the list of blocked environments cannot be read, it is tried again',
  });
  return {
    isBlocked({ environmentId, organization }) {
      const { environments, organizations } = current();
      return environments.has(environmentId) || (organization !== undefined && organizations.has(organization));
    },
    onChange,
    close,
  };
};
