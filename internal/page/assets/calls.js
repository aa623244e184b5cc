// The list of recent calls.

import { ask } from "./api.js";
import { drawCall, follow, onDrawn, resultOf, shown } from "./call.js";
import { $, el, icon, show, text } from "./dom.js";
import { clock, count, duration, plural, statusOf, words } from "./format.js";
import { oneStop } from "./onestop.js";
import { known, LISTED, ofChosen } from "./state.js";

const KEPT = 1024; // calls that the server keeps

let paused = null; // the list when it was paused
let filtered = null; // the server's calls with the chosen reason, of the chosen series
let filteredFor = null; // the key of that series
let filterError = "";
let asked = 0; // requests for calls so far: only the last one's answer counts
let drawnCalls = [];
const rowOf = new Map(); // by call id

$("pause").addEventListener("click", () => {
  paused = paused ? null : listed();
  $("pause").setAttribute("aria-pressed", String(Boolean(paused)));
  text("pause", paused ? "Resume" : "Pause");
  drawRows();
});
$("reason").addEventListener("change", askFiltered);

// setReasons fills the filter with the reasons of the settings.
export function setReasons() {
  const select = $("reason");
  const chosen = select.value;
  select.replaceChildren(el("option", { value: "" }, "all"));
  for (const r of known.settings.reasons) select.append(el("option", { value: r }, words(r)));
  offer(chosen);
  select.value = chosen;
}

// restartList forgets the calls of an earlier process.
export function restartList() {
  filtered = held = null;
  known.older = [];
  if ($("reason").value || known.picked) askFiltered();
}

// askFiltered loads the server's calls with the chosen reason or of the picked series, of which
// this page may have fewer.
async function askFiltered() {
  filtered = held = null;
  known.older = [];
  filterError = "";
  const reason = $("reason").value;
  const chosen = filteredFor = known.chosen;
  const { upstream, policy } = known.picked && known.series.get(chosen) || {};
  const mine = ++asked;
  const stillWanted = () => asked === mine && $("reason").value === reason && known.chosen === chosen;
  if (reason || known.picked) {
    // The server takes no upstream for any, so those of calls without one are looked for here.
    const query = new URLSearchParams({ limit: known.picked && !upstream ? KEPT : LISTED });
    for (const [name, value] of Object.entries({ reason, upstream, policy })) if (value) query.set(name, value);
    try {
      const answer = await ask(`api/calls?${query}`);
      if (stillWanted()) filtered = known.older = answer.calls;
    } catch (err) {
      if (stillWanted()) filterError = `Older calls could not be loaded: ${err.message}. `;
    }
  }
  if (paused) paused = listed();
  drawRows();
}

function hasReason(call, reason) { return call.reason === reason || call.attempts.some((a) => a.reason === reason); }

function listed() {
  const reason = $("reason").value;
  const all = new Map([...(filtered ?? []), ...known.calls.filter((c) => !reason || hasReason(c, reason))].filter(ofChosen).map((c) => [c.id, c]));
  return [...all.values()].sort((a, b) => b.id - a.id).slice(0, LISTED);
}

// The list does not move while the visitor points at it or has the focus in it.
const region = document.querySelector(".calls .scroll");
const stops = oneStop(region, "button");
let pointed = false;
let held = null; // the list at that moment
region.addEventListener("pointerenter", (e) => { pointed = e.pointerType !== "touch"; });
region.addEventListener("pointerleave", () => { pointed = false; drawRows(); });
region.addEventListener("focusout", () => setTimeout(drawRows));

export function drawRows() {
  if (filteredFor !== known.chosen) {
    if (known.picked || $("reason").value || filtered) askFiltered();
    else filteredFor = known.chosen;
  }
  if (!pointed && !region.contains(document.activeElement)) held = null;
  else if (!paused && drawnCalls.length) held ??= drawnCalls;
  const calls = paused ?? held ?? listed();
  drawnCalls = calls;
  const body = $("rows");
  const wanted = new Set(calls.map((c) => c.id));
  for (const [id, r] of rowOf) {
    if (!wanted.has(id)) { r.remove(); rowOf.delete(id); }
  }
  let before = body.firstElementChild;
  for (const call of calls) {
    let r = rowOf.get(call.id);
    if (r && r.call !== call && r.call.start !== call.start) { r.remove(); r = undefined; } // of an earlier process
    if (!r) {
      r = rowFor(call);
      rowOf.set(call.id, r);
      body.insertBefore(r, before);
    } else if (r === before) {
      before = before.nextElementSibling;
    } else {
      body.insertBefore(r, before);
    }
  }
  stops.update();
  show("rows-empty", calls.length === 0);
  text("rows-empty", $("reason").value ? "No kept call has this reason." : "No calls to list.");
  let note = "";
  if (calls.length) {
    const span = calls[0].id - calls[calls.length - 1].id + 1;
    if (paused) note = known.total < calls[0].id ? "Paused; the server has restarted since." : `Paused; ${plural(known.total - calls[0].id, "newer call")}.`;
    else if (held && known.total > calls[0].id) note = `Held while you point at it or have the focus in it; ${plural(known.total - calls[0].id, "newer call")}.`;
    else if ($("reason").value) note = `${calls.length < LISTED ? "" : "The newest "}${plural(calls.length, "call")} with this reason, or with an attempt that has it.`;
    else if (known.picked) note = `${calls.length < LISTED ? "" : "The newest "}${plural(calls.length, "call")} ${known.series.get(known.chosen)?.upstream ? "of the picked upstream" : "without a route"}.`;
    else if (span > calls.length) note = `${count(calls.length)} of the last ${count(span)} calls; ${count(span - calls.length)} came too fast to list.`;
    else if (calls.length < LISTED && calls.length < known.total) note = `${count(calls.length)} of ${count(known.total)} calls; ${count(known.total - calls.length)} came too fast to list.`;
    else note = `The last ${plural(calls.length, "call")} of ${count(known.total)}.`;
  }
  text("rows-note", filterError + note);
  markRow();
}

function rowFor(call) {
  const { shape, kind } = resultOf(call);
  const result = call.good && call.reason === "ok" ? statusOf(call) : `${statusOf(call) || "–"} ${words(call.reason)}`;
  const button = el("button", { type: "button", "aria-label": `Show call ${call.id} of ${clock(call.start)}` }, clock(call.start));
  const attempts = call.attempts.length + (call.attemptsOmitted ?? 0);
  const r = el("tr", {},
    el("td", {}, button),
    el("td", { class: "what", title: call.url }, `${call.method} ${pathOf(call.url)}`),
    el("td", { class: "result", title: result }, icon(shape, `is-${kind}`), result),
    el("td", { class: "number" }, count(attempts)),
    el("td", { class: "number" }, duration(call.duration)));
  r.call = call;
  r.addEventListener("click", () => { if (!known.lost) { follow(false); drawCall(call); } });
  return r;
}

function pathOf(url) {
  const slash = url.indexOf("/", url.indexOf("://") + 3);
  return slash < 0 ? url : url.slice(slash);
}

// markRow marks the row of the call that is drawn.
function markRow() {
  for (const r of rowOf.values()) {
    if (shown && r.call === shown.call || shown && !shown.before && r.call.id === shown.call.id) r.setAttribute("aria-current", "true");
    else r.removeAttribute("aria-current");
  }
}

// offer adds a reason to the filter. Reasons of statuses are unknown until one is seen.
export function offer(reason) {
  const select = $("reason");
  if ([...select.options].every((o) => o.value !== reason)) select.append(el("option", { value: reason }, words(reason)));
}

onDrawn(markRow);
