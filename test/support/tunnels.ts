/** A registry and an acceptor on a real directory; runners come over connections in memory, with the real handshake. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock, type Clock } from '../../shared/src/clock.ts';
import { createKey, type IdentityKey } from '../../shared/src/identity/keys.ts';
import { signMembership, verifyMembership } from '../../shared/src/identity/membership.ts';
import { dialLeg } from '../../shared/src/protocol/handshake.ts';
import type { Leg, LegHandlers } from '../../shared/src/protocol/leg.ts';
import type { EnvironmentResult, MessageOf } from '../../shared/src/protocol/messages.ts';
import type { Connection } from '../../shared/src/transport/connection.ts';
import { memoryConnectionPair } from '../../shared/src/transport/memory.ts';
import type { Directory } from '../../gateway/src/directory/directory.ts';
import { openEmbeddedDirectory } from '../../gateway/src/directory/embedded.ts';
import { GATEWAY_LIMITS, type GatewayLimits } from '../../gateway/src/limits.ts';
import { createAcceptor, type Acceptor } from '../../gateway/src/tunnels/acceptor.ts';
import { createOwnMembership } from '../../gateway/src/tunnels/own-membership.ts';
import { createRegistry, type TunnelRegistry } from '../../gateway/src/tunnels/registry.ts';
import { keepLog, type KeptLog } from './gateway.ts';
import { until } from './runner.ts';

const never = new AbortController().signal;

/** A runner that is enrolled; it speaks the protocol, and the test says what. */
export interface Enrolled {
  readonly id: string;
  readonly key: IdentityKey;
  /** A leg of the instance, attached unless `attach` is false. */
  dial(options?: DialOptions): Promise<RunnerLeg>;
}

export interface DialOptions {
  readonly instance?: string;
  readonly startedAt?: number;
  readonly replaces?: string;
  /** Takes nothing until `activate` is sent. */
  readonly standby?: boolean;
  readonly key?: IdentityKey;
  readonly attach?: boolean;
  readonly onStream?: LegHandlers['onStream'];
}

export interface RunnerLeg {
  readonly leg: Leg;
  readonly messages: MessageOf<'activate' | 'environments' | 'environmentsResult' | 'drain'>[];
  /** Announces in one message and resolves with the results. */
  announce(
    revision: number,
    set: readonly unknown[],
    options?: { full?: boolean; delete?: string[] },
  ): Promise<EnvironmentResult[]>;
  /** Results of a revision, once they are complete. */
  results(revision: number): Promise<EnvironmentResult[]>;
}

export interface Tunnels extends KeptLog {
  readonly directory: Directory;
  readonly registry: TunnelRegistry;
  readonly acceptor: Acceptor;
  /** While false, every call of the directory fails as if its store were away. */
  setDirectoryUp(up: boolean): void;
  enrol(name?: string, organization?: string): Promise<Enrolled>;
  /** A connection to the acceptor; returns the runner's end. */
  connect(key: IdentityKey): Connection;
  close(): Promise<void>;
}

/** The directory, which can be made to fail. */
const breakable = (directory: Directory) => {
  let isUp = true;
  const proxy = new Proxy(directory, {
    get(target, name, receiver) {
      const value: unknown = Reflect.get(target, name, receiver);
      if (typeof value !== 'function' || name === 'watch' || name === 'close') return value;
      return (...args: unknown[]) =>
        isUp ? (value as (...given: unknown[]) => unknown)(...args) : Promise.reject(new Error('the store is away'));
    },
  });
  return { directory: proxy, setUp: (up: boolean) => (isUp = up) };
};

export const startTunnels = async (
  options: { clock?: Clock; limits?: Partial<GatewayLimits>; random?: () => number } = {},
): Promise<Tunnels> => {
  const clock = options.clock ?? systemClock;
  const stateDir = await mkdtemp(join(tmpdir(), 'tunnels-test-'));
  const kept = keepLog();
  const { log } = kept;
  const limits = { ...GATEWAY_LIMITS, ...options.limits };
  const store = await openEmbeddedDirectory(
    { clock, log },
    { path: join(stateDir, 'directory.sqlite'), issuer: 'https://api.test' },
  );
  const { directory, setUp } = breakable(store);
  const gatewayKey = createKey();
  const membership = await createOwnMembership({ directory, key: gatewayKey, clock, log });
  const registry = createRegistry({
    directory,
    clock,
    log,
    limits,
    random: options.random ?? (() => 0.5),
    urls: { domain: 'test', publicPort: () => 443 },
  });
  // Handshakes run in real time.
  const acceptor = createAcceptor({
    directory,
    registry,
    membership,
    clock: { ...clock, timer: systemClock.timer },
    log,
    limits,
    gateways: () => [{ id: membership.gatewayId, quic: ['api.test:4242'] }],
  });

  const connect = (key: IdentityKey): Connection => {
    const pair = memoryConnectionPair({ diallerKey: key.publicKey, acceptorKey: gatewayKey.publicKey });
    acceptor.accept(pair.acceptor);
    return pair.dialler;
  };

  const dial = async (id: string, organization: string | undefined, key: IdentityKey, given: DialOptions) => {
    const { current, trust, issuer } = await store.authority();
    const token = await signMembership(
      current,
      { id, organization, group: 'runner', publicKey: key.publicKey },
      { clock },
    );
    const before = registry.legs().length;
    const leg = await dialLeg(
      connect(key),
      {
        clock: { ...clock, timer: systemClock.timer },
        membership: () => token,
        verify: (shown, peerKey) => verifyMembership(shown, { trust, issuer, group: 'gateway', peerKey }, { clock }),
        hello: {
          instance: given.instance ?? 'instance-1',
          instanceStartedAt: given.startedAt ?? 1,
          agent: 'test',
          ...(given.replaces === undefined ? {} : { replaces: given.replaces }),
          ...(given.standby ? { features: ['standby'] } : {}),
        },
      },
      { signal: never },
    );
    const messages: RunnerLeg['messages'] = [];
    if (given.attach !== false) {
      leg.attach({
        onMessage: (message) => messages.push(message),
        ...(given.onStream ? { onStream: given.onStream } : {}),
      });
    }
    await until(() => registry.legs().length > before || registry.legs().some(({ legId }) => legId === leg.id));
    const results = async (revision: number): Promise<EnvironmentResult[]> => {
      const parts = () => messages.filter((each) => each.type === 'environmentsResult' && each.revision === revision);
      await until(() => parts().some((each) => each.type === 'environmentsResult' && each.last));
      return parts().flatMap((each) => (each.type === 'environmentsResult' ? each.results : []));
    };
    return {
      leg,
      messages,
      results,
      announce(revision: number, set: readonly unknown[], more: { full?: boolean; delete?: string[] } = {}) {
        leg.send({
          type: 'environments',
          revision,
          part: 0,
          last: true,
          full: more.full ?? true,
          set: [...set],
          delete: more.delete ?? [],
        });
        return results(revision);
      },
    };
  };

  return {
    ...kept,
    directory,
    registry,
    acceptor,
    setDirectoryUp: setUp,
    connect,
    async enrol(name = 'test', organization) {
      const { runner, exchangeToken } = await store.createRunner({ name, ...(organization ? { organization } : {}) });
      const key = createKey();
      await store.enrol({ runnerId: runner.id, exchangeToken, publicKey: key.publicKey });
      return { id: runner.id, key, dial: (given = {}) => dial(runner.id, organization, given.key ?? key, given) };
    },
    async close() {
      await acceptor.close();
      await registry.close();
      membership.close();
      await store.close();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
};

export const environment = (id: string, port = 3_000) => ({ id, ports: [{ port, admission: 'everyone' }] });
