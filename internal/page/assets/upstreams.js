// The table of the upstreams, the worst first, and the choice of what everything else shows.

import { stateWord } from "./circuit.js";
import { $, el, icon, show, text } from "./dom.js";
import { count, percent, plural, rate } from "./format.js";
import { oneStop } from "./onestop.js";
import { ALL, draw, keyOf, known, reals } from "./state.js";

// choose shows all upstreams together, or the only one, until the visitor picks one.
export function choose() {
  const all = [...known.series.entries()].filter(([key]) => key !== ALL);
  const several = reals().length > 1;
  if (known.picked && !known.series.has(known.chosen)) known.picked = false;
  if (!known.picked) {
    const weight = ([, s]) => s.window.offered * 2 + (s.circuit ? 1 : 0);
    const best = all.reduce((a, b) => (a && weight(a) >= weight(b) ? a : b), null);
    const current = all.find(([key]) => key === known.chosen);
    if (several) known.chosen = ALL;
    else if (best && (!current || current[1].window.offered === 0 && best[1].window.offered > 0)) known.chosen = best[0];
    else if (!current) known.chosen = null;
  }
  const select = $("series");
  show("series-label", all.length > 1);
  show("series-name", all.length === 1);
  if (all.length === 1) text("series-name", nameOf(all[0][1]));
  const options = [...(several ? [[ALL, "all upstreams"]] : []), ...all.map(([key, s]) => [key, nameOf(s)])];
  const keys = options.map(([key]) => key).join("\n");
  if (select.dataset.keys !== keys) {
    select.dataset.keys = keys;
    select.replaceChildren(...options.map(([value, name]) => el("option", { value }, name)));
  }
  if (known.chosen && select.value !== known.chosen) select.value = known.chosen;
}
$("series").addEventListener("change", (e) => pick(e.target.value));
$("upstreams-all").addEventListener("click", () => pick(ALL));

function pick(key) {
  if (known.lost) return;
  known.chosen = key;
  known.picked = key !== ALL;
  draw();
}

function nameOf(s) {
  if (!s.upstream) return "no route";
  if (!s.policy) return s.upstream;
  return `${s.upstream}, policy ${s.policy}`;
}

const rank = { open: 0, "half-open": 1 };
const success = (s) => (s.window.offered ? s.window.good / s.window.offered : 2);
// unwell returns the endpoints that are ejected, and those that fail but are kept.
const unwell = (s) => (s.endpoints ?? []).filter((e) => e.state !== "in_use");

// worse orders series for the table.
function worse(a, b) {
  return (rank[a.circuit?.state] ?? 2) - (rank[b.circuit?.state] ?? 2) || success(a) - success(b) || unwell(b).length - unwell(a).length ||
    b.window.offered - a.window.offered || nameOf(a).localeCompare(nameOf(b));
}

const region = $("upstream-region");
const stops = oneStop(region, "button");
let pointed = false;
region.addEventListener("pointerenter", (e) => { pointed = e.pointerType !== "touch"; });
region.addEventListener("pointerleave", () => { pointed = false; });
const rowOf = new Map(); // by key

export function drawUpstreams() {
  const all = reals();
  show("upstreams", all.length > 1);
  if (all.length < 2) return;
  show("upstreams-all", known.chosen !== ALL);
  const order = [...all].sort(worse);
  const present = new Set(order.map(keyOf));
  for (const [key, row] of rowOf) if (!present.has(key)) { row.remove(); rowOf.delete(key); }
  const body = $("upstream-rows");
  // Rows stay in their place while the visitor points at them or has the focus among them.
  const held = pointed || region.contains(document.activeElement);
  order.forEach((s, i) => {
    const key = keyOf(s);
    let row = rowOf.get(key);
    if (!row) {
      row = el("tr", {}, ...["", "", "number", "number", "number", ""].map((c) => el("td", { class: c })));
      row.cells[0].append(el("button", { type: "button" }, nameOf(s)));
      row.addEventListener("click", () => pick(known.chosen === key ? ALL : key));
      rowOf.set(key, row);
      body.append(row);
    }
    fill(row, s, key);
    if (!held && body.children[i] !== row) body.insertBefore(row, body.children[i] ?? null);
  });
  stops.update();
  const bad = order.filter((s) => rank[s.circuit?.state] !== undefined || success(s) < 0.98).length;
  text("upstreams-note", bad ? `${count(bad)} of ${plural(all.length, "upstream")} ${bad === 1 ? "does" : "do"} not do well. A row shows that upstream alone.` : `${plural(all.length, "upstream")}, all well. A row shows that upstream alone.`);
}

// about says how many of n endpoints there are, which are out, and how many fail but are kept.
function about(n, some) {
  const kept = some.filter((e) => e.state === "failing");
  const out = some.filter((e) => e.state !== "failing").map((e) => e.address);
  const parts = [];
  if (out.length) parts.push(`out: ${out.slice(0, 2).join(", ")}${out.length > 2 ? ` and ${out.length - 2} more` : ""}`);
  if (kept.length) parts.push(`${count(kept.length)} ${kept.length === 1 ? "fails but is" : "fail but are"} kept`);
  return [count(n), parts.join("; ")].filter(Boolean).join(", ");
}

function fill(row, s, key) {
  const state = s.circuit?.state;
  const [, health, good, amount, calls, endpoints] = row.cells;
  const kind = state === "open" ? "bad" : state === "half-open" ? "warn" : s.window.offered && success(s) < 0.98 ? "bad" : s.window.offered ? "good" : "quiet";
  const word = state && state !== "closed" ? stateWord[state] : !s.window.offered ? "No calls" : success(s) < 0.98 ? "Fails calls" : "Well";
  const shape = state === "open" || state === "half-open" ? state : kind === "bad" ? "bad" : kind === "good" ? "good" : "none";
  const mark = `${shape} ${word}`;
  if (health.dataset.mark !== mark) {
    health.dataset.mark = mark;
    health.replaceChildren(icon(shape, `is-${kind}`), ` ${word}`);
  }
  const w = s.window;
  text(good, percent(w.good, w.offered));
  text(amount, w.offered ? (w.attempts / w.offered).toFixed(2) : "–");
  text(calls, w.offered ? rate(w.offered / Math.max(1, w.seconds)) : "–");
  const n = (s.endpoints ?? []).length + (s.endpointsOmitted ?? 0);
  text(endpoints, n ? about(n, unwell(s)) : "not known");
  row.dataset.state = kind;
  row.cells[0].firstChild.setAttribute("aria-pressed", String(known.chosen === key));
  if (known.chosen === key) row.setAttribute("aria-current", "true");
  else row.removeAttribute("aria-current");
}
