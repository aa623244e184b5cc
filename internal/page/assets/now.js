// The summary sentence and the figures of the last ten seconds.

import { scenarioName } from "./controls.js";
import { $, meter, show, text } from "./dom.js";
import { count, duration, percent, plural, rate } from "./format.js";
import { judged, sentence } from "./sentence.js";
import { faultsAge, known } from "./state.js";

const WORTH = 0.02; // the share of refused calls from which it is named

// drawSummary writes the state of the chosen series in a sentence.
export function drawSummary(s) {
  text("summary", sentence(s, { name: scenarioName(), age: faultsAge() }, known.total > 0, known.now));
}

export function drawNow(s) {
  const w = s?.window ?? { offered: 0, good: 0, attempts: 0, attemptsGood: 0, seconds: 10 };
  text("success-callers", percent(w.good, w.offered));
  text("success-upstream", percent(w.attemptsGood, judged(w)));
  meter("meter-callers", w.good / w.offered);
  meter("meter-upstream", w.attemptsGood / judged(w));
  // Refusals are failures of calls, but not of attempts. Without a word about them, the figures
  // would say that callers fare worse than the upstream.
  const refused = w.refused / w.offered >= WORTH;
  show("refused-key", refused);
  text("refused-share", refused ? `${percent(w.refused, w.offered)} of the calls refused` : "");
  $("meter-refused").setAttribute("x", $("meter-callers").getAttribute("width"));
  meter("meter-refused", refused ? w.refused / w.offered : 0);
  text("success-note", w.offered ? `${plural(w.offered, "call")}, ${plural(w.attempts, "attempt")}, ${count(w.refused)} refused` : "no calls in the last ten seconds");
  text("amplification", w.offered ? `×${(w.attempts / w.offered).toFixed(2)}` : "–");
  const seconds = Math.max(1, w.seconds);
  text("goodput", w.offered ? rate(w.good / seconds) : "–");
  text("goodput-note", w.offered ? `of ${rate(w.offered / seconds)} offered` : "of none offered");
  text("latency-of", refused ? "with refusals, " : "");
  text("p50", w.offered ? duration(w.p50) : "–");
  text("p99", w.offered ? duration(w.p99) : "–");
  const c = s?.circuit;
  text("tokens", c ? c.budgetTokens.toFixed(1) : "–");
  text("tokens-note", c ? `of ${c.budgetBurst} tokens for retries` : "tokens for retries");
  meter("meter-budget", c ? c.budgetTokens / c.budgetBurst : 0);
}
