// The comparison of the same traffic with and without the policy, in words. This module touches no
// element.

import { count, duration, percent, plural } from "./format.js";

// ahead reports whether a share is higher than another by more than chance explains: by at least
// one point and twice the standard error.
function ahead(a, b) {
  const error = Math.sqrt(variance(a) + variance(b));
  return a.good / a.ended - b.good / b.ended > Math.max(0.01, 2 * error);
}

// variance of a share of successes. It is not 0 for a share of 0 or 1, which few calls have by
// chance.
function variance({ good, ended }) {
  const p = (good + 1) / (ended + 2);
  return (p * (1 - p)) / ended;
}

// load is the attempts a call. Calls that have not ended count too: the upstream has them already.
const load = (r) => r.attempts / (r.sent || r.ended);

const points = (n) => `${n.toFixed(1).replace(/\.0$/, "")} points`;

const ENOUGH = 20; // ended calls
const SETTLED = 2; // s
const SURE = 5; // s; the demo gives up a call after it, so the first calls have ended with all their retries
export const WHOLE = 9.95; // s, shown as 10
export const COUNTING = "Counting since the faults changed.";

// counting reports whether too few calls have ended for a verdict. At first, calls that are being
// repeated have attempts but no end. A slow rate has half of the window to be enough.
export function counting(a, b, perSecond, seconds) {
  const enough = Math.min(ENOUGH, 5 * perSecond);
  const [less, more] = [Math.min(a.ended, b.ended), Math.max(a.ended, b.ended)];
  return more < enough || less < enough && seconds < SETTLED;
}

// verdict says in one sentence which way is ahead and by how much, or that it makes no difference.
// Each way has its counts of the same time, seconds long. A price alone says nothing at first:
// until a circuit opens, it costs attempts and time. Later, before the ten seconds are whole, it is
// that of so far.
export function verdict(a, b, seconds) {
  if (!a.ended && !b.ended) return "";
  if (!a.ended || !b.ended) { // calls hang
    const [some, none] = a.ended ? [a, b] : [b, a];
    const wait = none.sent ? `none has, and ${plural(none.sent, "call")} ${none.sent === 1 ? "waits" : "wait"}`
      : none.notSent ? "none was sent, because too many calls of before still wait" : "none was sent";
    return `${a.ended ? "With" : "Without"} the policy ${plural(some.ended, "call")} ended, ${some.good ? `${count(some.good)} of them well` : "none of them well"}; ${a.ended ? "without" : "with"} it ${wait}.`;
  }
  const difference = 100 * (a.good / a.ended - b.good / b.ended);
  const shares = `${percent(a.good, a.ended)} instead of ${percent(b.good, b.ended)} of the calls succeed`;
  const spared = load(b) ? 1 - load(a) / load(b) : 0;
  const price = !load(b) ? "" : load(a) > load(b) * 1.02 ? `for ${load(a).toFixed(2)} attempts a call instead of ${load(b).toFixed(2)}` : spared > 0.05 ? `and the upstream takes ${share(spared)} fewer attempts` : "";
  if (ahead(a, b)) return `The policy is ahead by ${points(difference)}: ${shares}${price ? `, ${price}` : ""}.`;
  if (ahead(b, a)) {
    return `Without the policy more calls succeed, by ${points(-difference)}: ${shares}${price ? `, ${price}` : ""}.`;
  }
  const whole = seconds >= WHOLE;
  const early = !whole && (seconds < SURE || Math.min(a.ended, b.ended) < ENOUGH);
  const faster = a.p50 < b.p50 / 2 && b.p50 - a.p50 > 1;
  const slower = b.p50 < a.p50 / 2 && a.p50 - b.p50 > 1;
  // Chance explains the difference, but it is there, for the policy or against it: to name only
  // what else differs would lean to one side.
  if (Math.abs(difference) > 1) {
    const also = Math.abs(spared) > 0.1 ? price : faster || slower && !early ? `and calls end in ${duration(a.p50)} instead of ${duration(b.p50)}` : "";
    if (also) return `With the policy ${shares}, which may be chance, ${also}.`;
  }
  const success = b.good || a.good ? "About as many calls succeed either way" : "No call succeeds either way";
  const gains = [];
  if (spared > 0.1) gains.push(`spares the upstream ${share(spared)} of the attempts`);
  if (faster) gains.push(`answers in ${duration(a.p50)} instead of ${duration(b.p50)}`);
  if (gains.length) return `${success}, but the policy ${gains.join(" and ")}.`;
  if (early && (spared < -0.1 || slower)) return COUNTING;
  const but = whole ? `${success}, but` : "So far";
  if (spared < -0.1) return `${but} with the policy the upstream takes ${share(-spared)} more attempts.`;
  if (slower) return `${but} without the policy calls end in ${duration(b.p50)} instead of ${duration(a.p50)}.`;
  return b.good === b.ended && a.good === a.ended ? "The policy makes no difference: every call succeeds either way." : `The policy makes no difference: ${success[0].toLowerCase()}${success.slice(1)}.`;
}

const share = (n) => `${(100 * n).toFixed(0)} %`;

// period says of which time the results are: of the last ten seconds, or of the time since the
// faults or the path of the traffic changed.
export const period = (seconds) => `the last ${Math.max(1, seconds).toFixed(0)} s`;

// rows are the figures of the comparison: what it is, both values as text, and as lengths of bars.
export function rows(a, b) {
  const longest = Math.max(a.p99, b.p99, 0.001);
  const most = Math.max(a.attempts, b.attempts, 1);
  return [
    { name: "success", values: [a, b].map((r) => percent(r.good, r.ended)), notes: [a, b].map((r) => (r.ended ? `${count(r.good)} of ${count(r.ended)}` : "")), lengths: [a, b].map((r) => r.good / r.ended) },
    { name: "attempts", values: [a, b].map((r) => count(r.attempts)), notes: [a, b].map((r) => (r.ended ? `${load(r).toFixed(2)} a call` : "")), lengths: [a, b].map((r) => r.attempts / most) },
    { name: "time", values: [a, b].map((r) => (r.ended ? duration(r.p50) : "–")), notes: [a, b].map((r) => (r.ended ? `99 %: ${duration(r.p99)}` : "")), lengths: [a, b].map((r) => r.p50 / longest), ends: [a, b].map((r) => r.p99 / longest) },
  ];
}
