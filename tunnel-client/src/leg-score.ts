/**
 * Which leg is the healthiest: the one whose lanes answer an echo soonest. What the client itself asks for goes to the
 * gateway where that one ends; announcements go to every gateway, since each serves what it was told.
 */
import type { LegState, SupervisedLeg } from './supervised-legs.ts';

/** From the time that a leg serves until its first echo, ms: the gateway opens the lanes together with its welcome. */
export const FIRST_ECHO_MS = 1_000;
/** Share of the newest echo in the score: one that a burst of traffic held up is forgotten after some. */
const NEWEST_ECHO_SHARE = 0.5;

const ORDER: readonly LegState[] = ['up', 'suspect', 'drained'];

/** Score, ms, after one more echo that took `echoMs`. */
export const scoreOf = (before: number | undefined, echoMs: number): number =>
  before === undefined ? echoMs : before + NEWEST_ECHO_SHARE * (echoMs - before);

/** Of those that serve; one in trouble only where there is no other. One that was not scored yet comes last of its kind. */
export const healthiestOf = <T extends Pick<SupervisedLeg, 'state' | 'echoMs'>>(legs: readonly T[]): T | undefined =>
  legs
    .filter(({ state }) => ORDER.includes(state))
    .sort(
      (a, b) =>
        ORDER.indexOf(a.state) - ORDER.indexOf(b.state) ||
        (a.echoMs ?? Number.MAX_VALUE) - (b.echoMs ?? Number.MAX_VALUE),
    )[0];
