// The endpoints of the chosen series' upstream.

import { $, el, icon, show, text } from "./dom.js";
import { duration, percent, plural } from "./format.js";

const states = {
  in_use: ["In use", "good"],
  ejected: ["Ejected", "bad"],
  probing: ["Probing", "late"],
  failing: ["Failing, but kept", "bad"],
};

const changes = {
  added: ["Endpoint added", "good"],
  removed: ["Endpoint removed", "none"],
  ejected: ["Endpoint ejected", "bad"],
  returned: ["Endpoint returned", "good"],
  panic: ["Too many endpoints fail", "bad"],
  calm: ["Few endpoints fail again", "good"],
  lookup_failed: ["Lookup failed", "late"],
};

// changeOf returns the change of an endpoint in words, its shape, and the details.
export function changeOf(c) {
  const [word, shape] = changes[c.change] ?? [c.change, "late"];
  const why = {
    ejected: c.ejectFor ? `${c.endpoint}, for ${duration(c.ejectFor)}` : c.endpoint, // otherwise its probe is due
    panic: "more than may be ejected, so none is",
    calm: "so the failing ones may be ejected",
    lookup_failed: `the addresses before stay in use: ${c.error}`,
  }[c.change] ?? c.endpoint ?? "";
  return { word, shape, why };
}

// sayChanges returns the changes to announce in one sentence. It leaves out those that say nothing
// about the endpoints' health.
export function sayChanges(all) {
  const told = all.filter((c) => ["ejected", "returned", "panic", "calm"].includes(c.change));
  if (told.length === 1) {
    const { word, why } = changeOf(told[0]);
    return `${word}: ${why}`;
  }
  const parts = [];
  for (const change of ["ejected", "returned"]) {
    const n = told.filter((c) => c.change === change).length;
    if (n) parts.push(`${plural(n, "endpoint")} ${change}`);
  }
  const share = told.findLast((c) => c.change === "panic" || c.change === "calm");
  if (share) parts.push(changeOf(share).word);
  const sentence = parts.join(", ").toLowerCase();
  return sentence && sentence[0].toUpperCase() + sentence.slice(1);
}

const order = ["failing", "ejected", "probing", "in_use"];

const rowOf = new Map(); // by address, so that a selected text stays

export function drawEndpoints(s) {
  const all = [...(s?.endpoints ?? [])].sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state));
  show("endpoints", all.length > 0);
  const present = new Set(all.map((e) => e.address));
  for (const [address, row] of rowOf) if (!present.has(address)) { row.remove(); rowOf.delete(address); }
  const changed = new Set(); // rows of another state: only they move, so that a text selected in another one stays
  const rows = all.map((e) => {
    let row = rowOf.get(e.address);
    if (!row) {
      row = el("tr", {}, el("td", {}, e.address), el("td"), el("td", { class: "number" }), el("td", { class: "number" }));
      rowOf.set(e.address, row);
    }
    const [, state, share, latency] = row.cells;
    if (row.dataset.state !== e.state) {
      const [word, kind] = states[e.state] ?? [e.state, "late"];
      row.dataset.state = e.state;
      changed.add(row);
      state.replaceChildren(icon(kind, `is-${kind}`), ` ${word}`);
    }
    text(share, percent(e.share, 1));
    text(latency, e.latency ? duration(e.latency) : "–");
    return row;
  });
  let next = $("endpoint-rows").firstElementChild; // before it, the rows are in order
  for (const row of rows) {
    while (next !== row && changed.has(next)) next = next.nextElementSibling;
    if (next === row) next = row.nextElementSibling;
    else $("endpoint-rows").insertBefore(row, next);
  }
  text("endpoints-note", s?.endpointsOmitted ? `${plural(s.endpointsOmitted, "more endpoint")}. Share: of the attempts in the last ten seconds.` : "Share: of the attempts in the last ten seconds.");
}
