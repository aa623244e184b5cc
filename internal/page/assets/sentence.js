// The state of what is shown, in a sentence. This module touches no element.

import { clipped, count, percent, plural } from "./format.js";
import { reals } from "./state.js";

// judged counts the attempts that say something about the upstream. Attempts that their caller
// ended do not.
export const judged = (w) => w.attempts - (w.attemptsNeutral ?? 0);

const limits = [["concurrency_limit", "concurrency limit"], ["rate_limited", "rate limit"]];
const LAST = "the last ten seconds";
const NAME = 40; // characters of a name: longer ones would move the charts down

// sentence describes a series, or all of them. faults has the name of those in force and their age
// in ms, if it is known; any tells whether there ever was a call; now is the server's time. What
// is now is said in the present, and every figure of the last ten seconds in the past. Otherwise
// the figures would contradict faults that have just changed.
export function sentence(s, faults, any, now) {
  const w = s?.window;
  const parts = [];
  if (faults?.name) parts.push(faults.age < 10_000 ? `${faults.name} for ${Math.max(1, Math.floor(faults.age / 1000))} s.` : `${faults.name}.`);
  const fresh = Boolean(faults?.name) && faults.name !== "Healthy" && faults.age < 10_000;
  if (!w?.offered) parts.push(any ? `No calls in ${LAST}.` : "No calls yet.");
  else if (s.all) parts.push(...ofAll(w, fresh));
  else parts.push(...ofOne(s, w, now - Math.min(3000, faults?.age ?? Infinity), fresh));
  return parts.join(" ");
}

const refusedByCircuit = (w) => (w.refusedBy?.breaker_open ?? 0) + (w.refusedBy?.breaker_half_open ?? 0);

// ofOne describes one series. What began after recent tells whether the upstream works again, and
// fresh whether faults began within the time that the figures cover.
function ofOne(s, w, recent, fresh) {
  const shed = (s.circuit?.state ?? "closed") === "closed" ? shedding(w) : "";
  // The limits are left out beside refusals of the circuit: the sentence keeps its length.
  return shed ? [shed] : [...stateOf(s, w, recent, fresh), ...(refusedByCircuit(w) ? [] : limited(w))];
}

function stateOf(s, w, recent, fresh) {
  const state = s.circuit?.state;
  const early = refusedByCircuit(w);
  const spared = `${count(early)} of ${plural(w.offered, "call")} of ${LAST} ${early === 1 ? "was" : "were"} refused at once`;
  if (state === "open") return [`The circuit is open: ${early ? `${spared}, to spare the upstream` : "calls are refused at once, to spare the upstream"}.`];
  if (state === "half-open") return [`The circuit is half-open: a few calls probe the upstream${early ? `; ${spared}` : ""}.`];
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
  return attempts(w, "the upstream", fresh);
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
function attempts(w, who, fresh) {
  if (!w.attempts) return [`${w.offered === 1 ? "The only call" : `None of the ${plural(w.offered, "call")}`} of ${LAST} ${w.offered === 1 ? "did not reach" : "reached"} an upstream.`];
  const all = judged(w);
  const gap = w.good / w.offered - w.attemptsGood / all;
  const fails = all - w.attemptsGood;
  const calls = `${percent(w.offered - w.good, w.offered)} of the calls failed.`;
  const left = w.attempts - all;
  if (!fails && left) return [`In ${LAST}, callers ended ${count(left)} of ${plural(w.attempts, "attempt")} before an answer${all ? "; the others succeeded" : ""}.`];
  if (!fails) return [w.good === w.offered ? `${fresh ? "Until now every" : "Every"} call of ${LAST} succeeded at the first attempt.` : `In ${LAST} all attempts succeeded, but ${calls}`];
  const upstream = `In ${LAST} ${who} failed ${percent(fails, all)} of ${who === "the upstream" ? "its" : "their"} attempts`;
  if (w.good === w.offered) return [`${upstream}, but no call failed.`];
  return [gap > 0.02 ? `${upstream}, but only ${calls}` : `${upstream}, and ${calls}`];
}

// ofAll names the upstreams that do not do well. One upstream can have several series, one for each
// policy. An upstream without calls in the last ten seconds counts if its circuit is not closed.
function ofAll(w, fresh) {
  const names = (some) => [...new Set(some.map((s) => s.upstream))];
  const named = (some) => some.slice(0, 3).map((name) => clipped(name, NAME)).join(", ") + (some.length > 3 ? ", …" : "");
  const notClosed = reals().filter((s) => s.circuit && s.circuit.state !== "closed");
  const open = names(notClosed);
  const all = names(reals().filter((s) => s.window.offered || notClosed.includes(s)));
  const bad = names(reals().filter((s) => s.window.offered && s.window.good < 0.98 * s.window.offered)).filter((name) => !open.includes(name));
  const out = [...new Set(reals().flatMap((s) => (s.endpoints ?? []).filter((e) => e.state === "ejected" || e.state === "probing").map((e) => `${e.address} of ${s.upstream}`)))];
  const states = ["open", "half-open"].filter((state) => notClosed.some((s) => s.circuit.state === state)).join(" or ");
  const parts = [];
  if (open.length) parts.push(`${count(open.length)} of ${plural(all.length, "upstream")} ${open.length === 1 ? "has its circuit" : "have their circuits"} ${states}: ${named(open)}.`);
  if (out.length) parts.push(`${plural(out.length, "endpoint")} ${out.length === 1 ? "is" : "are"} ejected: ${named(out)}.`);
  if (bad.length) parts.push(`In ${LAST} ${open.length ? count(bad.length) + " more" : `${count(bad.length)} of ${plural(all.length, "upstream")}`} failed calls: ${named(bad)}.`);
  if (open.length || bad.length) parts.push(`Over all, ${percent(w.offered - w.good, w.offered)} of the calls${bad.length ? "" : ` of ${LAST}`} failed.`);
  else {
    if (all.length) parts.push(all.length === 1 ? "The only upstream with calls did well." : `All ${count(all.length)} upstreams with calls did well.`);
    parts.push(...attempts(w, "the upstreams", fresh));
  }
  return [...parts, ...limited(w)];
}

const refusedFor = (w, reason) => w.refusedBy?.[reason] ?? 0;

// limited tells how many calls the two limits refused.
function limited(w) {
  return limits.filter(([reason]) => refusedFor(w, reason)).map(([reason, limit]) => `The ${limit} refused ${plural(refusedFor(w, reason), "call")}.`);
}

// shedding tells how the others fared if a limit refused a tenth of the calls or more, and is empty
// otherwise. The rate limit comes first: what it lets through, the concurrency limit and the
// circuit can still refuse. The sentence is alone, so that it is not longer than the others.
function shedding(w) {
  const some = limits.map(([reason, limit]) => [refusedFor(w, reason), limit]).filter(([n]) => n);
  const concurrency = refusedFor(w, "concurrency_limit");
  const rest = w.offered - refusedFor(w, "rate_limited") - (concurrency ? concurrency + refusedByCircuit(w) : 0);
  if (rest <= 0 || !some.some(([n]) => n >= 0.1 * w.offered)) return "";
  const who = some.map(([n, limit], i) => `the ${limit}${i ? "" : " refused"} ${count(n)}`).join(" and ");
  return `${who.replace("t", "T")} of ${plural(w.offered, "call")} of ${LAST}; of those let through, ${percent(w.good, rest)} succeeded.`;
}
