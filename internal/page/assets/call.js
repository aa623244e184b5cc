// One call as a waterfall of attempts and waits.

import { $, el, icon, show, svg, text } from "./dom.js";
import { clipped, clock, duration, plural, statusOf, tick, tickText, whole, words } from "./format.js";
import { known, ofChosen } from "./state.js";

const sources = { jitter: "jitter", retry_after: "Retry-After", next_endpoint: "next endpoint" };
const HOLD = 1000; // ms until a newer call replaces the shown one

// The drawn call: {call, before}. before marks a call of an earlier server process. Its ID must
// not be compared with newer ones.
export let shown = null;
let drawn = () => {};

// onDrawn sets a function that is called after a call is drawn.
export function onDrawn(f) { drawn = f; }

// disown marks the drawn call as one of an earlier process.
export function disown() { if (shown) shown.before = true; }

let shownSince = 0;
let following = true;

// follow turns following the newest call on or off.
export function follow(on) {
  following = on;
  $("follow").setAttribute("aria-pressed", String(on));
}
$("follow").addEventListener("click", () => { follow(!following); followNewest(true); });

// followNewest draws a newer call. It prefers calls that failed or had several attempts.
export function followNewest(atOnce = false) {
  if (!following) return;
  const now = performance.now();
  if (shown && !ofChosen(shown.call)) atOnce = true;
  if (shown && !atOnce && now - shownSince < HOLD) return;
  if (shown && !atOnce && busy($("call-body"))) return;
  const fresh = [...known.calls, ...known.older].filter((c) => ofChosen(c) && (!shown || shown.before || !ofChosen(shown.call) || c.id > shown.call.id));
  if (!fresh.length) return;
  drawCall(fresh.find((c) => c.attempts.length > 1 || !c.good) ?? fresh[0]);
  shownSince = now;
}

// busy reports whether a redraw of e would take away the visitor's focus or selection.
function busy(e) {
  const selection = getSelection();
  return e.contains(document.activeElement) || !selection.isCollapsed && e.contains(selection.anchorNode);
}

function kindOf(attempt) {
  if (attempt.good) return "good";
  return ["attempt_timeout", "deadline_exceeded"].includes(attempt.reason) ? "late" : "bad";
}

function verdictOf(a, last) {
  if (a.verdict === "retry") return last ? "retry, which did not happen" : "retry";
  return { return: "returned", give_up: "given up" }[a.verdict] ?? a.verdict;
}

// reasonOf returns why a call ended. Not every name says it.
function reasonOf(call) {
  const meaning = { concurrency_limit: "too many attempts are in flight", rate_limited: "too many calls have begun" }[call.reason];
  return words(call.reason) + (meaning ? ` (${meaning})` : "");
}

// late reports whether a refused call has waited in the queue of the concurrency limit. Other
// refusals take no time.
function late(call) { return call.reason === "concurrency_limit" && call.duration >= 5; }

export function drawCall(call, before = false) {
  shown = { call, before };
  show("call-empty", false);
  show("call-body", true);
  const waits = call.attempts.filter((a) => a.wait && a.wait.actual > 0);
  const waited = waits.reduce((sum, a) => sum + a.wait.actual, 0);
  const sentence = $("call-sentence");
  const outcome = call.good ? "Answered" : call.attempts.length ? "Failed with" : "Refused with";
  sentence.replaceChildren(
    icon(resultOf(call).shape, `is-${resultOf(call).kind}`), " ", el("b", {}, `${outcome} ${statusOf(call) || "nothing"}`),
    call.attempts.length
      ? ` after ${plural(call.attempts.length + (call.attemptsOmitted ?? 0), "attempt")} in ${duration(call.duration)}`
      : ` ${late(call) ? `after ${duration(call.duration)}` : "at once"}: ${reasonOf(call)}, the upstream was not asked`,
    waits.length && !call.attemptsOmitted ? `, of which ${plural(waits.length, "wait")} took ${duration(waited)}` : "",
    call.attempts.length && !call.good ? `. It ended because of: ${reasonOf(call)}.` : ".",
  );

  // The deadline is on the scale unless that leaves too little room for the rest.
  const end = Math.max(call.duration, ...call.attempts.map((a) => a.start + a.duration + (a.wait?.actual ?? 0)), 0.1);
  const near = call.deadline && call.deadline <= end * 3;
  const scale = near ? Math.max(call.deadline * 1.04, end * 1.02) : end * 1.04;
  const at = (ms) => `${((100 * ms) / scale).toFixed(3)}%`;

  const rows = [];
  const step = tick(scale, 6);
  const axis = svg("svg", { class: "wf-track", "aria-hidden": "true" });
  for (let ms = 0; ms <= scale * 0.97; ms += step) {
    axis.append(svg("text", { x: at(ms), y: 14, "text-anchor": ms === 0 ? "start" : "middle" }, ms === 0 ? "0" : tickText(ms, step)));
  }
  const deadline = call.deadline ? `deadline ${whole(call.deadline)}` : "";
  if (near) axis.append(svg("text", { class: "deadline-text", x: at(call.deadline), y: 14, "text-anchor": "end" }, deadline));
  rows.push(row("axis", "", axis, el("span", { class: "wf-detail deadline-text" }, near || !deadline ? "" : `${deadline} →`)));

  const track = (...bars) => {
    const t = svg("svg", { class: "wf-track", "aria-hidden": "true" });
    for (let ms = 0; ms <= scale; ms += step) t.append(svg("line", { class: "grid", x1: at(ms), x2: at(ms), y1: 0, y2: "100%" }));
    t.append(...bars);
    if (near) t.append(svg("line", { class: "deadline", x1: at(call.deadline), x2: at(call.deadline), y1: 0, y2: "100%" }));
    return t;
  };
  // queued draws the time in the queue of the concurrency limit, which is no attempt and no wait.
  const queued = (from, to) => {
    if (to - from < Math.max(1, scale / 100)) return;
    const bar = svg("rect", { class: "bar-queue", x: at(from), width: at(to - from), y: "30%", height: "40%", "data-bar": "queue" });
    rows.push(row("wait", el("span", { class: "wf-name is-wait" }, icon("wait", "is-wait"), "Queue"), track(bar),
      el("span", { class: "wf-detail" }, el("b", {}, duration(to - from)), " for a place under the concurrency limit")));
  };
  let ended = call.offset ?? 0;
  call.attempts.forEach((a, i) => {
    const last = i === call.attempts.length - 1;
    if (!(last && call.attemptsOmitted)) queued(ended, a.start);
    ended = a.start + a.duration + (a.wait?.actual ?? 0);
    if (last && call.attemptsOmitted) rows.push(row("omitted", "", track(), el("span", { class: "wf-detail" }, `${plural(call.attemptsOmitted, "more attempt")}`)));
    const kind = kindOf(a);
    const bar = svg("rect", { class: `bar-${kind}`, x: at(a.start), width: at(a.duration), y: "24%", height: "52%", rx: kind === "good" ? 8 : 1, "data-bar": "attempt" });
    const bars = [bar];
    if (kind === "bad") bars.push(svg("rect", { class: "bar-cap", x: at(a.start + a.duration), width: 3, y: "15%", height: "70%" }));
    const name = el("span", { class: "wf-name" }, icon(kind, `is-${kind}`), `Attempt ${a.number}`);
    const detail = el("span", { class: "wf-detail" }, el("b", {}, a.good && a.reason === "ok" ? statusOf(a) || "ok" : a.grpc?.status ?? words(a.reason)), a.grpc?.message ? ` “${clipped(a.grpc.message, 60)}”` : "", ` · ${duration(a.duration)} · ${verdictOf(a, last)}`, a.breaker === "closed" ? "" : ` · circuit ${a.breaker}`, a.endpoint ? ` · at ${a.endpoint}` : "");
    const error = a.error || (a.grpc?.message?.length > 60 ? a.grpc.message : "");
    if (error) {
      detail.setAttribute("title", error);
      detail.append(el("span", { class: "hidden" }, ` · error: ${error}`)); // a title is for the mouse only
    }
    rows.push(row("attempt", name, track(...bars), detail));
    if (a.wait && (a.wait.actual > 0 || !last)) {
      const wait = svg("rect", { class: "bar-wait", x: at(a.start + a.duration), width: at(a.wait.actual), y: "30%", height: "40%", "data-bar": "wait" });
      rows.push(row("wait", el("span", { class: "wf-name is-wait" }, icon("wait", "is-wait"), "Wait"), track(wait),
        el("span", { class: "wf-detail" }, el("b", {}, duration(a.wait.actual)), ` of ${duration(a.wait.planned)} planned · ${sources[a.wait.source] ?? words(a.wait.source)}`)));
    }
  });
  if (late(call)) queued(ended, call.duration);
  if (!call.attempts.length) {
    rows.push(row("refused", el("span", { class: "wf-name" }, icon("refused", "is-refused"), "No attempt"), track(), el("span", { class: "wf-detail" }, el("b", {}, words(call.reason)))));
  }
  $("waterfall").replaceChildren(...rows);
  spare(axis);

  const facts = [["Call", `${call.id} at ${clock(call.start)}`], ["Reason", words(call.reason)], ["Route", call.route || "none"], ["Upstream", call.upstream || "none"], ["Policy", call.policy || "none"],
    ["Deadline", call.deadline ? whole(call.deadline) : "none"], ["Budget left", `${call.budgetTokens.toFixed(1)} tokens`], ["Request id", call.requestId || "none"]];
  if (call.grpc?.message) facts.splice(2, 0, ["gRPC message", call.grpc.message]);
  const list = facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  if (call.traceId) {
    const link = traceLink(call.traceId);
    list.push(el("div", {}, el("dt", {}, "Trace"), el("dd", {}, link ? el("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, call.traceId.slice(0, 16) + "…") : call.traceId)));
  }
  $("call-facts").replaceChildren(...list);
  text("call-curl", curl(call));
  show("call-line", /^https?:/.test(call.url) && !call.grpc); // curl cannot make a gRPC call
  text("call-json", JSON.stringify(call, null, 2));
  drawn();
}

// spare removes labels of an axis that overlap the previous label or the deadline's, which is
// the last.
function spare(axis) {
  const labels = [...axis.querySelectorAll("text")];
  const deadline = axis.querySelector(".deadline-text");
  const end = deadline ? deadline.getBoundingClientRect().left - 8 : Infinity;
  let from = -Infinity;
  for (const label of labels) {
    if (label === deadline) continue;
    const box = label.getBoundingClientRect();
    if (box.left < from || box.right > end) label.remove();
    else from = box.right + 8;
  }
}

function row(kind, name, track, detail) {
  const r = el("div", { class: `wf-row ${kind}`, "data-kind": kind });
  if (kind !== "axis") r.setAttribute("role", "listitem");
  else r.setAttribute("aria-hidden", "true");
  r.append(typeof name === "string" ? el("span", { class: "wf-name" }, name) : name, track, typeof detail === "string" ? el("span", { class: "wf-detail" }, detail) : detail);
  return r;
}

// traceLink returns the URL of a trace, or nothing if the template is not an http URL.
function traceLink(id) {
  const template = known.settings.traces;
  if (!template || !/^https?:\/\//.test(template)) return "";
  return template.replaceAll("{id}", encodeURIComponent(id));
}

// curl returns a command that sends the same method and URL. It keeps curl from interpreting
// the URL.
export function curl(call) {
  const options = [{ GET: "-i", HEAD: "-I" }[call.method] ?? `-i -X ${quoted(call.method)}`];
  if (/[[\]{}]/.test(call.url)) options.push("-g");
  if (/\/\.\.?(\/|$)/.test(call.url)) options.push("--path-as-is");
  return `curl ${options.join(" ")} ${quoted(call.url)}`;
}

// quoted returns word quoted for a shell.
function quoted(word) { return /^[\w:/.-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`; }

let copied; // the timer that restores the button
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("call-curl").textContent);
    text("copy", "Copied");
  } catch {
    getSelection().selectAllChildren($("call-curl")); // copying is not permitted: select it for the visitor
    text("copy", "Selected");
  }
  clearTimeout(copied);
  copied = setTimeout(() => text("copy", "Copy"), 1500);
});

// resultOf returns how to mark a call's result.
export function resultOf(call) {
  if (!call.attempts.length && call.reason !== "ok") return { shape: "refused", kind: "refused" };
  if (call.good) return { shape: "good", kind: "good" };
  return ["attempt_timeout", "deadline_exceeded"].includes(call.reason) ? { shape: "late", kind: "late" } : { shape: "bad", kind: "bad" };
}

// The width decides how many labels of the axis fit.
let drawnWidth = 0;
new ResizeObserver(([e]) => {
  const width = e.contentRect.width;
  if (shown && width !== drawnWidth) drawCall(shown.call, shown.before);
  drawnWidth = width;
}).observe($("waterfall"));
