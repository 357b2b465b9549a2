/** What a diagnosis finds, and how bad it is. */
import type { Transport } from '../transport.ts';

/** `warning`: a tunnel works all the same. `failed`: it stands in the way of one. `skipped`: it was not looked at. */
export type CheckState = 'ok' | 'warning' | 'failed' | 'skipped';

export interface CheckResult {
  /** Of the check, the same in every run: `quic:192.0.2.1:4242`. */
  readonly id: string;
  /** For people; at most 20 characters. */
  readonly name: string;
  readonly state: CheckState;
  readonly result: string;
  /** One sentence: what a person can do. Present where `state` is a warning or a failure. */
  readonly advice?: string;
  readonly tookMs: number;
  /** Figures, for programs. */
  readonly data?: Readonly<Record<string, unknown>>;
}

export interface Diagnosis {
  readonly gateway: string;
  readonly runnerId: string;
  /** What a client that is started now would use; undefined: it would not get through. */
  readonly transport: Transport | undefined;
  /** Nothing has failed. */
  readonly ok: boolean;
  readonly checks: readonly CheckResult[];
}

/** What a check comes to, without its name. */
export type Finding = Pick<CheckResult, 'state' | 'result' | 'advice' | 'data'>;

export const ok = (result: string, data?: CheckResult['data']): Finding => ({
  state: 'ok',
  result,
  ...(data ? { data } : {}),
});
export const warning = (result: string, advice: string, data?: CheckResult['data']): Finding => ({
  state: 'warning',
  result,
  advice,
  ...(data ? { data } : {}),
});
export const failed = (result: string, advice: string, data?: CheckResult['data']): Finding => ({
  state: 'failed',
  result,
  advice,
  ...(data ? { data } : {}),
});
export const skipped = (result: string): Finding => ({ state: 'skipped', result });

/** Checks of one way among several: they count as failures only where no other way is left. */
const PATH_CHECKS = ['name', 'quic', 'tcp', 'alpn', 'upgrade', 'certificate', 'leg'] as const;

const isOfPath = ({ id }: CheckResult): boolean => PATH_CHECKS.some((kind) => id.startsWith(`${kind}:`));

/** Of the address that a packet over UDP went to; undefined for other checks. */
const familyOf = ({ id }: CheckResult): 4 | 6 | undefined =>
  id.startsWith('quic:[') ? 6 : id.startsWith('quic:') ? 4 : undefined;

/**
 * With a transport that carries, what failed on other ways is a warning. IPv6 that leads nowhere is no more than a note
 * where IPv4 works: the client tries both, and whoever has no IPv6 need not do anything.
 */
export const judge = (checks: readonly CheckResult[], transport: Transport | undefined): CheckResult[] => {
  const hasIPv4 = checks.some((check) => familyOf(check) === 4 && check.state === 'ok');
  return checks.map((check): CheckResult => {
    if (check.state !== 'failed') return check;
    if (hasIPv4 && familyOf(check) === 6) {
      const { advice: _, ...rest } = check;
      return { ...rest, state: 'skipped', result: `${check.result}; IPv4 is used` };
    }
    return transport !== undefined && isOfPath(check) ? { ...check, state: 'warning' } : check;
  });
};
