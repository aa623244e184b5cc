// The live page: draws what api/live tells. Everything that comes from outside is
// written as text, never as markup, and every time is the server's: this
// browser's clock only measures how long ago something came.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

const LISTED = 100; // calls in the table
const HOLD = 1000; // ms that the newest call stays before a newer one takes its place
const STALE = 3000; // ms without an event; there is one each second
const DEAD = 8000; // ms after which the connection is given up: it may be gone without a word

function el(tag, properties = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

function svg(tag, attributes = {}, ...children) {
  const e = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

function icon(shape, kind = "") {
  return svg("svg", { class: `icon ${kind}`, "aria-hidden": "true" }, svg("use", { href: `#shape-${shape}` }));
}

// text changes what an element says only when it says something else, so that a
// screen reader is told once and a selection stays.
function text(id, value) {
  const e = typeof id === "string" ? $(id) : id;
  if (e.textContent !== value) e.textContent = value;
}

function show(id, shown) {
  const e = typeof id === "string" ? $(id) : id;
  if (e.hidden === shown) e.hidden = !shown;
}

// Numbers as people read them.
const percent = (part, whole) => {
  if (!whole) return "–";
  const p = (100 * part) / whole;
  if (part < whole && p > 99.9) return "99.9 %"; // never 100 while one failed
  if (part > 0 && p < 0.1) return "0.1 %";
  return `${p.toFixed(p === 0 || p === 100 ? 0 : 1)} %`;
};
const count = (n) => Math.round(n).toLocaleString("en-US");
const rate = (n) => (n >= 100 ? count(n) : n.toFixed(1));
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
function duration(ms) {
  if (ms >= 59_950) return `${(ms / 60_000).toFixed(1)} min`;
  if (ms >= 9_995) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 999.5) return `${(ms / 1000).toFixed(2)} s`;
  if (ms >= 99.95) return `${ms.toFixed(0)} ms`;
  if (ms >= 0.95) return `${ms.toFixed(1)} ms`;
  return `${ms.toFixed(2)} ms`;
}
const whole = (ms) => duration(ms).replace(/\.0+ /, " ");
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const words = (reason) => String(reason).replace(/^status_/, "status ").replaceAll("_", " ");
const stateWord = { closed: "Closed", open: "Open", "half-open": "Half-open" };

// What is known.
const known = {
  settings: { reasons: [] },
  series: new Map(), // by key: {policy, upstream, window, circuit, seconds: Map}
  chosen: null, // key of the series that is shown
  picked: false, // by the visitor
  calls: [], // newest first
  total: 0,
  transitions: [],
  faults: null,
  faultsVersion: null,
  seed: null,
  traffic: null,
  transitionsMissed: 0,
  dropped: 0,
  started: 0,
  now: 0,
};
const keyOf = (s) => JSON.stringify([s.upstream, s.policy]);

// The server's clock: the offset is the largest seen, that of the event which was
// under way for the shortest time.
let offset = null;
const serverNow = () => (offset === null ? Date.now() : performance.now() + offset);

function take(update) {
  const now = update.now - performance.now();
  if (update.reset) {
    Object.assign(known, { series: new Map(), calls: [], transitions: [], transitionsMissed: 0, total: 0, faultsVersion: null });
    known.settings = update.settings;
    offset = now;
    if (shown) shown.before = true; // it is another process's, and so are its number and its reason to be marked
    filtered = held = null;
    setUp();
    if ($("reason").value) askFiltered();
  }
  offset = Math.max(offset ?? now, now);
  known.total = update.total;
  known.dropped = update.pages.dropped;
  known.started = update.started;
  known.now = update.now;

  const present = new Set();
  for (const s of update.series) {
    const key = keyOf(s);
    present.add(key);
    const old = known.series.get(key);
    const seconds = old ? old.seconds : new Map();
    for (const second of s.seconds ?? []) seconds.set(second.at, second);
    const oldest = update.now - (known.settings.seconds ?? 300) * 1000 - 2000;
    for (const at of seconds.keys()) if (at < oldest) seconds.delete(at);
    known.series.set(key, { ...s, seconds });
  }
  for (const key of known.series.keys()) if (!present.has(key)) known.series.delete(key);

  for (const t of update.transitions ?? []) {
    known.transitions.push(t);
    // Probes that fail are in the list below; whoever listens wants to know when it begins and when it is over.
    if (!update.reset && keyOf(t) === known.chosen && (t.from === "closed" || t.to === "closed")) announce(`Circuit ${stateWord[t.to].toLowerCase()}: ${cause(t)}`);
  }
  known.transitionsMissed += update.transitionsMissed ?? 0;
  known.transitions.splice(0, known.transitions.length - 256);

  for (const call of update.calls ?? []) {
    known.calls.unshift(call);
    for (const a of call.attempts) offer(a.reason);
  }
  known.calls.splice(4 * LISTED);
  if (update.traffic) known.traffic = update.traffic;
  if (known.settings.faults && known.faultsVersion !== (update.faultsVersion ?? 0)) {
    known.faultsVersion = update.faultsVersion ?? 0;
    askFaults();
  }
}

function announce(sentence) { text("announce", sentence); }

// The connection. EventSource comes back by itself and says how far it had come;
// only when the server refuses must it be asked again.
let source;
let askedAt = 0;
let lastEvent = 0;
let brokenSince = 0;
function connect() {
  source = new EventSource("api/live");
  askedAt = performance.now();
  source.addEventListener("update", (e) => {
    lastEvent = performance.now();
    brokenSince = 0;
    try {
      take(JSON.parse(e.data));
    } catch (err) {
      connection("failed", `This page and the server do not understand each other: ${err.message}`);
      source.close();
      throw err;
    }
    connection("live", "Live");
    draw();
  });
  source.addEventListener("error", () => {
    brokenSince ||= performance.now();
    connection("reconnecting", "Reconnecting");
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  });
}

function connection(state, word) {
  document.body.dataset.connection = state;
  text("connection", word);
  const shape = { live: "closed", connecting: "again", reconnecting: "again", stale: "late", failed: "bad" }[state];
  $("connection-shape").setAttribute("href", `#shape-${shape}`);
  if (state === "live") text("connection-for", "");
}

// Once in a while nothing comes, and that is to be seen too.
setInterval(() => {
  const now = performance.now();
  if (document.body.dataset.connection === "live" && now - lastEvent > STALE) connection("stale", "Stale");
  if (document.body.dataset.connection === "stale") text("connection-for", `no news for ${duration(now - lastEvent)}`);
  if (source.readyState !== EventSource.CLOSED && now - Math.max(lastEvent, askedAt) > DEAD) {
    source.close();
    brokenSince ||= now;
    connection("reconnecting", "Reconnecting");
    connect();
  }
  if (brokenSince) {
    text("connection-for", lastEvent ? `what you see is ${duration(now - lastEvent)} old` : `for ${duration(now - brokenSince)}`);
  }
  if (document.body.dataset.connection === "live") drawBreaker(known.series.get(known.chosen));
}, 200);

// Settings that come with the first event.
function setUp() {
  const { example } = known.settings;
  show("try", Boolean(example));
  if (example) text("try-line", curl({ method: "GET", url: example }));
  const select = $("reason");
  const chosen = select.value;
  select.replaceChildren(el("option", { value: "" }, "all"));
  for (const r of known.settings.reasons) select.append(el("option", { value: r }, words(r)));
  offer(chosen);
  select.value = chosen;
}

// offer lets the list be filtered by a reason; those of statuses are known only
// when one was seen.
function offer(reason) {
  const select = $("reason");
  if ([...select.options].every((o) => o.value !== reason)) select.append(el("option", { value: reason }, words(reason)));
}

function draw() {
  choose();
  const s = known.series.get(known.chosen);
  drawSummary(s);
  drawNow(s);
  drawBreaker(s);
  drawControls();
  followNewest();
  drawRows();
  drawHistory(s);
  text("foot", `${plural(known.total, "call")} since ${clock(known.started)}` +
    (known.dropped ? ` · ${plural(known.dropped, "page")} dropped because they did not read` : "") +
    " · times are the server’s, in your time zone");
}




// choose shows the upstream with the most calls until the visitor picks one.
function choose() {
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

// judged is how many attempts say something of the upstream: not those that ended
// by their caller's doing.
const judged = (w) => w.attempts - (w.attemptsNeutral ?? 0);

// The sentence says what it is all about in one line.
function drawSummary(s) {
  const scenario = scenarioName();
  const parts = [];
  if (scenario) parts.push(`${scenario}.`);
  const w = s?.window;
  if (!w?.offered) {
    parts.push(known.total ? "No calls in the last ten seconds." : "No calls yet.");
  } else if (s.circuit?.state === "open") {
    parts.push(`The circuit is open: the upstream is left alone, and ${count(w.refused)} of ${plural(w.offered, "call")} ended early instead of waiting for more failures.`);
  } else if (!w.attempts) {
    parts.push(`${w.offered === 1 ? "The only call" : `None of the ${plural(w.offered, "call")}`} of the last ten seconds ${w.offered === 1 ? "did not reach" : "reached"} an upstream.`);
  } else {
    const all = judged(w);
    const gap = w.good / w.offered - w.attemptsGood / all;
    const fails = all - w.attemptsGood;
    if (!fails) parts.push(w.good === w.offered ? "Everything succeeds at the first attempt." : `The upstream does all of its attempts well; ${percent(w.offered - w.good, w.offered)} of the calls end badly all the same.`);
    else if (gap > 0.02) parts.push(`The upstream fails ${percent(fails, all)} of its attempts; callers see ${w.good === w.offered ? "none of it" : `${percent(w.offered - w.good, w.offered)} fail`}.`);
    else if (w.good === w.offered) parts.push(`The upstream fails ${percent(fails, all)} of its attempts, and none of the calls.`);
    else parts.push(`The upstream fails ${percent(fails, all)} of its attempts, and ${percent(w.offered - w.good, w.offered)} of the calls fail.`);
  }
  text("summary", parts.join(" "));
}

function meter(id, share) { $(id).setAttribute("width", `${(100 * Math.min(1, Math.max(0, share || 0))).toFixed(2)}%`); }

function drawNow(s) {
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

function drawBreaker(s) {
  const c = s?.circuit;
  const state = c?.state ?? "none";
  $("breaker-tile").dataset.state = state;
  $("breaker-shape").setAttribute("href", `#shape-${state}`);
  text("breaker-state", c ? stateWord[state] : "–");
  let note = "no calls yet";
  if (state === "open") {
    const left = c.probeAt - serverNow();
    note = left > 50 ? `next probe in ${(left / 1000).toFixed(1)} s` : "next probe with the next call";
  } else if (state === "half-open") {
    note = `probing: ${c.successes} of ${c.settings.probes} good`;
  } else if (c) {
    const all = c.successes + c.failures;
    note = `${count(c.failures)} of ${count(all)} failed in ${whole(c.settings.window)}`;
  }
  text("breaker-note", note);
}

// cause tells why a circuit changed, with the counts.
function cause(t) {
  const settings = known.series.get(keyOf(t))?.circuit?.settings;
  const all = t.successes + t.failures;
  const openFor = t.openFor ? `, open for ${duration(t.openFor)}` : "";
  if (t.to === "open" && t.from === "half-open") return `a probe failed${openFor}`;
  if (t.to === "open") {
    if (settings?.consecutiveFailures && t.consecutiveFailures >= settings.consecutiveFailures) {
      return `${plural(t.consecutiveFailures, "failure")} in a row (limit ${settings.consecutiveFailures})${openFor}`;
    }
    const limit = settings ? ` (limit ${percent(settings.failureRatio, 1).replace(".0", "")} of at least ${settings.minRequests})` : "";
    return `${count(t.failures)} of ${count(all)} failed${limit}${openFor}`;
  }
  if (t.to === "half-open") return "the open period is over, probes go through";
  return `${plural(t.successes, "probe")} succeeded`;
}

// ---- The laboratory.

const nothing = {
  errorRate: 0, resetRate: 0, truncateRate: 0, hangRate: 0, slowBodyRate: 0, failFirst: 0, retryAfter: "",
};
const scenarios = [
  { name: "Healthy", faults: {}, note: "every attempt works" },
  { name: "30 % errors", faults: { errorRate: 0.3 }, note: "three attempts in ten answer 503" },
  { name: "Slow", faults: { latency: { distribution: "lognormal", median: "250ms", p99: "2s" } }, note: "half of the answers take over 250 ms, one in a hundred over 2 s" },
  { name: "Outage", faults: { errorRate: 1 }, note: "every attempt answers 503" },
  { name: "Hanging", faults: { hangRate: 1 }, note: "attempts are accepted and never answered" },
  { name: "Overload", faults: { capacity: { workers: 2, serviceTime: "50ms", queue: 20 } }, note: "two workers of 50 ms each: more than 40 attempts a second are too many" },
];

function matches(scenario) {
  const f = known.faults;
  if (!f || (f.schedule ?? []).length) return false;
  const wanted = { ...nothing, ...scenario.faults };
  for (const name of Object.keys(nothing)) if (f[name] !== wanted[name]) return false;
  const latency = scenario.faults.latency ?? { distribution: "none" };
  for (const [name, value] of Object.entries(latency)) if (f.latency?.[name] !== value) return false;
  if (wanted.errorRate > 0 && String(f.statuses ?? [503]) !== "503") return false;
  const capacity = scenario.faults.capacity;
  if (!capacity) return !f.capacity?.workers;
  return Object.keys(capacity).every((name) => f.capacity?.[name] === capacity[name]);
}

function scenarioName() {
  if (!known.faults) return "";
  const s = scenarios.find(matches);
  if (s) return s.name;
  const f = known.faults;
  const rates = [["errorRate", "errors"], ["resetRate", "resets"], ["truncateRate", "cut bodies"], ["hangRate", "hanging"], ["slowBodyRate", "slow bodies"]]
    .filter(([name]) => f[name] > 0).map(([name, word]) => `${percent(f[name], 1).replace(".0", "")} ${word}`);
  if (f.errorRate > 0 && String(f.statuses ?? [503]) !== "503") rates[0] += ` (${f.statuses.join(", ")})`;
  if (f.failFirst > 0) rates.push(f.failFirst === 1 ? "the first attempt of each call fails" : `the first ${count(f.failFirst)} attempts of each call fail`);
  if (f.capacity?.workers) rates.push(`${plural(f.capacity.workers, "worker")}, ${f.capacity.serviceTime} a call`);
  if (f.latency && f.latency.distribution !== "none") rates.push(`${f.latency.distribution} latency`);
  if ((f.schedule ?? []).length) rates.push("on a schedule");
  const list = rates.join(", ") || "own faults";
  return list[0].toUpperCase() + list.slice(1);
}

async function ask(path, method = "GET", body) {
  const answer = await fetch(path, { method, body: body === undefined ? undefined : JSON.stringify(body), headers: body === undefined ? {} : { "Content-Type": "application/json" } });
  const json = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(json.detail || `the server answered ${answer.status}`);
  if (answer.headers.has("Rebound-Seed")) known.seed = answer.headers.get("Rebound-Seed"); // as text: it may be too large for a number here
  return json;
}

// change does what was pressed. What could not be done is said until something
// else can, or until flaky-server, if it was that, answers again.
let failed = null; // what was pressed, and went wrong
async function change(what, act) {
  try {
    const answer = await act();
    failed = null;
    return answer;
  } catch (err) {
    failed = what;
    text("controls-error", `${what} was not possible: ${err.message}`);
    return null;
  } finally {
    show("controls-error", failed !== null);
  }
}

let asking = false;
async function askFaults() {
  if (asking) return; // one that hangs is enough
  asking = true;
  try {
    const away = known.faults === null;
    known.faults = await ask("api/faults");
    if (away) show("controls-error", false); // it is back, and the buttons work again
  } catch {
    known.faults = null; // not known is better than wrong; a change will say why
  }
  asking = false;
  drawControls();
}
// They can be changed without this page, too.
setInterval(() => { if (known.settings.faults && !document.hidden) askFaults(); }, 3000);

// choices makes one of several to choose, as radio buttons: arrow keys work.
function choices(id, name, list, act) {
  $(id).setAttribute("role", "radiogroup");
  $(id).setAttribute("aria-label", $(id).closest("fieldset").querySelector("legend").textContent);
  $(id).replaceChildren(...list.map(([value, word]) => {
    const input = el("input", { type: "radio", name, value });
    input.addEventListener("change", () => act(value));
    return el("label", {}, input, el("span", {}, word));
  }));
}

function check(id, value) {
  for (const input of $(id).querySelectorAll("input")) input.checked = input.value === String(value);
}

choices("scenarios", "scenario", scenarios.map((s) => [s.name, s.name]), async (name) => {
  const faults = await change(name, () => ask("api/faults", "PUT", scenarios.find((s) => s.name === name).faults));
  if (faults) known.faults = faults;
  draw();
});
choices("rates", "rate", [[0, "Off"], [5, "5"], [20, "20"], [50, "50"], [100, "100"], [200, "200"]], (perSecond) => setTraffic({ perSecond }));
choices("paths", "path", [["with", "With policy"], ["without", "Without"], ["both", "Both, to compare"]], (path) => setTraffic({ path }));

async function setTraffic(settings) {
  const traffic = await change("Changing the traffic", () => ask("api/traffic", "PUT", settings));
  if (traffic) known.traffic = traffic;
  drawControls();
}

// What was typed stays until it is set or given up, whatever the server says.
let seedTyped = false;
$("seed").addEventListener("input", () => { seedTyped = true; text("seed-note", "the same seed, the same faults"); });
$("seed").addEventListener("keydown", (e) => { if (e.key === "Escape") { seedTyped = false; drawControls(); } });
$("seed-set").addEventListener("submit", async (e) => {
  e.preventDefault();
  const faults = await change("Setting the seed", async () => ask(`api/faults?seed=${encodeURIComponent($("seed").value)}`, "PUT", known.faults ?? await ask("api/faults")));
  if (faults) {
    known.faults = faults;
    seedTyped = false;
  }
  text("seed-note", faults ? "set; the faults begin anew" : "the same seed, the same faults");
  drawControls();
});

$("reset").addEventListener("click", async () => {
  await change("Reset", async () => {
    if (known.settings.traffic) known.traffic = await ask("api/traffic", "PUT", known.settings.traffic);
    if (known.settings.faults) known.faults = await ask("api/faults/reset", "POST");
  });
  seedTyped = false;
  draw();
});

function drawControls() {
  const { traffic } = known;
  show("controls", Boolean(known.settings.faults || traffic));
  show("scenario-set", Boolean(known.settings.faults));
  show("seed-set", Boolean(known.settings.faults));
  if (known.seed !== null && !seedTyped) $("seed").value = known.seed;
  show("traffic-set", Boolean(traffic));
  show("path-set", Boolean(traffic));
  show("compare", Boolean(traffic));
  const current = scenarios.find(matches);
  check("scenarios", current?.name ?? "");
  text("scenario-note", current ? current.note : known.faults ? `now: ${scenarioName()}` : "not known: flaky-server does not answer");
  if (!traffic) return;
  check("rates", traffic.perSecond);
  check("paths", traffic.path);
  for (const way of ["with", "without"]) {
    const r = traffic[way];
    meter(`${way}-bar`, r.good / r.ended);
    text(`${way}-share`, percent(r.good, r.ended));
    text(`${way}-note`, (r.ended ? plural(r.ended, "call") : traffic.perSecond && [way, "both"].includes(traffic.path) ? "none has ended" : "no traffic") + (r.notSent ? `, ${count(r.notSent)} not sent: too many wait` : ""));
  }
}

// ---- One call.

let shown = null; // the call that is drawn: {call, before}
let shownSince = 0;
let following = true;

function follow(on) {
  following = on;
  $("follow").setAttribute("aria-pressed", String(on));
}
$("follow").addEventListener("click", () => { follow(!following); followNewest(true); });

// Among calls that come faster than one can read, those that were repeated or
// failed are shown first.
function followNewest(atOnce = false) {
  if (!following || !known.calls.length) return;
  const now = performance.now();
  if (shown && !atOnce && now - shownSince < HOLD) return;
  if (shown && !atOnce && busy($("call-body"))) return;
  const fresh = known.calls.filter((c) => !shown || shown.before || c.id > shown.call.id);
  if (!fresh.length) return;
  drawCall(fresh.find((c) => c.attempts.length > 1 || !c.good) ?? fresh[0]);
  shownSince = now;
}

// busy tells whether the visitor is at something in there that a redraw would take
// away: it has the focus, or some of its text is selected.
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

function drawCall(call, before = false) {
  shown = { call, before };
  show("call-empty", false);
  show("call-body", true);
  const waits = call.attempts.filter((a) => a.wait && a.wait.actual > 0);
  const waited = waits.reduce((sum, a) => sum + a.wait.actual, 0);
  const sentence = $("call-sentence");
  const outcome = call.good ? "Answered" : call.attempts.length ? "Failed with" : "Refused with";
  sentence.replaceChildren(
    icon(resultOf(call).shape, `is-${resultOf(call).kind}`), " ", el("b", {}, `${outcome} ${call.status || "nothing"}`),
    call.attempts.length
      ? ` after ${plural(call.attempts.length + (call.attemptsOmitted ?? 0), "attempt")} in ${duration(call.duration)}`
      : ` at once: ${words(call.reason)}, the upstream was not asked`,
    waits.length && !call.attemptsOmitted ? `, of which ${plural(waits.length, "wait")} took ${duration(waited)}` : "",
    call.attempts.length && !call.good ? `. It ended because of: ${words(call.reason)}.` : ".",
  );

  // The deadline is to scale where that leaves room for the rest.
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
  call.attempts.forEach((a, i) => {
    const last = i === call.attempts.length - 1;
    if (last && call.attemptsOmitted) rows.push(row("omitted", "", track(), el("span", { class: "wf-detail" }, `${plural(call.attemptsOmitted, "more attempt")}`)));
    const kind = kindOf(a);
    const bar = svg("rect", { class: `bar-${kind}`, x: at(a.start), width: at(a.duration), y: "24%", height: "52%", rx: kind === "good" ? 8 : 1, "data-bar": "attempt" });
    const bars = [bar];
    if (kind === "bad") bars.push(svg("rect", { class: "bar-cap", x: at(a.start + a.duration), width: 3, y: "15%", height: "70%" }));
    const name = el("span", { class: "wf-name" }, icon(kind, `is-${kind}`), `Attempt ${a.number}`);
    const detail = el("span", { class: "wf-detail" }, el("b", {}, a.good && a.reason === "ok" ? `${a.status || "ok"}` : words(a.reason)), ` · ${duration(a.duration)} · ${verdictOf(a, last)}`, a.breaker === "closed" ? "" : ` · circuit ${a.breaker}`);
    if (a.error) detail.setAttribute("title", a.error);
    rows.push(row("attempt", name, track(...bars), detail));
    if (a.wait && (a.wait.actual > 0 || !last)) {
      const wait = svg("rect", { class: "bar-wait", x: at(a.start + a.duration), width: at(a.wait.actual), y: "30%", height: "40%", "data-bar": "wait" });
      rows.push(row("wait", el("span", { class: "wf-name is-wait" }, icon("wait", "is-wait"), "Wait"), track(wait),
        el("span", { class: "wf-detail" }, el("b", {}, duration(a.wait.actual)), ` of ${duration(a.wait.planned)} planned · ${a.wait.source === "retry_after" ? "Retry-After" : "jitter"}`)));
    }
  });
  if (!call.attempts.length) {
    rows.push(row("refused", el("span", { class: "wf-name" }, icon("refused", "is-refused"), "No attempt"), track(), el("span", { class: "wf-detail" }, el("b", {}, words(call.reason)))));
  }
  $("waterfall").replaceChildren(...rows);
  spare(axis);

  const facts = [["Call", `${call.id} at ${clock(call.start)}`], ["Reason", words(call.reason)], ["Route", call.route || "none"], ["Upstream", call.upstream || "none"], ["Policy", call.policy || "none"],
    ["Deadline", call.deadline ? whole(call.deadline) : "none"], ["Budget left", `${call.budgetTokens.toFixed(1)} tokens`], ["Request id", call.requestId || "none"]];
  const list = facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  if (call.traceId) {
    const link = traceLink(call.traceId);
    list.push(el("div", {}, el("dt", {}, "Trace"), el("dd", {}, link ? el("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, call.traceId.slice(0, 16) + "…") : call.traceId)));
  }
  $("call-facts").replaceChildren(...list);
  text("call-curl", curl(call));
  show("call-line", /^https?:/.test(call.url));
  text("call-json", JSON.stringify(call, null, 2));
  markRow();
}

// spare removes those of an axis' words that would run into the one before, or
// into the deadline's, which comes last.
function spare(axis) {
  const words = [...axis.querySelectorAll("text")];
  const deadline = axis.querySelector(".deadline-text");
  const end = deadline ? deadline.getBoundingClientRect().left - 8 : Infinity;
  let from = -Infinity;
  for (const w of words) {
    if (w === deadline) continue;
    const box = w.getBoundingClientRect();
    if (box.left < from || box.right > end) w.remove();
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

// traceLink is only ever an address that can be opened, whatever was configured.
function traceLink(id) {
  const template = known.settings.traces;
  if (!template || !/^https?:\/\//.test(template)) return "";
  return template.replaceAll("{id}", encodeURIComponent(id));
}

// curl asks for the same URL by the same method, and for nothing that curl would
// make of it.
function curl(call) {
  const options = [{ GET: "-i", HEAD: "-I" }[call.method] ?? `-i -X ${quoted(call.method)}`];
  if (/[[\]{}]/.test(call.url)) options.push("-g");
  if (/\/\.\.?(\/|$)/.test(call.url)) options.push("--path-as-is");
  return `curl ${options.join(" ")} ${quoted(call.url)}`;
}

// quoted is one word to a shell, whatever is in it.
function quoted(word) { return /^[\w:/.-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`; }

$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("call-curl").textContent);
    text("copy", "Copied");
  } catch {
    getSelection().selectAllChildren($("call-curl")); // without the permission it is one key away
    text("copy", "Selected");
  }
  setTimeout(() => text("copy", "Copy"), 1500);
});

// tick is the distance of a scale's marks, so that there are at most so many.
function tick(range, most) {
  const power = 10 ** Math.floor(Math.log10(range / most));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => range / n <= most) ?? 10 * power;
}
function tickText(ms, step) {
  if (ms >= 1000) return `${Number((ms / 1000).toFixed(step >= 1000 ? 0 : step >= 100 ? 1 : 2))} s`;
  return `${Number(ms.toFixed(step >= 1 ? 0 : step >= 0.1 ? 1 : 2))} ms`;
}

// ---- The list.

let paused = null; // the list as it was when it was stopped
let filtered = null; // what the server has kept with the chosen reason
let filterError = "";
let drawnCalls = []; // as they are on the page
const rowOf = new Map(); // by call id

$("pause").addEventListener("click", () => {
  paused = paused ? null : listed();
  $("pause").setAttribute("aria-pressed", String(Boolean(paused)));
  text("pause", paused ? "Resume" : "Pause");
  drawRows();
});
$("reason").addEventListener("change", askFiltered);

async function askFiltered() {
  filtered = held = null;
  filterError = "";
  const reason = $("reason").value;
  if (reason) {
    try {
      const answer = await ask(`api/calls?limit=${LISTED}&reason=${encodeURIComponent(reason)}`);
      if ($("reason").value === reason) filtered = answer.calls;
    } catch (err) {
      filterError = `Older ones could not be asked for: ${err.message}. `;
    }
  }
  if (paused) paused = listed();
  drawRows();
}

function hasReason(call, reason) { return call.reason === reason || call.attempts.some((a) => a.reason === reason); }

function listed() {
  const reason = $("reason").value;
  if (!reason) return known.calls.slice(0, LISTED);
  const all = new Map([...(filtered ?? []), ...known.calls.filter((c) => hasReason(c, reason))].map((c) => [c.id, c]));
  return [...all.values()].sort((a, b) => b.id - a.id).slice(0, LISTED);
}

function resultOf(call) {
  if (!call.attempts.length && call.reason !== "ok") return { shape: "refused", kind: "refused" };
  if (call.good) return { shape: "good", kind: "good" };
  return ["attempt_timeout", "deadline_exceeded"].includes(call.reason) ? { shape: "late", kind: "late" } : { shape: "bad", kind: "bad" };
}

// The list does not move under who points at it, or has the focus in it.
const region = document.querySelector(".scroll");
let pointed = false;
let held = null; // the list as it was then
region.addEventListener("pointerenter", (e) => { pointed = e.pointerType !== "touch"; });
region.addEventListener("pointerleave", () => { pointed = false; drawRows(); });
region.addEventListener("focusout", () => setTimeout(drawRows));

function drawRows() {
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
    if (r && r.call !== call && r.call.start !== call.start) { r.remove(); r = undefined; } // another process's
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
  show("rows-empty", calls.length === 0);
  text("rows-empty", $("reason").value ? "No kept call has this reason." : "No calls to list.");
  let note = "";
  if (calls.length) {
    const span = calls[0].id - calls[calls.length - 1].id + 1;
    if (paused) note = known.total < calls[0].id ? "Paused; the program has begun anew since." : `Paused; ${plural(known.total - calls[0].id, "newer call")}.`;
    else if (held && known.total > calls[0].id) note = `Held while you are at it; ${plural(known.total - calls[0].id, "newer call")}.`;
    else if ($("reason").value) note = `${calls.length < LISTED ? "" : "The newest "}${plural(calls.length, "call")} that ended so, or had an attempt that did.`;
    else if (span > calls.length) note = `${count(calls.length)} of the last ${count(span)} calls; ${count(span - calls.length)} came too fast to list.`;
    else if (calls.length < LISTED && calls.length < known.total) note = `${count(calls.length)} of ${count(known.total)} calls; ${count(known.total - calls.length)} came too fast to list.`;
    else note = `The last ${plural(calls.length, "call")} of ${count(known.total)}.`;
  }
  text("rows-note", filterError + note);
  markRow();
}

function rowFor(call) {
  const { shape, kind } = resultOf(call);
  const result = call.good && call.reason === "ok" ? `${call.status}` : `${call.status || "–"} ${words(call.reason)}`;
  const button = el("button", { type: "button", "aria-label": `Show call ${call.id} of ${clock(call.start)}` }, clock(call.start));
  const attempts = call.attempts.length + (call.attemptsOmitted ?? 0);
  const r = el("tr", {},
    el("td", {}, button),
    el("td", { class: "what", title: call.url }, `${call.method} ${pathOf(call.url)}`),
    el("td", { class: "result", title: result }, icon(shape, `is-${kind}`), result),
    el("td", { class: "number" }, count(attempts)),
    el("td", { class: "number" }, duration(call.duration)));
  r.call = call;
  r.addEventListener("click", () => { follow(false); drawCall(call); });
  return r;
}

function pathOf(url) {
  const slash = url.indexOf("/", url.indexOf("://") + 3);
  return slash < 0 ? url : url.slice(slash);
}

function markRow() {
  for (const r of rowOf.values()) {
    if (shown && r.call === shown.call || shown && !shown.before && r.call.id === shown.call.id) r.setAttribute("aria-current", "true");
    else r.removeAttribute("aria-current");
  }
}

// ---- The last minutes: a band and three charts on one axis.

let span = 60_000; // of the axis, in ms: whole minutes, as many as there is something of
const MARGIN = { left: 46, right: 10 };
let cursor = null; // a second's time that the visitor looks at

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
    drawHistory(known.series.get(known.chosen), true);
  });
  plot.addEventListener("pointerleave", () => { cursor = null; drawHistory(known.series.get(known.chosen), true); });
  plot.addEventListener("keydown", (e) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (e.key === "Escape") cursor = null;
    else if (by) cursor = Math.min(1, Math.max(0, (cursor ?? 1) + by / (span / 1000)));
    else return;
    e.preventDefault();
    drawHistory(known.series.get(known.chosen), true);
  });
  return c;
}

const refusedOf = (s) => Object.values(s.refused ?? {}).reduce((a, b) => a + b, 0);
const band = chart("Circuit", 34, []);
const charts = [
  chart("Calls per second", 112, [
    { name: "offered", word: "offered", of: (s) => s.offered ?? 0, say: count },
    { name: "attempts", word: "attempts", of: (s) => s.attempts ?? 0, say: count },
    { name: "good", word: "goodput", of: (s) => s.good ?? 0, say: count, area: true },
    { name: "refused", word: "refused", of: refusedOf, say: count },
  ]),
  chart("Latency of calls", 96, [
    { name: "p50", word: "50 %", of: (s) => (s.offered ? s.p50 ?? 0 : null), say: duration },
    { name: "p99", word: "99 %", of: (s) => (s.offered ? s.p99 ?? 0 : null), say: duration },
  ]),
  chart("Retry budget", 84, [
    { name: "tokens", word: "tokens", of: (s) => s.tokens ?? null, say: (n) => n.toFixed(1) },
  ]),
];
charts[1].unit = (v, step) => tickText(v, step);
charts[2].axis = true;

let drawnSecond = 0;

function drawHistory(s, force = false) {
  const seconds = s ? [...s.seconds.values()].sort((a, b) => a.at - b.at) : [];
  // The present second is not over: what it has so far would look like a fall.
  const newest = Math.max(seconds.length ? seconds[seconds.length - 1].at : 0, known.started + 1000 * Math.floor((known.now - known.started - 100) / 1000));
  const mark = `${known.chosen} ${newest}`;
  if (mark === drawnSecond && !force) return;
  drawnSecond = mark;
  const end = newest;
  span = 60_000 * Math.min((known.settings.seconds ?? 300) / 60, Math.max(1, Math.ceil((end - known.started) / 60_000)));
  text("history-title", span === 60_000 ? "The last minute" : `The last ${span / 60_000} minutes`);
  const start = end - span;
  // A second that is not told of had nothing in it.
  const complete = [];
  for (let when = Math.max(seconds[0]?.at ?? newest, newest - 1000 * Math.ceil(span / 1000)); when < newest; when += 1000) complete.push(s.seconds.get(when) ?? { at: when });
  const at = cursor === null ? null : start + cursor * span;
  const under = at === null ? complete[complete.length - 1] : complete.find((sec) => at >= sec.at && at < sec.at + 1000);
  text("cursor-time", at === null ? "now" : clock(at));

  const mine = known.transitions.filter((t) => keyOf(t) === known.chosen);
  const spans = bandOf(s, mine, complete, start, end);
  drawBand(spans, mine, start, end, at);
  for (const c of charts) drawChart(c, complete, spans, start, end, at, under);
  drawTransitions(mine);
}

// bandOf is the circuit's states as spans. What no transition tells of, the
// seconds' samples do.
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
  // What no transition tells of: after a changed configuration a circuit begins anew.
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

function drawBand(spans, transitions, start, end, at) {
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
  for (const t of transitions) if (t.at >= start) parts.push(svg("line", { class: "band-tick", x1: x(t.at).toFixed(1), x2: x(t.at).toFixed(1), y1: 7, y2: 33 }, svg("title", {}, `${clock(t.at)} ${t.from} to ${t.to}: ${cause(t)}`)));
  if (at !== null) parts.push(svg("line", { class: "cursor", x1: x(at), x2: x(at), y1: 0, y2: band.height }));
  band.plot.replaceChildren(...parts);
  const now = spans.length ? `now ${spans[spans.length - 1].state}` : "not known yet";
  band.plot.setAttribute("aria-label", `The circuit: ${now}, ${plural(transitions.length, "change")}`);
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
      if (broken) d += "h0.01"; // a point by itself is seen too
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

let drawnTransitions = "";
function drawTransitions(mine) {
  const newest = mine.slice(-20).reverse();
  const mark = `${known.chosen} ${known.transitionsMissed} ${newest.map((t) => t.at).join(" ")}`;
  if (mark === drawnTransitions) return;
  drawnTransitions = mark;
  show("transitions-empty", newest.length === 0);
  show("transitions-missed", known.transitionsMissed > 0);
  text("transitions-missed", `${plural(known.transitionsMissed, "change")} of some circuit came too fast to list.`);
  $("transitions").replaceChildren(...newest.map((t) => el("li", {},
    el("time", { datetime: new Date(t.at).toISOString() }, clock(t.at)),
    el("span", { class: "to" }, icon(t.to, t.to === "closed" ? "is-good" : t.to === "open" ? "is-bad" : "is-warn"), `${stateWord[t.from]} → ${stateWord[t.to].toLowerCase()}`),
    el("span", { class: "why" }, cause(t)))));
}

new ResizeObserver(() => drawHistory(known.series.get(known.chosen), true)).observe($("charts"));
let drawnWidth = 0; // which decides which of the axis' words there is room for
new ResizeObserver(([e]) => {
  const width = e.contentRect.width;
  if (shown && width !== drawnWidth) drawCall(shown.call, shown.before);
  drawnWidth = width;
}).observe($("waterfall"));
drawHistory(undefined, true);
connect();
