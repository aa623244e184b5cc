// Elements of the page. Text from outside is always written as text, never as markup.

import { svg } from "./chart.js";

export { svg };

export const $ = (id) => document.getElementById(id);

export function el(tag, properties = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

export function icon(shape, kind = "") {
  return svg("svg", { class: `icon ${kind}`, "aria-hidden": "true" }, svg("use", { href: `#shape-${shape}` }));
}

// text sets an element's text only if it differs, so that a screen reader reads it once and a
// selection stays.
export function text(id, value) {
  const e = typeof id === "string" ? $(id) : id;
  if (e.textContent !== value) e.textContent = value;
}

// show shows or hides an element.
export function show(id, shown) {
  const e = typeof id === "string" ? $(id) : id;
  if (e.hidden === shown) e.hidden = !shown;
}

// meter sets a bar to a share from 0 to 1.
export function meter(id, share) { $(id).setAttribute("width", `${(100 * Math.min(1, Math.max(0, share || 0))).toFixed(2)}%`); }
