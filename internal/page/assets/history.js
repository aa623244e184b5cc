// The last minutes: the faults and the circuit as bands, and three charts on the same axis.

import { chart, group, units } from "./chart.js";
import { cause, stateWord } from "./circuit.js";
import { $, el, icon, show, svg, text } from "./dom.js";
import { changeOf } from "./endpoints.js";
import { clock, plural } from "./format.js";
import { atChosen, chosenSeries, keyOf, known, ofChosen, reals } from "./state.js";

let view = null; // what is drawn
const axis = group(tellTime, (at) => (at === null ? "now" : clock(at)));
const refusedOf = (s) => Object.values(s.refused ?? {}).reduce((a, b) => a + b, 0);

const charts = [
  { title: "Circuit", height: 62, paint: paintBand, lines: [
    { word: "", read: (at) => stateAt(at) },
    { word: "faults", read: (at, near) => faultsAt(at, near) },
    { word: "change", read: (at, near) => changesAt(near) },
  ] },
  { title: "Calls per second", height: 112, lines: [
    { name: "offered", word: "offered", of: (s) => s.offered ?? 0 },
    { name: "attempts", word: "attempts", of: (s) => s.attempts ?? 0 },
    { name: "good", word: "goodput", of: (s) => s.good ?? 0, area: true },
    { name: "refused", word: "refused", of: refusedOf },
  ].map((l) => ({ ...l, unit: units.count, top: 5 })) },
  { title: "Latency of calls", height: 84, lines: [
    { name: "p50", word: "50 %", of: (s) => (s.offered ? s.p50 ?? 0 : null) },
    { name: "p99", word: "99 %", of: (s) => (s.offered ? s.p99 ?? 0 : null) },
  ].map((l) => ({ ...l, unit: units.time, top: 10 })) },
  { title: "Retry budget", height: 76, lines: [{ name: "tokens", word: "tokens", of: (s) => s.tokens ?? null, unit: units.level, top: 5 }],
    origin: (v) => v.to, moment: (ms, v) => ago(v.to - ms) },
].map((c) => chart($("charts"), c, axis));

const ago = (ms) => (ms === 0 ? "now" : ms % 60_000 ? `−${ms / 1000} s` : `−${ms / 60_000} min`);

function tellTime() {
  const at = axis.at(view);
  text("cursor-time", at === null ? "now" : clock(at));
}

let drawnMark = ""; // what was drawn of which second

// drawHistory draws everything once each second, or at once with force.
export function drawHistory(s, force = false) {
  const seconds = s ? [...s.seconds.values()].sort((a, b) => a.at - b.at) : [];
  // The current second is incomplete, and would look like a drop.
  const to = Math.max(seconds.length ? seconds[seconds.length - 1].at : 0, known.started + 1000 * Math.floor((known.now - known.started - 100) / 1000));
  const mark = `${known.chosen} ${to}`;
  if (mark === drawnMark && !force) return;
  drawnMark = mark;
  // The axis has the whole minutes since the start, up to what is kept.
  const minutes = Math.min((known.settings.seconds ?? 300) / 60, Math.max(1, Math.ceil((to - known.started) / 60_000)));
  text("history-title", minutes === 1 ? "The last minute" : `The last ${minutes} minutes`);
  const from = to - 60_000 * minutes;
  // The server does not send seconds in which nothing changed.
  const points = [];
  for (let at = Math.max(seconds[0]?.at ?? to, from); at < to; at += 1000) points.push(s.seconds.get(at) ?? { at });

  const transitions = known.transitions.filter(ofChosen);
  const spans = s?.all ? bandOfAll(from, to) : bandOf(s, transitions, points, from, to);
  const endpoints = known.endpointChanges.filter(atChosen);
  view = {
    from, to, step: 1000, points, rest: points.at(-1) ?? null,
    shades: spans.filter((x) => x.state !== "closed").map((x) => ({ kind: x.state, from: x.from, to: x.to })),
    marks: known.faultMarks.map((m) => m.at),
    spans, transitions, endpoints, faults: faultSpans(from, to),
  };
  for (const draw of charts) draw(view);
  tellTime();
  drawChanges(transitions, endpoints);
}

// bandOfAll returns when which circuits were not closed, one over the other.
function bandOfAll(start, end) {
  const spans = reals().flatMap((s) => bandOf(s, known.transitions.filter((t) => keyOf(t) === keyOf(s)), [...s.seconds.values()].sort((a, b) => a.at - b.at), start, end));
  const bad = spans.filter((x) => x.state !== "closed");
  const closed = spans.filter((x) => x.state === "closed");
  return closed.length ? [{ state: "closed", from: Math.min(...closed.map((x) => x.from)), to: end }, ...bad] : bad;
}

// bandOf returns the circuit's states as spans. It uses the seconds' states where there is no
// transition.
function bandOf(s, transitions, seconds, start, end) {
  const spans = [];
  const first = seconds.find((sec) => sec.state);
  if (!s?.circuit) return spans;
  let state = transitions.length ? transitions[0].from : s.circuit.state;
  let from = Math.max(start, Math.min(first?.at ?? end, transitions[0]?.at ?? end));
  for (const t of transitions) {
    if (t.at > from) spans.push({ state, from, to: Math.min(t.at, end) });
    state = t.to;
    from = Math.max(from, Math.min(t.at, end));
  }
  // A changed configuration resets a circuit without a transition.
  const changes = seconds.filter((sec) => sec.state && sec.at > (transitions.at(-1)?.at ?? 0)).map((sec) => [sec.at, sec.state]);
  for (const [when, now] of [...changes, [s.circuit.since, s.circuit.state]]) {
    if (now === state) continue;
    const to = Math.min(end, Math.max(from, when));
    spans.push({ state, from, to });
    [state, from] = [now, to];
  }
  spans.push({ state, from, to: end });
  return spans.filter((x) => x.to > x.from);
}

function paintBand({ from, to, spans, transitions, endpoints, faults }, { x, left, right }) {
  const parts = [svg("line", { class: "grid", x1: left, x2: right, y1: 20, y2: 20 })];
  let labelled = "";
  for (const span of spans) {
    const closed = span.state === "closed";
    const width = Math.max(1.5, x(span.to) - x(span.from));
    parts.push(svg("rect", { class: `band-${span.state}`, x: x(span.from).toFixed(1), width: width.toFixed(1), y: closed ? 17 : 9, height: closed ? 6 : 22, "data-state": span.state }));
    if (width > 62 && span.state !== labelled) {
      labelled = span.state;
      parts.push(svg("text", { x: (x(span.from) + 4).toFixed(1), y: closed ? 12 : 6.5 }, span.state));
    }
  }
  let marked = -Infinity; // probes in an outage are many
  for (const t of transitions) {
    if (t.at < from || x(t.at) - marked < 4) continue;
    marked = x(t.at);
    parts.push(svg("line", { class: "band-tick", x1: x(t.at).toFixed(1), x2: x(t.at).toFixed(1), y1: 7, y2: 33 }));
  }
  for (const c of endpoints) {
    if (c.at < from) continue;
    parts.push(svg("line", { class: `endpoint-tick is-${changeOf(c).shape}`, x1: x(c.at).toFixed(1), x2: x(c.at).toFixed(1), y1: 34, y2: 42 }));
  }
  for (const fault of faults) {
    const width = Math.max(1.5, x(fault.to) - x(fault.from));
    parts.push(svg("rect", { class: `fault ${fault.healthy ? "none" : ""}`, x: x(fault.from).toFixed(1), width: width.toFixed(1), y: 45, height: 16, "data-fault": fault.name }));
    if (width > 6.2 * fault.name.length + 8) parts.push(svg("text", { class: "fault-name", x: (x(fault.from) + 5).toFixed(1), y: 57 }, fault.name));
  }
  return parts;
}

// stateAt returns the circuit's state at a time, or now.
function stateAt(at) {
  return view.spans.findLast((x) => at === null || x.from <= at && at < x.to)?.state ?? "not known";
}

// faultsAt names the faults at a time, or now: also those that were in force too short to be seen.
function faultsAt(at, near) {
  if (!view.faults.length) return null;
  const under = view.faults.filter((f) => (at === null ? f.to === view.to : f.from <= at && at < f.to || near(f.from) && near(f.to)));
  return under.map((f) => f.name).join(", ") || "not known";
}

// changesAt names the changes close to the pointer. The list beside has their causes.
function changesAt(near) {
  const words = [
    ...view.transitions.filter((t) => near(t.at)).map((t) => `${t.from} to ${t.to}`),
    ...view.endpoints.filter((c) => near(c.at)).map((c) => changeOf(c).word.toLowerCase()),
  ];
  return words.length ? [...new Set(words)].join(", ") : null;
}

// faultSpans returns when which faults were in force, as far as this page knows.
function faultSpans(start, end) {
  return known.faultMarks.map((m, i) => ({ name: m.name, healthy: m.name === "Healthy", from: Math.max(start, m.at), to: Math.min(end, known.faultMarks[i + 1]?.at ?? end) }))
    .filter((f) => f.name && f.to > f.from);
}

// whose names the upstream of a change while all are shown.
const whose = (c) => (chosenSeries()?.all ? `${c.upstream}: ` : "");

let drawnChanges = "";
function drawChanges(transitions, endpoints) {
  const all = [
    ...transitions.map((t) => ({ at: t.at, shape: t.to, kind: t.to === "closed" ? "good" : t.to === "open" ? "bad" : "warn", word: `${stateWord[t.from]} → ${stateWord[t.to].toLowerCase()}`, why: whose(t) + cause(t) })),
    ...endpoints.map((c) => ({ at: c.at, ...changeOf(c) })).map((c, i) => ({ ...c, why: whose(endpoints[i]) + c.why })),
  ];
  const newest = all.sort((a, b) => a.at - b.at).slice(-20).reverse();
  const mark = `${known.chosen} ${known.changesMissed} ${newest.map((c) => `${c.at} ${c.word} ${c.why}`).join(" ")}`;
  if (mark === drawnChanges) return;
  drawnChanges = mark;
  show("transitions-empty", newest.length === 0);
  show("transitions-missed", known.changesMissed > 0);
  text("transitions-missed", `${plural(known.changesMissed, "change")} came too fast to list.`);
  $("transitions").replaceChildren(...newest.map((c) => el("li", {},
    el("time", { datetime: new Date(c.at).toISOString() }, clock(c.at)),
    el("span", { class: "to" }, icon(c.shape, `is-${c.kind ?? c.shape}`), c.word),
    el("span", { class: "why" }, c.why))));
}
