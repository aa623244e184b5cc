// Numbers, times and names as text.

import { count, duration } from "./chart.js";

export { count, duration, tick, tickText } from "./chart.js";

export const percent = (part, whole) => {
  if (!whole) return "–";
  const p = (100 * part) / whole;
  if (part < whole && p > 99.9) return "99.9 %"; // never 100 while one failed
  if (part > 0 && p < 0.1) return "0.1 %";
  return `${p.toFixed(p === 0 || p === 100 ? 0 : 1)} %`;
};

export const rate = (n) => (n >= 100 ? count(n) : n.toFixed(1));
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export const whole = (ms) => duration(ms).replace(/\.0+ /, " ");
export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

// words turns a reason's name into text.
export const words = (reason) => String(reason).replace(/^status_/, "status ").replace(/^grpc_/, "gRPC ").replaceAll("_", " ");

// statusOf returns the status of a call or an attempt: that of gRPC, or else that of HTTP.
export const statusOf = (of) => of.grpc?.status ?? (of.status ? String(of.status) : "");

// clipped returns the beginning of a text of any length.
export const clipped = (s, most) => (s.length > most ? `${s.slice(0, most)}…` : s);
