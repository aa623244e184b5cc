// The circuit of the chosen series, and its concurrency limit.

import { $, text } from "./dom.js";
import { count, duration, percent, plural, whole } from "./format.js";
import { keyOf, known, reals, serverNow } from "./state.js";

export const stateWord = { closed: "Closed", open: "Open", "half-open": "Half-open" };

// drawBreaker draws the circuit, and the concurrency limit while there is one.
export function drawBreaker(s) {
  if (s?.all) drawCircuits();
  else drawCircuit(s);
  if (known.lost) text("breaker-note", "not known now"); // no countdown without news
}

function drawCircuit(s) {
  const c = s?.circuit;
  const state = c?.state ?? "none";
  $("breaker-tile").dataset.state = state;
  $("breaker-shape").setAttribute("href", `#shape-${state}`);
  text("breaker-state", c ? stateWord[state] : "–");
  let note = "no calls yet";
  if (state === "open") {
    const left = c.probeAt - serverNow();
    note = left > 50 ? `next probe in ${(left / 1000).toFixed(1)} s` : "next probe with the next call";
  } else if (state === "half-open") {
    note = `probing: ${c.successes} of ${c.settings.probes} good`;
  } else if (c) {
    const all = c.successes + c.failures;
    note = `${count(c.failures)} of ${count(all)} failed in ${whole(c.settings.window)}`;
  }
  text("breaker-note", note);
  const limit = s?.concurrency;
  text("limit-note", limit ? `${count(limit.inFlight)} of ${count(limit.limit)} in flight${limit.queued ? `, ${count(limit.queued)} wait` : ""}` : "");
}

// drawCircuits draws how many circuits are not closed.
function drawCircuits() {
  const all = reals().filter((s) => s.circuit);
  const open = all.filter((s) => s.circuit.state === "open").length;
  const probing = all.filter((s) => s.circuit.state === "half-open").length;
  const state = !all.length ? "none" : open ? "open" : probing ? "half-open" : "closed";
  $("breaker-tile").dataset.state = state;
  $("breaker-shape").setAttribute("href", `#shape-${state}`);
  text("breaker-state", !all.length ? "–" : open ? `${count(open)} open` : probing ? `${count(probing)} half-open` : "All closed");
  text("breaker-note", all.length ? `of ${plural(all.length, "circuit")}` : "no calls yet");
  text("limit-note", open && probing ? `${count(probing)} half-open` : "");
}

// cause explains why a circuit changed, with the counts.
export function cause(t) {
  const settings = known.series.get(keyOf(t))?.circuit?.settings;
  const all = t.successes + t.failures;
  const openFor = t.openFor ? `, open for ${duration(t.openFor)}` : "";
  if (t.to === "open" && t.from === "half-open") return `a probe failed${openFor}`;
  if (t.to === "open") {
    if (settings?.consecutiveFailures && t.consecutiveFailures >= settings.consecutiveFailures) {
      return `${plural(t.consecutiveFailures, "failure")} in a row (limit ${settings.consecutiveFailures})${openFor}`;
    }
    const limit = settings ? ` (limit ${percent(settings.failureRatio, 1).replace(".0", "")} of at least ${settings.minRequests})` : "";
    return `${count(t.failures)} of ${count(all)} failed${limit}${openFor}`;
  }
  if (t.to === "half-open") return "the open period is over, probes go through";
  return `${plural(t.successes, "probe")} succeeded`;
}
