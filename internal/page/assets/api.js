// Requests to the server.

import { known } from "./state.js";

// A request without an answer is given up after this time, because the next change waits for it.
const PATIENCE = 10_000; // ms

// ask returns the answer's JSON, or throws an error with the server's explanation and its status.
export async function ask(path, method = "GET", body) {
  const signal = AbortSignal.timeout(PATIENCE);
  const late = (err) => { throw signal.aborted ? new Error("the server did not answer in time") : err; };
  const answer = await fetch(path, { method, signal, body: body === undefined ? undefined : JSON.stringify(body), headers: body === undefined ? {} : { "Content-Type": "application/json" } }).catch(late);
  const json = await answer.json().catch((err) => (signal.aborted ? late(err) : {}));
  if (!answer.ok) throw Object.assign(new Error(json.detail || `the server answered ${answer.status}`), { status: answer.status });
  if (answer.headers.has("Rebound-Seed")) known.seed = answer.headers.get("Rebound-Seed"); // kept as text, because it may be too large for a number
  return json;
}
