/**
 * A path between two namespaces in whose middle packets of full size get lost, and nobody tells: both ends have links of
 * 1,500 bytes, the two routers between them one of 1,280, and no "too big" (ICMP) that they make gets out.
 *
 *     client ──1500── router ──1280── router ──1500── server
 */
import type { TestContext } from 'node:test';
import { createNamespace, type Namespace } from './namespaces.ts';

/** What IPv6 asks of every link at least; QUIC's first packets of 1,200 bytes pass. */
export const SMALL_MTU = 1_280;

export interface SmallMtuPath {
  readonly client: Namespace;
  readonly server: Namespace;
  readonly serverAddress: string;
}

const pidOf = ({ path }: Namespace): string => path.split('/')[2] ?? '';

export const createSmallMtuPath = async (t: TestContext): Promise<SmallMtuPath> => {
  const make = async (): Promise<Namespace> => {
    const namespace = await createNamespace();
    t.after(() => namespace.close());
    return namespace;
  };
  const [client, near, far, server] = [await make(), await make(), await make(), await make()];
  const join = async (
    [a, deviceA, addressA]: readonly [Namespace, string, string],
    [b, deviceB, addressB]: readonly [Namespace, string, string],
    mtu: number,
  ): Promise<void> => {
    await a.run(
      'ip',
      ...['link', 'add', deviceA, 'mtu', `${mtu}`, 'type', 'veth'],
      ...['peer', 'name', deviceB, 'mtu', `${mtu}`, 'netns', pidOf(b)],
    );
    for (const [namespace, device, address] of [
      [a, deviceA, addressA],
      [b, deviceB, addressB],
    ] as const) {
      await namespace.run('ip', 'address', 'add', `${address}/24`, 'dev', device);
      await namespace.run('ip', 'link', 'set', device, 'up');
    }
  };
  await join([client, 'near0', '10.1.1.1'], [near, 'client0', '10.1.1.2'], 1_500);
  await join([near, 'far0', '10.1.2.1'], [far, 'near0', '10.1.2.2'], SMALL_MTU);
  await join([far, 'server0', '10.1.3.2'], [server, 'far0', '10.1.3.1'], 1_500);
  await client.run('ip', 'route', 'add', 'default', 'via', '10.1.1.2');
  await server.run('ip', 'route', 'add', 'default', 'via', '10.1.3.2');
  await near.run('ip', 'route', 'add', '10.1.3.0/24', 'via', '10.1.2.2');
  await far.run('ip', 'route', 'add', '10.1.1.0/24', 'via', '10.1.2.1');
  for (const router of [near, far]) {
    await router.run('sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward');
    // What a router makes itself comes from `lo`; what it passes on does not.
    await router.run('ip', 'rule', 'add', 'priority', '1', 'iif', 'lo', 'blackhole');
  }
  return { client, server, serverAddress: '10.1.3.1' };
};
