// A list whose rows are buttons is one stop of the tab key. Arrow keys, Home and End move in it.

export function oneStop(region, selector) {
  let at = null; // the button that tab reaches
  const all = () => [...region.querySelectorAll(selector)];
  const move = (to) => {
    if (at && at !== to) at.tabIndex = -1;
    at = to;
    if (at) at.tabIndex = 0;
  };
  region.addEventListener("focusin", (e) => { if (e.target.matches(selector)) move(e.target); });
  region.addEventListener("keydown", (e) => {
    const list = all();
    const i = list.indexOf(document.activeElement);
    const to = { ArrowDown: i + 1, ArrowUp: i - 1, Home: 0, End: list.length - 1 }[e.key];
    if (i < 0 || to === undefined) return;
    e.preventDefault();
    list[Math.min(list.length - 1, Math.max(0, to))].focus();
  });
  return {
    // update is to be called when buttons came or went.
    update() {
      const list = all();
      for (const b of list) if (b !== at) b.tabIndex = -1;
      if (!region.contains(at)) { at = null; move(list[0] ?? null); }
    },
  };
}
