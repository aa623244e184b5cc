// Requests to the server.

import { known } from "./state.js";

// ask returns the answer's JSON, or throws an error with the server's explanation and its status.
export async function ask(path, method = "GET", body) {
  const answer = await fetch(path, { method, body: body === undefined ? undefined : JSON.stringify(body), headers: body === undefined ? {} : { "Content-Type": "application/json" } });
  const json = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(json.detail || `the server answered ${answer.status}`), { status: answer.status });
  if (answer.headers.has("Rebound-Seed")) known.seed = answer.headers.get("Rebound-Seed"); // kept as text, because it may be too large for a number
  return json;
}
