// The choice of a series, the summary sentence and the figures of the last ten seconds.

import { scenarioName } from "./controls.js";
import { $, el, meter, show, text } from "./dom.js";
import { count, duration, percent, plural, rate } from "./format.js";
import { draw, known } from "./state.js";

// choose shows the series with the most calls, until the visitor picks one.
export function choose() {
  const all = [...known.series.entries()];
  if (!known.series.has(known.chosen)) { known.chosen = null; known.picked = false; }
  if (!known.picked) {
    const weight = ([, s]) => s.window.offered * 2 + (s.circuit ? 1 : 0);
    const best = all.reduce((a, b) => (a && weight(a) >= weight(b) ? a : b), null);
    const current = all.find(([key]) => key === known.chosen);
    if (best && (!current || current[1].window.offered === 0 && best[1].window.offered > 0)) known.chosen = best[0];
  }
  const select = $("series");
  show("series-label", all.length > 1);
  show("series-name", all.length === 1);
  if (all.length === 1) text("series-name", nameOf(all[0][1]));
  const keys = all.map(([key]) => key).join("\n");
  if (select.dataset.keys !== keys) {
    select.dataset.keys = keys;
    select.replaceChildren(...all.map(([key, s]) => el("option", { value: key }, nameOf(s))));
  }
  if (known.chosen && select.value !== known.chosen) select.value = known.chosen;
}
$("series").addEventListener("change", (e) => { known.chosen = e.target.value; known.picked = true; draw(); });

function nameOf(s) {
  if (!s.upstream) return "no route";
  if (!s.policy) return s.upstream;
  return `${s.upstream}, policy ${s.policy}`;
}

// judged counts the attempts that say something about the upstream. Attempts that their caller
// ended do not.
const judged = (w) => w.attempts - (w.attemptsNeutral ?? 0);

// drawSummary writes the state of the chosen series in one sentence.
export function drawSummary(s) {
  const scenario = scenarioName();
  const parts = [];
  if (scenario) parts.push(`${scenario}.`);
  const w = s?.window;
  if (!w?.offered) {
    parts.push(known.total ? "No calls in the last ten seconds." : "No calls yet.");
  } else if (s.circuit?.state === "open") {
    parts.push(`The circuit is open: ${count(w.refused)} of ${plural(w.offered, "call")} ended early, to spare the upstream.`);
  } else if (!w.attempts) {
    parts.push(`${w.offered === 1 ? "The only call" : `None of the ${plural(w.offered, "call")}`} of the last ten seconds ${w.offered === 1 ? "did not reach" : "reached"} an upstream.`);
  } else {
    const all = judged(w);
    const gap = w.good / w.offered - w.attemptsGood / all;
    const fails = all - w.attemptsGood;
    const upstream = `The upstream fails ${percent(fails, all)} of its attempts`;
    const calls = `${percent(w.offered - w.good, w.offered)} of the calls fail.`;
    if (!fails) parts.push(w.good === w.offered ? "Everything succeeds at the first attempt." : `All attempts succeed, but ${calls}`);
    else if (w.good === w.offered) parts.push(`${upstream}, but no call fails.`);
    else parts.push(gap > 0.02 ? `${upstream}, but only ${calls}` : `${upstream}, and ${calls}`);
  }
  if (s?.circuit?.state !== "open") {
    for (const [reason, limit] of [["concurrency_limit", "concurrency limit"], ["rate_limited", "rate limit"]]) {
      const n = w?.refusedBy?.[reason];
      if (n) parts.push(`The ${limit} refused ${plural(n, "call")}.`);
    }
  }
  text("summary", parts.join(" "));
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
