// The whole history as one strip, oldest first: the darker, the finer the model sees it.

const LEVELS = ["--l0", "--l1", "--l2", "--l3"];

export function draw(canvas, runs, total) {
  const scale = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * scale));
  const height = Math.round(28 * scale);
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const colours = LEVELS.map((name) => style.getPropertyValue(name).trim());
  pen.fillStyle = style.getPropertyValue("--panel").trim();
  pen.fillRect(0, 0, width, height);
  if (!total) return;
  // Coarse first, so that a passage of a few tokens in a million still has its pixel.
  for (let level = 9; level >= 0; level--) {
    pen.fillStyle = colours[Math.min(level, colours.length - 1)];
    for (const [start, stop, at] of runs) {
      if (at !== level) continue;
      const left = Math.floor((start / total) * width);
      pen.fillRect(left, 0, Math.max(scale, Math.ceil((stop / total) * width) - left), height);
    }
  }
}

export function words(cut) {
  const count = (n) => n.toLocaleString("en");
  const raw = cut.runs.filter((run) => run[2] === 0).reduce((sum, run) => sum + run[1] - run[0], 0);
  return `${count(cut.tokens)} tokens of history in ${count(cut.entries)} of ${count(cut.budget)} entries, ${count(raw)} word for word`;
}

export const tokenAt = (canvas, x, total) => Math.floor(((x - canvas.getBoundingClientRect().left) / canvas.clientWidth) * total);
