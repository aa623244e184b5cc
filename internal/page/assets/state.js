// The data that the server has sent, and the server's clock. This module touches no element.

import { nameOf } from "./faults.js";

export const LISTED = 100; // calls in the table

export const known = {
  settings: { reasons: [] },
  series: new Map(), // by key: {policy, upstream, window, circuit, seconds: Map}
  chosen: null, // the key of the shown series
  picked: false, // whether the visitor chose it
  calls: [], // newest first
  older: [], // calls that the page asked for, for its filters
  total: 0,
  transitions: [],
  faults: null,
  faultsVersion: null,
  seed: null,
  traffic: null,
  faultMarks: [], // {at, name, seen}, the oldest first; seen: the server or this page saw them begin
  endpointChanges: [],
  changesMissed: 0,
  dropped: 0,
  lost: false, // whether the connection to the server is
  unanswered: false, // whether flaky-server did not answer when it was asked for its faults
  started: 0,
  now: 0,
};

export const ALL = "all"; // the key of the figures of all series together
export const keyOf = (s) => (s.all ? ALL : JSON.stringify([s.upstream ?? "", s.policy ?? ""]));
export const chosenSeries = () => known.series.get(known.chosen);

// reals returns the series of upstreams, without calls that had no route.
export const reals = () => [...known.series.values()].filter((s) => s.upstream && !s.all);

// OTHERS is the key of the series of all upstreams for which the server has no place. Their calls
// and changes keep their own names.
const OTHERS = keyOf({ upstream: "(others)", policy: "" });

// ofChosen reports whether a call, or a change of a circuit, belongs to what is shown.
export function ofChosen(x) {
  if (known.chosen === ALL || known.chosen === null) return true;
  const key = keyOf(x);
  return key === known.chosen || known.chosen === OTHERS && !known.series.has(key);
}

// atChosen reports whether a change of an endpoint belongs to what is shown. It names no policy.
export function atChosen(c) {
  const s = chosenSeries();
  if (known.chosen === OTHERS) return !reals().some((r) => r.upstream === c.upstream);
  return Boolean(s?.all) || c.upstream === s?.upstream;
}

// The page asks for the faults every three seconds, unless it is hidden. After a longer time
// without an answer it does not know when they changed.
const GAP = 6000; // ms
let heard = -Infinity; // when the faults were last known, on this browser's clock
let watched = false; // whether they were known right before, too
let asked = false; // whether there was an answer, or none, since the data was replaced

// hear takes the faults of an answer, or null if there is none. set tells that this page has just
// put them in force.
export function hear(faults, set = false) {
  asked = true;
  known.faults = faults;
  watched = Boolean(faults) && (set || performance.now() - heard < GAP);
  heard = faults ? performance.now() : -Infinity;
}

// noteFaults remembers when which faults were in force, for the time axis.
export function noteFaults(name) {
  const last = known.faultMarks.at(-1);
  if (!asked || last?.name === name || !name && !last) return;
  known.faultMarks.push({ at: serverNow(), name, seen: watched });
  known.faultMarks.splice(0, known.faultMarks.length - 64);
}

const AT_ONCE = 500; // ms; a button sets the sick endpoints and the other faults one after the other

// marksOf returns the marks that the server has of the time before this page was opened.
function marksOf(sent) {
  const marks = [];
  sent.forEach((m, i) => {
    if (i > 0 && m.sick !== sent[i - 1].sick && sent[i + 1]?.at - m.at < AT_ONCE) return;
    const name = nameOf(m.faults, m.sick);
    if (name !== (marks.at(-1)?.name ?? "")) marks.push({ at: m.at, name, seen: Boolean(m.seen) });
  });
  return marks;
}

// faultsAge returns for how many ms the faults have been in force. It is Infinity if nobody has
// seen them begin.
export function faultsAge() {
  const last = known.faultMarks.at(-1);
  return last?.seen ? serverNow() - last.at : Infinity;
}

// draw redraws the whole page. It is set once, by live.js, so that modules can redraw it
// without importing it.
let drawAll = () => {};
export function onDraw(f) { drawAll = f; }
export function draw() { drawAll(); }

// All shown times are the server's. This browser's clock only measures intervals. The offset
// between both is the largest one seen: it belongs to the event with the shortest transfer.
let offset = null;
export const serverNow = () => (offset === null ? Date.now() : performance.now() + offset);

// merge adds an update to the known data. An update with reset replaces the data.
export function merge(update) {
  const now = update.now - performance.now();
  if (update.reset) {
    // The faults are asked for again: they may be those of another process.
    Object.assign(known, { series: new Map(), calls: [], transitions: [], endpointChanges: [], changesMissed: 0, total: 0, faultsVersion: null, faultMarks: marksOf(update.faultMarks ?? []) });
    hear(null);
    asked = false;
    known.settings = update.settings;
    offset = now;
  }
  offset = Math.max(offset ?? now, now);
  known.total = update.total;
  known.dropped = update.pages.dropped;
  known.started = update.started;
  known.now = update.now;

  const present = new Set();
  const only = known.series.size === 1 ? [...known.series.values()][0] : null;
  for (const s of [...update.series, ...(update.all ? [{ ...update.all, all: true }] : [])]) {
    const key = keyOf(s);
    present.add(key);
    const old = known.series.get(key);
    // The figures of all begin when there is a second series. Before, they were those of the only
    // one.
    const seconds = old ? old.seconds : new Map(s.all && only ? [...only.seconds].map(([at, { state, tokens, ...rest }]) => [at, rest]) : []);
    for (const second of s.seconds ?? []) seconds.set(second.at, second);
    const oldest = update.now - (known.settings.seconds ?? 300) * 1000 - 2000;
    for (const at of seconds.keys()) if (at < oldest) seconds.delete(at);
    known.series.set(key, { ...s, seconds });
  }
  for (const key of known.series.keys()) if (!present.has(key)) known.series.delete(key);

  known.transitions.push(...(update.transitions ?? []));
  known.transitions.splice(0, known.transitions.length - 256);
  known.endpointChanges.push(...(update.endpointChanges ?? []));
  known.endpointChanges.splice(0, known.endpointChanges.length - 256);
  known.changesMissed += (update.transitionsMissed ?? 0) + (update.endpointChangesMissed ?? 0);

  for (const call of update.calls ?? []) known.calls.unshift(call);
  known.calls.splice(4 * LISTED);
  if (update.traffic) known.traffic = update.traffic;
}
