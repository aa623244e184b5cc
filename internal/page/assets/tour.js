// The guided tour: five faults, each with what to look at and what would happen without the policy.

import { ask } from "./api.js";
import { lastError, next, onHand, press, putBack, setTraffic, settingsOf } from "./controls.js";
import { $, show, text } from "./dom.js";
import { known } from "./state.js";

const steps = [
  { title: "A transient error", scenario: "30 % errors", rate: 20,
    look: "Success: nearly every call succeeds, although the upstream answers only seven attempts in ten. Below, one call: red bars are failed attempts, hatched ones are waits.",
    without: "Three calls in ten would fail." },
  { title: "An outage", scenario: "Outage", rate: 20,
    look: "After a dozen failures the circuit opens. Callers then get an answer at once, and the line of attempts falls to a few probes.",
    without: "Every call would still be sent to an upstream that cannot answer, and wait for its failure." },
  { title: "An upstream that hangs", scenario: "Hanging", rate: 20,
    look: "No attempt gets more than 1.5 seconds. Then the circuit opens, and the time until an answer falls from seconds to less than a millisecond.",
    without: "Every call would hang until its caller gives up, here after five seconds." },
  { title: "One sick pod", scenario: "One sick endpoint", rate: 20,
    look: "One of three endpoints answers 503 at once. It is ejected after a few calls, and the others answer. The endpoints are in a list below the controls.",
    without: "One call in three would fail for as long as the pod is sick." },
  { title: "Overload", scenario: "Overload", rate: 100,
    look: "The upstream can do 40 attempts a second and gets 100 calls. After some seconds the concurrency limit refuses at once what is too much, and the calls that it lets through succeed.",
    without: "The upstream would get every call, and clients that retry without a budget would send it several times as much." },
];
let at = -1; // the step that is shown
let failure = ""; // why it is not in force
let over = remembered();

function remembered() {
  try { return localStorage.getItem("rebound-tour") === "over"; } catch { return false; }
}

// The faults and the traffic as they were before the tour, and what it put last, for this process
// of the server. They are kept in the tab, so that a reload in the middle of the tour does not lose
// them.
const BEFORE = "rebound-before-tour";
let kept = null; // in a browser that keeps nothing for pages

function before() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(BEFORE));
    if (stored) kept = stored;
  } catch { /* kept has it */ }
  return kept?.started === known.started ? kept : null;
}

function keep(what) {
  kept = what;
  try { what ? sessionStorage.setItem(BEFORE, JSON.stringify(what)) : sessionStorage.removeItem(BEFORE); } catch { /* kept has it */ }
}

onHand(() => keep(null)); // from then on, what is in force is the visitor's

// end hides the tour until its button is pressed, and puts back what it has changed.
function end() {
  over = true;
  at = -1;
  try { localStorage.setItem("rebound-tour", "over"); } catch { /* it is offered again */ }
  drawTour();
  $("summary").focus();
}

const AGAIN = 3000; // ms until putting back is tried again
let leaving = false;

// leave puts back what the tour has changed, as soon as the server takes it.
function leave() {
  if (leaving) return;
  leaving = true;
  next(async () => {
    const was = before();
    if (!was || await putBack(was)) {
      keep(null);
      leaving = false;
    } else {
      setTimeout(() => { leaving = false; }, AGAIN); // the next drawing tries again
    }
  });
}

function go(to) {
  at = to;
  failure = "";
  drawTour();
  $("tour-title").focus(); // so that a screen reader reads the step
  next(() => {
    if (!before()) {
      const { started, faults } = known;
      const traffic = settingsOf(known.traffic);
      keep({ started, faults, traffic, put: { faults, traffic } });
    }
    return put(to);
  });
}

// again begins the tour anew, after it was left.
function again() {
  over = false;
  try { localStorage.removeItem("rebound-tour"); } catch { /* it is offered again */ }
  go(0);
}

// put puts a step in force. If that fails, the step says so.
async function put(to) {
  const step = steps[to];
  keep({ ...before(), cut: true }); // until the end of this function
  const steady = known.traffic?.perSecond === step.rate && known.traffic?.path === "both";
  const sent = steady || await setTraffic({ perSecond: step.rate, path: "both" });
  let why = sent ? "" : lastError();
  const faults = await press(step.scenario);
  if (!faults) why = lastError();
  if (at === to) failure = why;
  drawTour();
  // The stream can be late, so known.traffic may still be that of before. If the page is left just
  // now, this fails, and what is in force stays unknown.
  const traffic = await ask("api/traffic").catch(() => null);
  const was = before();
  if (was && traffic) keep({ ...was, cut: false, put: { faults: faults ?? was.put.faults, traffic: settingsOf(traffic) } });
}

$("tour-next").addEventListener("click", () => {
  if (at + 1 < steps.length) go(at + 1);
  else end();
});
$("tour-back").addEventListener("click", () => go(at - 1));
$("tour-skip").addEventListener("click", end);
$("tour-again").addEventListener("click", again);

export function drawTour() {
  if (over && before()) leave();
  show("tour", Boolean(known.settings.tour) && !over);
  show("tour-again", Boolean(known.settings.tour) && over);
  const step = steps[at];
  $("tour").dataset.step = String(at + 1);
  show("tour-back", at > 0);
  show("tour-body", Boolean(step));
  text("tour-title", step ? `${at + 1} of ${steps.length}: ${step.title}` : "New here? A tour of five faults, two minutes.");
  text("tour-next", !step ? "Start the tour" : at + 1 < steps.length ? `Next: ${steps[at + 1].title.replace(/^./, (c) => c.toLowerCase())}` : "Finish");
  text("tour-skip", step ? "Leave the tour" : "No, thank you");
  if (!step) return;
  text("tour-look", step.look);
  text("tour-without", step.without);
  show("tour-failed", failure !== "");
  text("tour-failed", failure && `This step is not in force. ${failure}`);
}
