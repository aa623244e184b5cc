// The faults that can be pressed, and the names of others. This module touches no element.

import { count, percent, plural } from "./format.js";

const nothing = {
  errorRate: 0, resetRate: 0, truncateRate: 0, hangRate: 0, slowBodyRate: 0, failFirst: 0, retryAfter: "",
};
export const scenarios = [
  { name: "Healthy", faults: {}, note: "every attempt works" },
  { name: "30 % errors", faults: { errorRate: 0.3 }, note: "three attempts in ten answer 503" },
  { name: "Slow", faults: { latency: { distribution: "lognormal", median: "250ms", p99: "2s" } }, note: "half of the answers take over 250 ms, one in a hundred over 2 s" },
  { name: "One sick endpoint", faults: {}, sick: 1, note: "one endpoint answers 503 to everything, the others work" },
  { name: "Outage", faults: { errorRate: 1 }, note: "every attempt answers 503" },
  { name: "Hanging", faults: { hangRate: 1 }, note: "attempts are accepted and never answered" },
  { name: "Overload", faults: { capacity: { workers: 2, serviceTime: "50ms", queue: 20 } }, note: "two workers of 50 ms each: more than 40 attempts a second are too many" },
];

// usual is the latency of the demo's upstream without other faults.
export const usual = { distribution: "lognormal", median: "25ms", p99: "60ms" };

// matches reports whether faults, with this many sick endpoints, are a scenario's.
export function matches(scenario, f, sick = 0) {
  if (!f || (f.schedule ?? []).length || (scenario.sick ?? 0) !== sick) return false;
  const wanted = { ...nothing, ...scenario.faults };
  for (const name of Object.keys(nothing)) if (f[name] !== wanted[name]) return false;
  const latencies = scenario.faults.latency ? [scenario.faults.latency] : [{ distribution: "none" }, usual];
  if (!latencies.some((latency) => Object.entries(latency).every(([name, value]) => f.latency?.[name] === value))) return false;
  if (wanted.errorRate > 0 && String(f.statuses ?? [503]) !== "503") return false;
  const capacity = scenario.faults.capacity;
  if (!capacity) return !f.capacity?.workers;
  return Object.keys(capacity).every((name) => f.capacity?.[name] === capacity[name]);
}

// nameOf describes faults with this many sick endpoints. It is empty if they are not known.
export function nameOf(f, sick = 0) {
  if (!f) return "";
  const s = scenarios.find((s) => matches(s, f, sick));
  if (s) return s.name;
  const rates = [["errorRate", "errors"], ["resetRate", "resets"], ["truncateRate", "cut bodies"], ["hangRate", "hanging"], ["slowBodyRate", "slow bodies"]]
    .filter(([name]) => f[name] > 0).map(([name, word]) => `${percent(f[name], 1).replace(".0", "")} ${word}`);
  if (f.errorRate > 0 && String(f.statuses ?? [503]) !== "503") rates[0] += ` (${f.statuses.join(", ")})`;
  if (f.failFirst > 0) rates.push(f.failFirst === 1 ? "the first attempt of each call fails" : `the first ${count(f.failFirst)} attempts of each call fail`);
  if (f.capacity?.workers) rates.push(`${plural(f.capacity.workers, "worker")}, ${f.capacity.serviceTime} a call`);
  if (f.latency && f.latency.distribution !== "none") rates.push(`${f.latency.distribution} latency`);
  if ((f.schedule ?? []).length) rates.push("on a schedule");
  if (sick) rates.push(plural(sick, "sick endpoint"));
  const list = rates.join(", ") || "own faults";
  return list[0].toUpperCase() + list.slice(1);
}
