// The summary sentence and the figures of the last ten seconds.

import { scenarioName } from "./controls.js";
import { meter, text } from "./dom.js";
import { count, duration, percent, plural, rate } from "./format.js";
import { judged, sentence } from "./sentence.js";
import { faultsAge, known } from "./state.js";

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
  text("success-note", w.offered ? `${plural(w.offered, "call")}, ${plural(w.attempts, "attempt")}, ${count(w.refused)} refused` : "no calls in the last ten seconds");
  text("amplification", w.offered ? `×${(w.attempts / w.offered).toFixed(2)}` : "–");
  const seconds = Math.max(1, w.seconds);
  text("goodput", w.offered ? rate(w.good / seconds) : "–");
  text("goodput-note", w.offered ? `of ${rate(w.offered / seconds)} offered` : "of none offered");
  text("p50", w.offered ? duration(w.p50) : "–");
  text("p99", w.offered ? duration(w.p99) : "–");
  const c = s?.circuit;
  text("tokens", c ? c.budgetTokens.toFixed(1) : "–");
  text("tokens-note", c ? `of ${c.budgetBurst} tokens for retries` : "tokens for retries");
  meter("meter-budget", c ? c.budgetTokens / c.budgetBurst : 0);
}
