// The connection to the server. EventSource reconnects by itself and sends the ID of the last
// event. It gives up when the server refuses it, and then this module connects again.

import { $, show, text } from "./dom.js";
import { duration } from "./format.js";
import { known } from "./state.js";

const STALE = 3000; // ms without an event; the server sends one each second
const DEAD = 8000; // ms without an event until reconnecting; a lost connection may give no error

let source;
let askedAt = 0;
let lastEvent = 0;
let brokenSince = 0;
let handlers;

// connect opens the stream. It calls take with each update, then draw; and between updates it
// calls moment five times a second.
export function connect(to) {
  handlers = to;
  open();
  setInterval(watch, 200);
}

function open() {
  source = new EventSource("api/live");
  askedAt = performance.now();
  source.addEventListener("update", (e) => {
    lastEvent = performance.now();
    brokenSince = 0;
    try {
      handlers.take(JSON.parse(e.data));
    } catch (err) {
      connection("failed", `This page cannot read the server's data: ${err.message}`);
      source.close();
      throw err;
    }
    connection("live", "Live");
    handlers.draw();
  });
  source.addEventListener("error", () => {
    brokenSince ||= performance.now();
    connection("reconnecting", "Reconnecting");
    if (source.readyState === EventSource.CLOSED) setTimeout(open, 2000);
  });
}

function connection(state, word) {
  document.body.dataset.connection = state;
  text("connection", word);
  const shape = { live: "closed", reconnecting: "again", stale: "late", failed: "bad" }[state];
  $("connection-shape").setAttribute("href", `#shape-${shape}`);
  if (state === "live") text("connection-for", "");
  const lost = ["stale", "reconnecting", "failed"].includes(state) && lastEvent > 0;
  if (lost === known.lost) return;
  known.lost = lost;
  if (lost) handlers.lost();
  show("lost", lost);
  document.body.classList.toggle("gone", lost);
  for (const e of document.querySelectorAll("main fieldset, main select, .bar select, main button")) {
    if (!e.closest("td")) e.disabled = lost;
  }
  // A disabled button would lose the focus. The rows know that they do nothing now.
  for (const e of document.querySelectorAll("main td button")) e.ariaDisabled = lost ? "true" : null;
}

// watch shows when no events arrive.
function watch() {
  const now = performance.now();
  if (document.body.dataset.connection === "live" && now - lastEvent > STALE) connection("stale", "Stale");
  if (document.body.dataset.connection === "stale") text("connection-for", `no news for ${duration(now - lastEvent)}`);
  if (source.readyState !== EventSource.CLOSED && now - Math.max(lastEvent, askedAt) > DEAD) {
    source.close();
    brokenSince ||= now;
    connection("reconnecting", "Reconnecting");
    open();
  }
  if (brokenSince) {
    text("connection-for", lastEvent ? `what you see is ${duration(now - lastEvent)} old` : `for ${duration(now - brokenSince)}`);
  }
  if (known.lost) text("lost-for", `Nothing below is current: it is ${duration(now - lastEvent)} old.`);
  if (document.body.dataset.connection === "live") handlers.moment();
}
