// Charts over time: on the live page, and on the pages of lab, which have this module in them. It
// imports nothing and loads nothing. A chart is drawn in pixels of its own width, so that its text
// has the same size at every width.

const EDGE = { left: 46, right: 10, top: 8, bottom: 6 };
const PAPER = 620; // px: A4 and Letter are at least that wide, without margins; A5 shrinks a chart to 559

export const count = (n) => Math.round(n).toLocaleString("en-US");

export function duration(ms) {
  if (ms >= 59_950) return `${(ms / 60_000).toFixed(1)} min`;
  if (ms >= 9_995) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 999.5) return `${(ms / 1000).toFixed(2)} s`;
  if (ms >= 99.95) return `${ms.toFixed(0)} ms`;
  if (ms >= 0.95) return `${ms.toFixed(1)} ms`;
  return `${ms.toFixed(2)} ms`;
}

// tick returns the distance of a scale's marks, so that there are at most this many.
export function tick(range, most) {
  const power = 10 ** Math.floor(Math.log10(range / most));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => range / n <= most) ?? 10 * power;
}

export function tickText(ms, step) {
  if (ms >= 1000) return `${Number((ms / 1000).toFixed(step >= 1000 ? 0 : step >= 100 ? 1 : 2))} s`;
  return `${Number(ms.toFixed(step >= 1 ? 0 : step >= 0.1 ? 1 : 2))} ms`;
}

// units write values and the marks of an axis. least is the distance from which marks differ.
export const units = {
  count: { say: count, mark: count, least: 1 },
  time: { say: duration, mark: tickText, least: 0 },
  level: { say: (n) => n.toFixed(1), mark: (n) => (n >= 1000 ? count(n) : String(Number(n.toFixed(2)))), least: 0 },
};

export function svg(tag, attributes = {}, ...children) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

function html(tag, name, ...children) {
  const e = document.createElement(tag);
  if (name) e.className = name;
  e.append(...children);
  return e;
}

// group joins charts of the same axis: who points at one of them points at all. It calls moved when
// the pointer has moved. tell writes a time, or null for none, for screen readers, if no legend has
// it.
export function group(moved = () => {}, tell = () => "") {
  const charts = [];
  const g = { charts, tell, share: null, paper: false, right: EDGE.right };
  g.point = (share) => {
    g.share = share;
    for (const c of charts) c.point(true);
    moved();
  };
  // A finger has no place where it rests, so a touch elsewhere ends the pointing.
  addEventListener("pointerdown", (e) => { if (e.pointerType === "touch" && g.share !== null && !e.target.closest?.(".plot")) g.point(null); });
  // at returns the time that is pointed at, or null: also without a view, before the first data.
  g.at = (view) => (g.share === null || !view ? null : view.from + g.share * (view.to - view.from));
  const print = (paper) => () => {
    g.paper = paper;
    for (const c of charts) c.render();
  };
  addEventListener("beforeprint", print(true));
  addEventListener("afterprint", print(false));
  return g;
}

// chart appends a chart to parent and returns the function that draws a view of it:
//
//   { from, to, step, points, rest, shades, marks }
//
// All times are in ms. There is a point for each step from the first one on, with its time in at.
// rest is the point whose values are shown while nobody points at another. shades are coloured
// spans {kind, from, to}, and marks are times.
//
// A line {name, word, unit, of, top, right, area} has the value of(point), or a gap where that is
// null. top is the least end of its axis. A key without of has read(at, near) instead: a text for
// the legend, or null for none. near tells whether a time is close to where the pointer is.
// moment writes a time below the axis, which has marks at every distance from origin(view). paint
// draws something else than lines.
export function chart(parent, { title, height, lines, moment, origin, paint }, g) {
  const plot = svg("svg", { class: "plot", height, preserveAspectRatio: "xMinYMid", role: "slider", tabindex: g.charts.length ? "-1" : "0", "aria-label": title, "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0, "aria-valuetext": lines.map((l) => l.word).filter(Boolean).join(", ") });
  const pointer = svg("line", { class: "cursor", y1: 0, y2: height - (moment ? 20 : 0) });
  const keys = lines.map((line) => {
    const value = html("span", "value");
    const sample = line.of ? [svg("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, svg("path", { class: `line-${line.name}`, d: "M0 4H22" }))] : [];
    return { line, value, key: html("span", "key", ...sample, line.word, value) };
  });
  parent.append(html("div", "chart", html("div", "chart-head", html("b", "", title), ...keys.map((k) => k.key)), plot));
  const drawn = lines.filter((l) => l.of);
  if (drawn.some((l) => l.right)) g.right = EDGE.left;

  let view = null;
  let width = 0;
  const bottom = height - (moment ? 20 : EDGE.bottom);
  const right = () => width - g.right;
  const steps = () => Math.max(1, Math.round((view.to - view.from) / view.step));
  const x = (ms) => EDGE.left + ((Math.min(view.to, Math.max(view.from, ms)) - view.from) / (view.to - view.from)) * (right() - EDGE.left);

  // axisOf returns the scale of the lines of one side. The right one has as many marks as the left
  // one, so that the same grid leads to them.
  function axisOf(of, marks) {
    let top = Math.max(...of.map((l) => l.top));
    for (const l of of) for (const p of view.points) top = Math.max(top, l.of(p) ?? 0);
    const { unit } = of[0];
    const step = Math.max(unit.least, tick(top, marks || 3));
    const number = marks || Math.ceil(top / step - 1e-9);
    const y = (v) => bottom - (v / (number * step)) * (bottom - EDGE.top);
    return { marks: number, y, at: (i) => y(i * step).toFixed(1), text: (i) => (i ? unit.mark(i * step, step) : "0") };
  }

  function curves() {
    const parts = view.shades.map(({ kind, from, to }) =>
      svg("rect", { class: `shade-${kind}`, x: x(from).toFixed(1), width: Math.max(0.5, x(to) - x(from)).toFixed(1), y: EDGE.top, height: bottom - EDGE.top }));
    for (const at of view.marks) if (at > view.from && at < view.to) parts.push(svg("line", { class: "fault-line", x1: x(at).toFixed(1), x2: x(at).toFixed(1), y1: EDGE.top, y2: bottom }));
    const rights = drawn.filter((l) => l.right);
    const left = axisOf(drawn.filter((l) => !l.right));
    const other = rights.length ? axisOf(rights, left.marks) : null;
    for (let i = 0; i <= left.marks; i++) {
      const y = Number(left.at(i)) + 4;
      parts.push(svg("line", { class: "grid", x1: EDGE.left, x2: right(), y1: left.at(i), y2: left.at(i) }), svg("text", { x: EDGE.left - 6, y, "text-anchor": "end" }, left.text(i)));
      if (other) parts.push(svg("text", { x: right() + 6, y }, other.text(i)));
    }
    for (const l of drawn) {
      const { y } = l.right ? other : left;
      const pieces = [];
      let piece = null;
      for (const p of view.points) {
        const v = l.of(p);
        if (v === null) { piece = null; continue; }
        if (!piece) pieces.push(piece = []);
        piece.push(`${x(p.at + view.step / 2).toFixed(1)} ${y(v).toFixed(1)}`);
      }
      if (l.area) parts.push(svg("path", { class: `area-${l.name}`, d: pieces.map((p) => `M${p.join("L")}V${bottom}H${p[0].split(" ")[0]}Z`).join("") }));
      // The dot keeps a single point visible.
      parts.push(svg("path", { class: `line-${l.name}`, d: pieces.map(([first, ...more]) => `M${[`${first}h0.01`, ...more].join("L")}`).join("") }));
    }
    return parts;
  }

  // times returns the marks below the axis: whole numbers of seconds, minutes or hours apart.
  function times() {
    const most = Math.min(7, Math.floor((right() - EDGE.left) / 64));
    const distances = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600].map((s) => 1000 * s);
    const every = distances.find((ms) => (view.to - view.from) / ms <= most) ?? 3_600_000 * tick((view.to - view.from) / 3_600_000, most);
    const zero = origin(view);
    const words = [];
    for (let i = Math.ceil((view.from - zero) / every); zero + i * every <= view.to; i++) {
      const place = x(zero + i * every);
      const anchor = place > right() - 20 ? "end" : place < EDGE.left + 20 ? "start" : "middle";
      words.push(svg("text", { x: place.toFixed(1), y: height - 4, "text-anchor": anchor }, moment(zero + i * every, view)));
    }
    return words;
  }

  function render() {
    if (!view) return;
    width = g.paper ? PAPER : Math.max(200, plot.clientWidth || parent.clientWidth);
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.replaceChildren(...(paint ? paint(view, { x, left: EDGE.left, right: right() }) : curves()), ...(moment ? times() : []));
    point();
  }

  // point shows the values where the pointer is. It leaves the drawing as it is. moved tells that
  // the visitor has moved the pointer.
  function point(moved = false) {
    if (!view) return;
    const at = g.at(view);
    if (at === null) {
      pointer.remove();
    } else {
      pointer.setAttribute("x1", x(at).toFixed(1));
      pointer.setAttribute("x2", x(at).toFixed(1));
      plot.append(pointer);
    }
    const point = at === null ? view.rest : view.points[Math.floor((at - view.points[0]?.at) / view.step)] ?? null;
    const reach = Math.max(view.step / 2, (4 * (view.to - view.from)) / (right() - EDGE.left));
    const near = (ms) => at !== null && Math.abs(ms - at) <= reach;
    const said = keys.map(({ line, value, key }) => {
      const v = point && line.of ? line.of(point) : null;
      const text = line.read ? line.read(at, near) : point === undefined ? "" : v === null ? "–" : line.unit.say(v);
      if (value.textContent !== (text ?? "")) value.textContent = text ?? "";
      key.hidden = text === null;
      return text ? `${line.word} ${text}` : "";
    });
    // A screen reader reads each change of the one that has the focus: those that the visitor makes
    // are enough.
    if (!moved && document.activeElement === plot && plot.hasAttribute("data-read")) return;
    plot.toggleAttribute("data-read", true);
    const last = steps() - 1;
    plot.setAttribute("aria-valuemax", last);
    plot.setAttribute("aria-valuenow", at === null ? last : Math.min(last, Math.floor(g.share * steps())));
    plot.setAttribute("aria-valuetext", [g.tell(at), ...said].filter(Boolean).join(", ") || lines.map((l) => l.word).filter(Boolean).join(", "));
  }

  const follow = (e) => {
    if (!view) return; // the chart has no width yet
    const box = plot.getBoundingClientRect();
    const share = (e.clientX - box.left - EDGE.left) / (right() - EDGE.left);
    g.point(share >= 0 && share <= 1 ? share : null);
  };
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow); // a finger that taps does not move
  plot.addEventListener("pointerleave", (e) => { if (e.pointerType !== "touch") g.point(null); }); // nor does it stay
  // All charts of a group are one stop of the tab key: a page can have many.
  plot.addEventListener("focus", () => { for (const c of g.charts) c.plot.setAttribute("tabindex", c.plot === plot ? "0" : "-1"); });
  plot.addEventListener("keydown", (e) => {
    if (e.altKey || e.ctrlKey || e.metaKey) return; // the browser's, such as Alt and Left
    const other = { ArrowUp: -1, ArrowDown: 1 }[e.key];
    if (other) {
      const to = g.charts[g.charts.findIndex((c) => c.plot === plot) + other]?.plot;
      if (!to) return; // the page scrolls
      e.preventDefault();
      to.focus();
      return;
    }
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[e.key];
    if (!view || !by && e.key !== "Escape") return;
    e.preventDefault();
    if (!by) return g.point(null);
    const old = g.share === null ? (by < 0 ? steps() : -1) : Math.floor(g.share * steps());
    g.point((Math.min(steps() - 1, Math.max(0, old + by)) + 0.5) / steps());
  });
  new ResizeObserver(() => {
    if (!g.paper && plot.clientWidth !== width) render();
  }).observe(plot);
  g.charts.push({ plot, render, point });
  return (next) => { view = next; render(); };
}
