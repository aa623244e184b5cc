// The live page: draws what api/live sends. This module connects the other ones.

import { askFaults, drawControls } from "./controls.js";
import { curl, disown, followNewest } from "./call.js";
import { drawRows, offer, restartList, setReasons } from "./calls.js";
import { cause, drawBreaker, stateWord } from "./circuit.js";
import { show, text } from "./dom.js";
import { drawCompare } from "./compare.js";
import { drawEndpoints, sayChanges } from "./endpoints.js";
import { clock, plural } from "./format.js";
import { drawHistory } from "./history.js";
import { drawNow, drawSummary } from "./now.js";
import { atChosen, chosenSeries, draw, known, merge, ofChosen, onDraw } from "./state.js";
import { connect } from "./stream.js";
import { drawTour } from "./tour.js";
import { choose, drawUpstreams } from "./upstreams.js";

function take(update) {
  merge(update);
  if (update.reset) {
    disown();
    suggest();
    setReasons();
    restartList();
  } else {
    announce(update);
  }
  for (const call of update.calls ?? []) for (const a of call.attempts) offer(a.reason);
  if (known.settings.faults && known.faultsVersion !== (update.faultsVersion ?? 0)) {
    known.faultsVersion = update.faultsVersion ?? 0;
    askFaults();
  }
}

// announce tells screen readers that the chosen circuit is no longer closed, or closed again, and
// what happened to its upstream's endpoints: one announcement for each update. Failed probes in
// between are in the list of changes only.
function announce(update) {
  const t = update.transitions?.findLast((t) => ofChosen(t) && (t.from === "closed" || t.to === "closed"));
  const said = [
    t ? `Circuit ${stateWord[t.to].toLowerCase()}: ${cause(t)}` : "",
    sayChanges((update.endpointChanges ?? []).filter(atChosen)),
  ].filter(Boolean);
  if (said.length) text("announce", said.join(". "));
}

// suggest shows a call to try while there are none.
function suggest() {
  const { example } = known.settings;
  show("try", Boolean(example));
  if (example) text("try-line", curl({ method: "GET", url: example }));
}

onDraw(() => {
  choose();
  const s = chosenSeries();
  drawSummary(s);
  drawNow(s);
  drawBreaker(s);
  drawUpstreams();
  drawEndpoints(s);
  drawControls();
  drawCompare();
  drawTour();
  followNewest();
  drawRows();
  drawHistory(s);
  text("foot", `${plural(known.total, "call")} since ${clock(known.started)}` +
    (known.dropped ? ` · ${plural(known.dropped, "page")} dropped for reading too slowly` : "") +
    " · times are the server’s, in your time zone");
});

drawHistory(undefined, true);
connect({ take, draw, moment: () => drawBreaker(chosenSeries()), lost: () => { drawBreaker(chosenSeries()); drawControls(); } });
