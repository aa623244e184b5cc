// The last minutes: the faults and the circuit as bands, and three charts on the same axis.

import { cause, stateWord } from "./circuit.js";
import { $, el, icon, show, svg, text } from "./dom.js";
import { changeOf } from "./endpoints.js";
import { clock, count, duration, plural, tick, tickText } from "./format.js";
import { atChosen, chosenSeries, keyOf, known, ofChosen, reals } from "./state.js";

let span = 60_000; // of the axis, in ms: the whole minutes since the start, up to what is kept
const MARGIN = { left: 46, right: 10 };
let cursor = null; // the share of the axis that the visitor points at

function chart(title, height, lines) {
  const plot = svg("svg", { class: "plot", height, role: "img", tabindex: "0" });
  const heads = lines.map((l) => {
    const value = el("span", { class: "value" }, "–");
    const sample = svg("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, svg("path", { class: `line-${l.name}`, d: "M0 4H22" }));
    l.value = value;
    return el("span", { class: "key" }, sample, l.word, value);
  });
  const head = el("div", { class: "chart-head" }, el("b", {}, title), ...heads);
  $("charts").append(el("div", { class: "chart" }, head, plot));
  const c = { title, height, lines, plot };
  plot.addEventListener("pointermove", (e) => {
    const box = plot.getBoundingClientRect();
    const share = (e.clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right);
    cursor = share >= 0 && share <= 1 ? share : null;
    drawHistory(chosenSeries(), true);
  });
  plot.addEventListener("pointerleave", () => { cursor = null; drawHistory(chosenSeries(), true); });
  plot.addEventListener("keydown", (e) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (e.key === "Escape") cursor = null;
    else if (by) cursor = Math.min(1, Math.max(0, (cursor ?? 1) + by / (span / 1000)));
    else return;
    e.preventDefault();
    drawHistory(chosenSeries(), true);
  });
  return c;
}

const refusedOf = (s) => Object.values(s.refused ?? {}).reduce((a, b) => a + b, 0);
const band = chart("Circuit", 62, []);
const charts = [
  chart("Calls per second", 112, [
    { name: "offered", word: "offered", of: (s) => s.offered ?? 0, say: count },
    { name: "attempts", word: "attempts", of: (s) => s.attempts ?? 0, say: count },
    { name: "good", word: "goodput", of: (s) => s.good ?? 0, say: count, area: true },
    { name: "refused", word: "refused", of: refusedOf, say: count },
  ]),
  chart("Latency of calls", 84, [
    { name: "p50", word: "50 %", of: (s) => (s.offered ? s.p50 ?? 0 : null), say: duration },
    { name: "p99", word: "99 %", of: (s) => (s.offered ? s.p99 ?? 0 : null), say: duration },
  ]),
  chart("Retry budget", 76, [
    { name: "tokens", word: "tokens", of: (s) => s.tokens ?? null, say: (n) => n.toFixed(1) },
  ]),
];
charts[1].unit = (v, step) => tickText(v, step);
charts[2].axis = true;

let drawnSecond = 0;

// drawHistory draws everything once each second, or at once with force.
export function drawHistory(s, force = false) {
  const seconds = s ? [...s.seconds.values()].sort((a, b) => a.at - b.at) : [];
  // The current second is incomplete, and would look like a drop.
  const newest = Math.max(seconds.length ? seconds[seconds.length - 1].at : 0, known.started + 1000 * Math.floor((known.now - known.started - 100) / 1000));
  const mark = `${known.chosen} ${newest}`;
  if (mark === drawnSecond && !force) return;
  drawnSecond = mark;
  const end = newest;
  span = 60_000 * Math.min((known.settings.seconds ?? 300) / 60, Math.max(1, Math.ceil((end - known.started) / 60_000)));
  text("history-title", span === 60_000 ? "The last minute" : `The last ${span / 60_000} minutes`);
  const start = end - span;
  // The server does not send seconds in which nothing changed.
  const complete = [];
  for (let when = Math.max(seconds[0]?.at ?? newest, newest - 1000 * Math.ceil(span / 1000)); when < newest; when += 1000) complete.push(s.seconds.get(when) ?? { at: when });
  const at = cursor === null ? null : start + cursor * span;
  const under = at === null ? complete[complete.length - 1] : complete.find((sec) => at >= sec.at && at < sec.at + 1000);
  text("cursor-time", at === null ? "now" : clock(at));

  const mine = known.transitions.filter(ofChosen);
  const spans = s?.all ? bandOfAll(start, end) : bandOf(s, mine, complete, start, end);
  const endpoints = known.endpointChanges.filter(atChosen);
  drawBand(spans, mine, endpoints, start, end, at);
  for (const c of charts) drawChart(c, complete, spans, start, end, at, under);
  drawChanges(mine, endpoints);
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

function frame(c) {
  const width = Math.max(200, c.plot.clientWidth || c.plot.parentElement.clientWidth);
  c.plot.setAttribute("viewBox", `0 0 ${width} ${c.height}`);
  const left = MARGIN.left;
  const right = width - MARGIN.right;
  return { width, left, right, x: (ms, start, end) => left + ((ms - start) / (end - start)) * (right - left) };
}

function drawBand(spans, transitions, endpoints, start, end, at) {
  const f = frame(band);
  const x = (ms) => f.x(Math.min(end, Math.max(start, ms)), start, end);
  const parts = [svg("line", { class: "grid", x1: f.left, x2: f.right, y1: 20, y2: 20 })];
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
    if (t.at < start || x(t.at) - marked < 4) continue;
    marked = x(t.at);
    parts.push(svg("line", { class: "band-tick", x1: x(t.at).toFixed(1), x2: x(t.at).toFixed(1), y1: 7, y2: 33 }, svg("title", {}, `${clock(t.at)} ${t.from} to ${t.to}: ${cause(t)}`)));
  }
  for (const c of endpoints) {
    if (c.at < start) continue;
    const { word, shape, why } = changeOf(c);
    parts.push(svg("line", { class: `endpoint-tick is-${shape}`, x1: x(c.at).toFixed(1), x2: x(c.at).toFixed(1), y1: 34, y2: 42 }, svg("title", {}, `${clock(c.at)} ${word}: ${why}`)));
  }
  for (const fault of faultSpans(start, end)) {
    const width = Math.max(1.5, x(fault.to) - x(fault.from));
    parts.push(svg("rect", { class: `fault ${fault.healthy ? "none" : ""}`, x: x(fault.from).toFixed(1), width: width.toFixed(1), y: 45, height: 16, "data-fault": fault.name }, svg("title", {}, fault.name)));
    if (width > 6.2 * fault.name.length + 8) parts.push(svg("text", { class: "fault-name", x: (x(fault.from) + 5).toFixed(1), y: 57 }, fault.name));
  }
  if (at !== null) parts.push(svg("line", { class: "cursor", x1: x(at), x2: x(at), y1: 0, y2: band.height }));
  band.plot.replaceChildren(...parts);
  const now = spans.length ? `now ${spans[spans.length - 1].state}` : "not known yet";
  band.plot.setAttribute("aria-label", `The circuit: ${now}, ${plural(transitions.length, "change")}${endpoints.length ? `, ${plural(endpoints.length, "change")} of endpoints` : ""}`);
}

// faultSpans returns when which faults were in force, as far as this page knows.
function faultSpans(start, end) {
  return known.faultMarks.map((m, i) => ({ name: m.name, healthy: m.name === "Healthy", from: Math.max(start, m.at), to: Math.min(end, known.faultMarks[i + 1]?.at ?? end) }))
    .filter((f) => f.name && f.to > f.from);
}

function drawChart(c, seconds, spans, start, end, at, under) {
  const f = frame(c);
  const bottom = c.height - (c.axis ? 20 : 6);
  const top = 8;
  const x = (ms) => f.x(ms, start, end);
  const values = c.lines.map((l) => seconds.map((sec) => [sec.at, l.of(sec)]));
  const most = Math.max(...values.flat().map(([, v]) => v ?? 0), c.unit ? 10 : 5);
  const step = tick(most, 3);
  const limit = Math.ceil(most / step) * step;
  const y = (v) => bottom - (v / limit) * (bottom - top);
  const parts = [];
  for (const span of spans) {
    if (span.state !== "closed") parts.push(svg("rect", { class: `shade-${span.state}`, x: x(span.from).toFixed(1), width: Math.max(0.5, x(span.to) - x(span.from)).toFixed(1), y: top, height: bottom - top }));
  }
  for (const m of known.faultMarks) {
    if (m.at > start && m.at < end) parts.push(svg("line", { class: "fault-line", x1: x(m.at).toFixed(1), x2: x(m.at).toFixed(1), y1: top, y2: bottom }));
  }
  for (let v = 0; v <= limit + step / 2; v += step) {
    parts.push(svg("line", { class: "grid", x1: f.left, x2: f.right, y1: y(v).toFixed(1), y2: y(v).toFixed(1) }),
      svg("text", { x: f.left - 6, y: (y(v) + 4).toFixed(1), "text-anchor": "end" }, c.unit ? (v ? c.unit(v, step) : "0") : count(v)));
  }
  c.lines.forEach((l, i) => {
    let d = "";
    let last = null;
    for (const [when, v] of values[i]) {
      if (v === null) { last = null; continue; }
      const px = x(Math.max(when, start) + 500).toFixed(1);
      const broken = last === null || when - last > 2500;
      d += `${broken ? "M" : "L"}${px} ${y(v).toFixed(1)}`;
      if (broken) d += "h0.01"; // so that a single point is visible
      last = when;
    }
    if (l.area) parts.push(svg("path", { class: "area-good", d: areaOf(values[i], x, y, bottom, start) }));
    parts.push(svg("path", { class: `line-${l.name}`, d, "stroke-linejoin": "round", "stroke-linecap": "round" }));
    const value = under ? l.of(under) : null;
    text(l.value, value === null || value === undefined ? "–" : l.say(value));
  });
  if (at !== null) parts.push(svg("line", { class: "cursor", x1: x(at).toFixed(1), x2: x(at).toFixed(1), y1: 0, y2: bottom }));
  if (c.axis) {
    const every = (span === 60_000 ? 10_000 : span <= 120_000 ? 30_000 : 60_000) * (f.width < 460 ? 2 : 1);
    for (let ago = 0; ago <= span; ago += every) {
      const word = ago === 0 ? "now" : ago % 60_000 ? `−${ago / 1000} s` : `−${ago / 60_000} min`;
      parts.push(svg("text", { x: x(end - ago).toFixed(1), y: c.height - 4, "text-anchor": ago === 0 ? "end" : ago === span ? "start" : "middle" }, word));
    }
  }
  c.plot.replaceChildren(...parts);
  c.plot.setAttribute("aria-label", `${c.title}: ${c.lines.map((l) => `${l.word} ${l.value.textContent}`).join(", ")}. Left and right move through the seconds.`);
}

function areaOf(values, x, y, bottom, start) {
  let d = "";
  let last = null;
  for (const [when, v] of values) {
    const px = x(Math.max(when, start) + 500).toFixed(1);
    if (last === null || when - last.when > 2500) {
      if (last) d += `V${bottom}Z`;
      d += `M${px} ${bottom}`;
    }
    d += `L${px} ${y(v).toFixed(1)}`;
    last = { when };
  }
  return last ? `${d}V${bottom}Z` : d;
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

new ResizeObserver(() => drawHistory(chosenSeries(), true)).observe($("charts"));
