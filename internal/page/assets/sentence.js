// The state of what is shown, in a sentence. This module touches no element.

import { count, percent, plural } from "./format.js";
import { reals } from "./state.js";

// judged counts the attempts that say something about the upstream. Attempts that their caller
// ended do not.
export const judged = (w) => w.attempts - (w.attemptsNeutral ?? 0);

const limits = [["concurrency_limit", "concurrency limit"], ["rate_limited", "rate limit"]];

// sentence describes a series, or all of them. scenario names the faults in force, if they are
// known; any tells whether there ever was a call; now is the server's time.
export function sentence(s, scenario, any, now) {
  const w = s?.window;
  const parts = scenario ? [`${scenario}.`] : [];
  if (!w?.offered) parts.push(any ? "No calls in the last ten seconds." : "No calls yet.");
  else if (s.all) parts.push(...ofAll(w));
  else parts.push(...ofOne(s, w, now));
  if (w?.offered && (s.circuit?.state ?? "closed") === "closed") parts.push(...limited(w));
  return parts.join(" ");
}

function ofOne(s, w, now) {
  const state = s.circuit?.state;
  const early = (w.refusedBy?.breaker_open ?? 0) + (w.refusedBy?.breaker_half_open ?? 0);
  if (state === "open") return [`The circuit is open: ${count(w.refused)} of ${plural(w.offered, "call")} ended early, to spare the upstream.`];
  if (state === "half-open") return [`The circuit is half-open: a few calls probe whether the upstream works again${early ? `, ${count(early)} of ${plural(w.offered, "call")} ended early` : ""}.`];
  if (early && recovered(s, now)) {
    const failed = w.offered - w.good;
    return [`The upstream works again. The ${percent(failed, w.offered)} of the calls that failed are ${early >= failed ? "refusals" : "failures and refusals"} of seconds ago${early >= failed ? ", while the circuit was open" : ", before and while the circuit was open"}.`];
  }
  const sick = (s.endpoints ?? []).filter((e) => e.state === "ejected" || e.state === "probing");
  const all = (s.endpoints ?? []).length + (s.endpointsOmitted ?? 0);
  if (sick.length && w.good > 0) {
    const rest = w.good === w.offered ? "no call fails" : `${percent(w.offered - w.good, w.offered)} of the calls fail`;
    return [`${count(sick.length)} of ${plural(all, "endpoint")} ${sick.length === 1 ? "is" : "are"} ejected (${sick.slice(0, 3).map((e) => e.address).join(", ")}${sick.length > 3 ? ", …" : ""}); the others answer, and ${rest}.`];
  }
  return attempts(w, "The upstream fails");
}

// recovered reports whether nearly all calls of the last two seconds were good.
function recovered(s, now) {
  let offered = 0;
  let good = 0;
  for (const second of s.seconds.values()) {
    if (second.at < now - 3000) continue;
    offered += second.offered ?? 0;
    good += second.good ?? 0;
  }
  return offered > 0 && good >= 0.98 * offered;
}

// attempts compares what the upstream does to attempts with what its callers see.
function attempts(w, who) {
  if (!w.attempts) return [`${w.offered === 1 ? "The only call" : `None of the ${plural(w.offered, "call")}`} of the last ten seconds ${w.offered === 1 ? "did not reach" : "reached"} an upstream.`];
  const all = judged(w);
  const gap = w.good / w.offered - w.attemptsGood / all;
  const fails = all - w.attemptsGood;
  const calls = `${percent(w.offered - w.good, w.offered)} of the calls fail.`;
  const left = w.attempts - all;
  if (!fails && left) return [`Callers ended ${count(left)} of ${plural(w.attempts, "attempt")} before an answer${all ? "; the others succeed" : ""}.`];
  if (!fails) return [w.good === w.offered ? "Everything succeeds at the first attempt." : `All attempts succeed, but ${calls}`];
  const upstream = `${who} ${percent(fails, all)} of ${who.endsWith("fails") ? "its" : "their"} attempts`;
  if (w.good === w.offered) return [`${upstream}, but no call fails.`];
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
  if (bad.length) parts.push(`${open.length ? count(bad.length) + " more" : `${count(bad.length)} of ${plural(all.length, "upstream")}`} ${bad.length === 1 ? "fails" : "fail"} calls: ${named(bad)}.`);
  if (parts.length) return [...parts, `Over all, ${percent(w.offered - w.good, w.offered)} of the calls fail.`];
  return [`Calls to ${all.length === 1 ? "the upstream" : `all ${count(all.length)} upstreams`} go well.`, ...attempts(w, "Together the upstreams fail")];
}

// limited tells how many calls the two limits shed.
function limited(w) {
  const parts = [];
  for (const [reason, limit] of limits) {
    const n = w.refusedBy?.[reason];
    if (!n) continue;
    parts.push(`The ${limit} refused ${plural(n, "call")}.`);
    const rest = w.offered - w.refused;
    if (n >= 0.1 * w.offered && rest > 0) parts.push(`It sheds load: of the calls that it let through, ${percent(w.good, rest)} succeed.`);
  }
  return parts;
}
