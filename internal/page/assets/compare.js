// The same traffic with and without the policy, side by side.

import { $, meter, show, text } from "./dom.js";
import { count, plural } from "./format.js";
import { known } from "./state.js";
import { COUNTING, WHOLE, counting, period, rows, verdict } from "./verdict.js";

const ways = ["with", "without"];

export function drawCompare() {
  const { traffic } = known;
  show("compare", Boolean(traffic));
  if (!traffic) return;
  const { elsewhere } = traffic;
  show("compare-table", !elsewhere);
  show("path-set", !elsewhere);
  show("compare-note", !elsewhere);
  text("compare-period", elsewhere ? "" : period(traffic.seconds));
  if (elsewhere) {
    text("verdict", "No comparison: under this configuration the calls reach another upstream than the demo’s own, or none.");
    return;
  }
  const [a, b] = ways.map((way) => traffic[way]);
  for (const row of rows(a, b)) {
    ways.forEach((way, i) => {
      text(`${way}-${row.name}`, row.values[i]);
      text(`${way}-${row.name}-note`, row.notes[i]);
      meter(`${way}-${row.name}-bar`, row.lengths[i]);
      if (row.ends) $(`${way}-${row.name}-end`).setAttribute("x", `${(100 * Math.min(1, row.ends[i] || 0)).toFixed(2)}%`);
    });
  }
  ways.forEach((way) => {
    const r = traffic[way];
    const sent = traffic.perSecond && [way, "both"].includes(traffic.path);
    text(`${way}-note`, (r.ended ? plural(r.ended, "call") : sent ? "none ended" : "no traffic") + (r.notSent ? `, ${count(r.notSent)} not sent` : ""));
  });
  const both = traffic.path === "both";
  // After the traffic was turned off, calls of before still end while none is sent, and their
  // attempts are of before. That says nothing.
  const over = !traffic.perSecond && ![a, b].every((r) => r.sent && r.ended);
  const early = traffic.perSecond > 0 && a.ended + b.ended > 0 && counting(a, b, traffic.perSecond, traffic.seconds);
  const whole = traffic.seconds >= WHOLE;
  const says = !early ? verdict(a, b, traffic.seconds) : whole ? "Counting until enough calls have ended." : COUNTING;
  text("verdict", (both && !over && says) || (traffic.perSecond ? both ? "No call has ended yet." : "Send the traffic both ways to compare them." : "Turn the traffic on to compare both ways."));
}
