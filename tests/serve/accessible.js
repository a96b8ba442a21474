// Faults of a page: names, labels, structure, contrast (WCAG 2 AA, 4.5 to 1).
(() => {
  const faults = [];
  const all = (selector) => document.querySelectorAll(selector);
  const shown = (e) => e.offsetParent !== null;
  for (const e of all("button, a, summary")) {
    if (shown(e) && !(e.textContent.trim() || e.getAttribute("aria-label"))) faults.push(["no name", e.outerHTML]);
  }
  for (const e of all("input, textarea, progress")) {
    if (!(e.labels && e.labels.length) && !e.getAttribute("aria-label")) faults.push(["no label", e.outerHTML]);
  }
  for (const name of ["aria-controls", "aria-labelledby"]) {
    for (const e of all(`[${name}]`)) if (!document.getElementById(e.getAttribute(name))) faults.push(["no target", e.outerHTML]);
  }
  const ids = [...all("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) faults.push(["ids twice", ids.join()]);
  if (!document.documentElement.lang || all("main").length !== 1 || all("h1").length !== 1) faults.push(["structure", ""]);
  const numbers = (colour) => (colour.match(/[0-9.]+/g) || []).map(Number);
  const part = (value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map(part);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  for (const e of all("button, h1, h2, small, label, summary, .text, footer, #status, #cutwords, .legend")) {
    if (!shown(e) || !e.textContent.trim() || e.disabled) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(back(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faults.push([`contrast ${contrast.toFixed(2)}`, e.outerHTML.slice(0, 100)]);
  }
  return faults;
})();
