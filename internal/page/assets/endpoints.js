// The endpoints of the chosen series' upstream.

import { $, el, icon, show, text } from "./dom.js";
import { duration, percent, plural } from "./format.js";

const states = {
  in_use: ["In use", "good"],
  ejected: ["Ejected", "bad"],
  probing: ["Probing", "late"],
  failing: ["Failing, but kept: too many fail", "bad"],
};

export function drawEndpoints(s) {
  const all = s?.endpoints ?? [];
  show("endpoints", all.length > 0);
  $("endpoint-rows").replaceChildren(...all.map((e) => {
    const [word, kind] = states[e.state] ?? [e.state, "late"];
    return el("tr", { "data-state": e.state }, el("td", {}, e.address), el("td", {}, icon(kind, `is-${kind}`), ` ${word}`),
      el("td", { class: "number" }, percent(e.share, 1)), el("td", { class: "number" }, e.latency ? duration(e.latency) : "–"));
  }));
  text("endpoints-note", s?.endpointsOmitted ? `${plural(s.endpointsOmitted, "more endpoint")}. Share: of the attempts in the last ten seconds.` : "Share: of the attempts in the last ten seconds.");
}
