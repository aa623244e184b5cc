// Draws the figures of a page of lab from the data in them, in place of their tables. It follows
// chart.js in the same module.

const every = group();
const figures = [...document.querySelectorAll("figure")].map((figure) => {
  const { title, lines, seconds, disturbance, rows } = JSON.parse(figure.querySelector("script").textContent);
  const draw = chart(figure, {
    title, height: 156, origin: () => 0, moment: (ms) => `${ms / 1000} s`,
    lines: [
      ...lines.map((l, i) => ({ ...l, unit: units[l.unit], of: (point) => point.values[i] })),
      { word: "second", read: (at) => (at === null ? null : String(Math.floor(at / 1000))) },
    ],
  }, every);
  const [from, to] = disturbance.map((s) => 1000 * s);
  return () => {
    draw({
      from: 0, to: 1000 * seconds, step: 1000, points: rows.map((values, i) => ({ at: 1000 * i, values })),
      shades: [{ kind: "disturbance", from, to }], marks: [from, to],
    });
    figure.querySelector("table").remove(); // not before: a browser that cannot draw keeps it
  };
});
for (const draw of figures) draw(); // when the margins of all are known
