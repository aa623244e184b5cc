// The laboratory: the upstream's faults, their seed and the traffic.

import { ask } from "./api.js";
import { $, el, show, text } from "./dom.js";
import { matches, nameOf, scenarios, usual } from "./faults.js";
import { draw, hear, known, noteFaults } from "./state.js";

// The demo's upstream is as fast as a real one, so that bars have a width.
const faultsOf = (scenario) => (known.traffic && !scenario.faults.latency && !scenario.faults.capacity ? { ...scenario.faults, latency: usual } : scenario.faults);

// scenarioName describes the faults in force.
export const scenarioName = () => nameOf(known.faults, known.traffic?.sick);

let failed = null; // the control whose change failed

// change runs act for a pressed control. It shows an error until another change succeeds, or
// until flaky-server answers again.
async function change(what, act) {
  try {
    const answer = await act();
    failed = null;
    return answer;
  } catch (err) {
    failed = what;
    text("controls-error", `${what} failed: ${err.message}`);
    return null;
  } finally {
    show("controls-error", failed !== null);
  }
}

let asking = false;
export async function askFaults() {
  if (asking) return; // one hanging request is enough
  asking = true;
  try {
    const away = known.faults === null;
    hear(await ask("api/faults"));
    known.unanswered = false;
    if (away) show("controls-error", false); // flaky-server is back, and the buttons work again
  } catch (err) {
    known.unanswered = err.status === 502; // from this server, about flaky-server
    hear(null); // show nothing rather than outdated faults; a change will show the error
  }
  asking = false;
  drawControls();
}
// The faults can change without this page too.
setInterval(() => { if (known.settings.faults && !document.hidden && !known.lost) askFaults(); }, 3000);

// One change after the other, in the order in which they were pressed. next runs f after those
// before it.
let changing = Promise.resolve();
export const next = (f) => { changing = changing.then(f, f); };

// choices fills an element with radio buttons. Arrow keys only move the focus: by themselves they
// would put every choice on the way in force. Space and Enter choose.
function choices(id, name, list, act) {
  $(id).setAttribute("role", "radiogroup");
  $(id).setAttribute("aria-label", $(id).closest("fieldset").querySelector("legend").textContent);
  $(id).replaceChildren(...list.map(([value, word]) => {
    const input = el("input", { type: "radio", name, value });
    input.addEventListener("change", () => next(() => act(value)));
    return el("label", {}, input, el("span", {}, word));
  }));
  $(id).addEventListener("keydown", (e) => {
    if (e.altKey || e.ctrlKey || e.metaKey) return;
    const all = [...$(id).querySelectorAll("label:not([hidden]) input")];
    const i = all.indexOf(e.target);
    if (i < 0) return;
    if (e.key === "Enter") e.target.click();
    const to = { ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1, Home: 0, End: -1 }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    all.at(to % all.length).focus();
  });
}

function check(id, value) {
  for (const input of $(id).querySelectorAll("input")) input.checked = input.value === String(value);
}

// press puts a scenario in force. It returns the faults, or null if it failed.
export async function press(name) {
  const scenario = scenarios.find((s) => s.name === name);
  const faults = await change(name, async () => {
    if (known.traffic && (known.traffic.sick ?? 0) !== (scenario.sick ?? 0)) known.traffic = await ask("api/traffic", "PUT", { sick: scenario.sick ?? 0 });
    hear(await ask("api/faults", "PUT", faultsOf(scenario)), true);
    return known.faults;
  });
  draw();
  return faults;
}

// settingsOf returns what of the traffic can be set.
export const settingsOf = ({ perSecond, path, sick = 0 }) => ({ perSecond, path, sick });

// putBack restores faults and traffic as they were, or the faults that the server saw first if
// faults is null. It only changes what is still as put: the rest somebody has set since. After a
// step that a reload cut short that is not known, and it changes all. It reports whether it could.
// If not, it can be called again.
export async function putBack({ faults, traffic, put, cut = false }) {
  const done = await change("Putting back the faults", async () => {
    hear(await ask("api/faults"));
    if (cut || JSON.stringify(known.faults) === JSON.stringify(put.faults)) {
      hear(faults ? await ask("api/faults", "PUT", faults) : await ask("api/faults/reset", "POST"), true);
    }
    const now = settingsOf(await ask("api/traffic"));
    const back = Object.fromEntries(Object.entries(traffic).filter(([name]) => cut || now[name] === put.traffic[name]));
    known.traffic = await ask("api/traffic", "PUT", back);
    return true;
  });
  draw();
  return done;
}

// byHand is called when the visitor sets the faults, other than by the tour.
let byHand = () => {};
export function onHand(f) { byHand = f; }

choices("scenarios", "scenario", scenarios.map((s) => [s.name, s.name]), (name) => { byHand(); return press(name); });
choices("rates", "rate", [[0, "Off"], [5, "5"], [20, "20"], [50, "50"], [100, "100"], [200, "200"]], (perSecond) => setTraffic({ perSecond }));
choices("paths", "path", [["with", "With policy"], ["without", "Without"], ["both", "Both, to compare"]], (path) => setTraffic({ path }));

// setTraffic changes settings of the traffic. It returns the traffic, or null if it failed.
export async function setTraffic(settings) {
  const traffic = await change("Changing the traffic", () => ask("api/traffic", "PUT", settings));
  if (traffic) known.traffic = traffic;
  drawControls();
  return traffic;
}

// lastError says what failed last.
export const lastError = () => $("controls-error").textContent;

// A typed seed stays until it is set or dropped, also when the server sends another one.
let seedTyped = false;
$("seed").addEventListener("input", () => { seedTyped = true; text("seed-note", "the same seed, the same faults"); });
$("seed").addEventListener("keydown", (e) => { if (e.key === "Escape") { seedTyped = false; drawControls(); } });
$("seed-set").addEventListener("submit", (e) => {
  e.preventDefault();
  const seed = $("seed").value;
  next(() => setSeed(seed));
});

async function setSeed(seed) {
  const faults = await change("Setting the seed", async () => ask(`api/faults?seed=${encodeURIComponent(seed)}`, "PUT", known.faults ?? await ask("api/faults")));
  if (faults) {
    hear(faults, true);
    seedTyped = false;
  }
  text("seed-note", faults ? "set; the faults start over" : "the same seed, the same faults");
  drawControls();
}

$("reset").addEventListener("click", () => next(reset));

async function reset() {
  byHand();
  await change("Reset", async () => {
    if (known.settings.traffic) known.traffic = await ask("api/traffic", "PUT", known.settings.traffic);
    if (known.settings.faults) hear(await ask("api/faults/reset", "POST"), true);
  });
  seedTyped = false;
  draw();
}

export function drawControls() {
  const { traffic } = known;
  show("controls", Boolean(known.settings.faults || traffic));
  show("scenario-set", Boolean(known.settings.faults));
  show("seed-set", Boolean(known.settings.faults));
  if (known.seed !== null && !seedTyped) $("seed").value = known.seed;
  show("traffic-set", Boolean(traffic));
  noteFaults(scenarioName());
  for (const [i, s] of scenarios.entries()) $("scenarios").children[i].hidden = Boolean(s.sick) && !traffic?.maxSick;
  const current = scenarios.find((s) => matches(s, known.faults, traffic?.sick));
  check("scenarios", current?.name ?? "");
  text("scenario-note", current ? current.note : known.faults ? `now: ${scenarioName()}` : known.unanswered && !known.lost ? "not known: flaky-server does not answer" : "");
  if (!traffic) return;
  check("rates", traffic.perSecond);
  check("paths", traffic.path);
}
