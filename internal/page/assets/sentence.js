// The state of what is shown, in a sentence. This module touches no element.

import { count, percent, plural } from "./format.js";
import { reals } from "./state.js";

// judged counts the attempts that say something about the upstream. Attempts that their caller
// ended do not.
export const judged = (w) => w.attempts - (w.attemptsNeutral ?? 0);

const limits = [["concurrency_limit", "concurrency limit"], ["rate_limited", "rate limit"]];
const LAST = "the last ten seconds";

// sentence describes a series, or all of them. faults has the name of those in force and their age
// in ms, if it is known; any tells whether there ever was a call; now is the server's time. What
// is now is said in the present, and every figure of the last ten seconds in the past. Otherwise
// the figures would contradict faults that have just changed.
export function sentence(s, faults, any, now) {
  const w = s?.window;
  const parts = [];
  if (faults?.name) parts.push(faults.age < 10_000 ? `${faults.name} for ${Math.max(1, Math.floor(faults.age / 1000))} s.` : `${faults.name}.`);
  if (!w?.offered) parts.push(any ? `No calls in ${LAST}.` : "No calls yet.");
  else if (s.all) parts.push(...ofAll(w));
  else parts.push(...ofOne(s, w, now - Math.min(3000, faults?.age ?? Infinity)));
  if (w?.offered) parts.push(...limited(w, (s.circuit?.state ?? "closed") === "closed"));
  return parts.join(" ");
}

const refusedByCircuit = (w) => (w.refusedBy?.breaker_open ?? 0) + (w.refusedBy?.breaker_half_open ?? 0);

// ofOne describes one series. What began after recent tells whether the upstream works again.
function ofOne(s, w, recent) {
  const state = s.circuit?.state;
  const early = refusedByCircuit(w);
  const spared = `${count(early)} of ${plural(w.offered, "call")} of ${LAST} ended early`;
  if (state === "open") return [`The circuit is open: ${early ? `${spared}, to spare the upstream` : "calls end early, to spare the upstream"}.`];
  if (state === "half-open") return [`The circuit is half-open: a few calls probe whether the upstream works again${early ? `; ${spared}` : ""}.`];
  if (early && recovered(s, recent)) {
    const failed = w.offered - w.good;
    return [`The upstream works again. The ${percent(failed, w.offered)} of the calls that failed are ${early >= failed ? "refusals" : "failures and refusals"} of seconds ago${early >= failed ? ", while the circuit was open" : ", before and while the circuit was open"}.`];
  }
  const sick = (s.endpoints ?? []).filter((e) => e.state === "ejected" || e.state === "probing");
  const all = (s.endpoints ?? []).length + (s.endpointsOmitted ?? 0);
  if (sick.length && w.good > 0) {
    const out = `${count(sick.length)} of ${plural(all, "endpoint")} ${sick.length === 1 ? "is" : "are"} ejected (${sick.slice(0, 3).map((e) => e.address).join(", ")}${sick.length > 3 ? ", …" : ""})`;
    const rest = w.good === w.offered ? "no call" : `${percent(w.offered - w.good, w.offered)} of the calls`;
    return [sick.length < all && w.good >= 0.98 * w.offered ? `${out}; the others answered, and ${rest} of ${LAST} failed.` : `${out}; ${rest} of ${LAST} failed.`];
  }
  return attempts(w, "the upstream");
}

// recovered reports whether nearly all calls of the seconds after recent were good.
function recovered(s, recent) {
  let offered = 0;
  let good = 0;
  for (const second of s.seconds.values()) {
    if (second.at < recent) continue;
    offered += second.offered ?? 0;
    good += second.good ?? 0;
  }
  return offered > 0 && good >= 0.98 * offered;
}

// attempts compares what the upstream did to attempts with what its callers saw.
function attempts(w, who) {
  if (!w.attempts) return [`${w.offered === 1 ? "The only call" : `None of the ${plural(w.offered, "call")}`} of ${LAST} ${w.offered === 1 ? "did not reach" : "reached"} an upstream.`];
  const all = judged(w);
  const gap = w.good / w.offered - w.attemptsGood / all;
  const fails = all - w.attemptsGood;
  const calls = `${percent(w.offered - w.good, w.offered)} of the calls failed.`;
  const left = w.attempts - all;
  if (!fails && left) return [`In ${LAST}, callers ended ${count(left)} of ${plural(w.attempts, "attempt")} before an answer${all ? "; the others succeeded" : ""}.`];
  if (!fails) return [w.good === w.offered ? `Every call of ${LAST} succeeded at the first attempt.` : `In ${LAST} all attempts succeeded, but ${calls}`];
  const upstream = `In ${LAST} ${who} failed ${percent(fails, all)} of ${who === "the upstream" ? "its" : "their"} attempts`;
  if (w.good === w.offered) return [`${upstream}, but no call failed.`];
  return [gap > 0.02 ? `${upstream}, but only ${calls}` : `${upstream}, and ${calls}`];
}

// ofAll names the upstreams that do not do well. One upstream can have several series, one for each
// policy.
function ofAll(w) {
  const names = (some) => [...new Set(some.map((s) => s.upstream))];
  const named = (some) => some.slice(0, 3).join(", ") + (some.length > 3 ? ", …" : "");
  const all = names(reals());
  const notClosed = reals().filter((s) => s.circuit && s.circuit.state !== "closed");
  const open = names(notClosed);
  const bad = names(reals().filter((s) => s.window.offered && s.window.good < 0.98 * s.window.offered)).filter((name) => !open.includes(name));
  const states = ["open", "half-open"].filter((state) => notClosed.some((s) => s.circuit.state === state)).join(" or ");
  const parts = [];
  if (open.length) parts.push(`${count(open.length)} of ${plural(all.length, "upstream")} ${open.length === 1 ? "has its circuit" : "have their circuits"} ${states}: ${named(open)}.`);
  if (bad.length) parts.push(`${open.length ? count(bad.length) + " more" : `${count(bad.length)} of ${plural(all.length, "upstream")}`} failed calls: ${named(bad)}.`);
  if (parts.length) return [...parts, `Over all, ${percent(w.offered - w.good, w.offered)} of the calls of ${LAST} failed.`];
  return [all.length === 1 ? "The upstream does well." : `All ${count(all.length)} upstreams do well.`, ...attempts(w, "the upstreams")];
}

// limited tells how many calls the two limits shed, and how the others fared while the circuit is
// closed. The rate limit comes first: what it lets through, the concurrency limit and the circuit
// can still refuse.
function limited(w, closed) {
  const parts = [];
  const refused = (reason) => w.refusedBy?.[reason] ?? 0;
  for (const [reason, limit] of limits) {
    const n = refused(reason);
    if (!n) continue;
    parts.push(`The ${limit} refused ${plural(n, "call")}.`);
    const rest = w.offered - refused("rate_limited") - (reason === "rate_limited" ? 0 : n + refusedByCircuit(w));
    if (closed && n >= 0.1 * w.offered && rest > 0) parts.push(`It shed load: of the calls that it let through, ${percent(w.good, rest)} succeeded.`);
  }
  return parts;
}
