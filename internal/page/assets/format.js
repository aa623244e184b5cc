// Numbers, times and names as text. internal/chart writes numbers and times alike for the pages of
// lab, and places the marks of an axis alike.

export const percent = (part, whole) => {
  if (!whole) return "–";
  const p = (100 * part) / whole;
  if (part < whole && p > 99.9) return "99.9 %"; // never 100 while one failed
  if (part > 0 && p < 0.1) return "0.1 %";
  return `${p.toFixed(p === 0 || p === 100 ? 0 : 1)} %`;
};

export const count = (n) => Math.round(n).toLocaleString("en-US");
export const rate = (n) => (n >= 100 ? count(n) : n.toFixed(1));
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export function duration(ms) {
  if (ms >= 59_950) return `${(ms / 60_000).toFixed(1)} min`;
  if (ms >= 9_995) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 999.5) return `${(ms / 1000).toFixed(2)} s`;
  if (ms >= 99.95) return `${ms.toFixed(0)} ms`;
  if (ms >= 0.95) return `${ms.toFixed(1)} ms`;
  return `${ms.toFixed(2)} ms`;
}

export const whole = (ms) => duration(ms).replace(/\.0+ /, " ");
export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

// words turns a reason's name into text.
export const words = (reason) => String(reason).replace(/^status_/, "status ").replace(/^grpc_/, "gRPC ").replaceAll("_", " ");

// statusOf returns the status of a call or an attempt: that of gRPC, or else that of HTTP.
export const statusOf = (of) => of.grpc?.status ?? (of.status ? String(of.status) : "");

// clipped returns the beginning of a text of any length.
export const clipped = (s, most) => (s.length > most ? `${s.slice(0, most)}…` : s);

// tick returns the distance of a scale's marks, so that there are at most this many.
export function tick(range, most) {
  const power = 10 ** Math.floor(Math.log10(range / most));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => range / n <= most) ?? 10 * power;
}

export function tickText(ms, step) {
  if (ms >= 1000) return `${Number((ms / 1000).toFixed(step >= 1000 ? 0 : step >= 100 ? 1 : 2))} s`;
  return `${Number(ms.toFixed(step >= 1 ? 0 : step >= 0.1 ? 1 : 2))} ms`;
}
