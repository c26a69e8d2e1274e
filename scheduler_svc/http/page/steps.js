// Who is in which step: a line for each job, a column for each step, the newest on the right.

import { shortId, tenantName } from "./dom.js";

const CELL = 7, LINE = 17, LABEL = 132, BARS = 44, GAP = 12, MAX_COLUMNS = 400, MAX_WAITING_LINES = 6, MAX_SHIFT = 60;
const NAMES = { p: "prefills", d: "decodes", l: "leaves", x: "preempted", w: "waits" };

export class Steps {
  constructor(canvas) {
    this.canvas = canvas;
    this.columns = []; // of the chosen lane: {n, cells: Map(key -> [doing, tokens]), rows, tokens}
    this.lines = []; // keys, in the place that each keeps until it has left the picture
    this.first = 0; // how many columns were dropped on the left: columns keep their numbers
    this.shift = 0; // columns that are still to slide in
    this.isPaused = false;
    this.maxRows = 1;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.colours = null;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.colours = null));
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
    this.tick = this.tick.bind(this);
    requestAnimationFrame(this.tick);
  }

  clear() {
    this.columns = [];
    this.lines = [];
    this.maxRows = 1;
    this.isStale = true;
  }

  // Takes a lane's frame; waiting: the keys of those that wait, in line or at the lane.
  take(frame, waiting) {
    if (this.isPaused) return;
    const name = (id) => (frame.names[id] ? frame.names[id].join(":") : null);
    for (const step of frame.steps) {
      const cells = new Map();
      for (const [id, doing, tokens] of step.rows) if (name(id)) cells.set(name(id), [doing, tokens]);
      // Who was let in waits until a step that names it is reported; who was preempted waits again.
      const waited = [...(this.columns.at(-1)?.cells ?? [])].filter(([key, [doing]]) => (doing === "w" || doing === "x") && !this.isOver?.(key));
      for (const key of [...waiting, ...waited.map(([key]) => key)]) if (!cells.has(key)) cells.set(key, ["w", 0]);
      this.columns.push({ n: step.n, us: step.us, cells, rows: step.num_rows, tokens: step.num_tokens });
      this.shift = Math.min(this.shift + 1, MAX_SHIFT); // a page in the background draws nothing
      for (const key of cells.keys()) if (!this.lines.includes(key)) this.enter(key);
    }
    if (this.columns.length > MAX_COLUMNS) this.columns.splice(0, this.columns.length - MAX_COLUMNS);
    this.isStale = true;
  }

  // A new job has the first line that nobody in the picture has.
  enter(key) {
    const free = this.lines.indexOf(null);
    if (free >= 0) this.lines[free] = key;
    else this.lines.push(key);
  }

  resize() {
    const scale = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * scale);
    this.canvas.height = Math.round(this.height * scale);
    this.canvas.getContext("2d").setTransform(scale, 0, 0, scale, 0, 0);
    this.isStale = true;
  }

  tick(nowMs) {
    // What has come slides in, the faster the more there is, however often we may draw.
    const passedMs = nowMs - (this.drawnMs ?? nowMs);
    this.drawnMs = nowMs;
    if (this.shift > 0) {
      const slid = Math.max(passedMs / 130, this.shift * (1 - Math.exp(-passedMs / 110)));
      this.shift = this.still.matches ? 0 : Math.max(0, this.shift - slid);
      this.isStale = true;
    }
    if (this.isStale && this.width) {
      this.isStale = false;
      this.draw(this.canvas.getContext("2d"));
    }
    requestAnimationFrame(this.tick);
  }

  palette() {
    if (this.colours) return this.colours;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    this.colours = { ink: colour("ink"), quiet: colour("quiet"), grid: colour("line"), bar: colour("accent") };
    for (const [doing, name] of Object.entries(NAMES)) this.colours[doing] = colour(name);
    this.colours.font = `12px ${colour("mono")}`;
    return this.colours;
  }

  draw(pen) {
    const colours = this.palette(), label = this.width < 560 ? 76 : LABEL;
    const numColumns = Math.max(1, Math.floor((this.width - label) / CELL));
    const seen = this.columns.slice(-numColumns - Math.ceil(this.shift));
    const numLines = Math.floor((this.height - BARS - GAP) / LINE);
    pen.clearRect(0, 0, this.width, this.height);
    const inPicture = new Set(seen.flatMap((column) => [...column.cells.keys()]));
    this.lines = this.lines.map((key) => (inPicture.has(key) ? key : null));
    while (this.lines.length && this.lines.at(-1) === null) this.lines.pop();
    const lines = this.chosen(seen, numLines);
    pen.font = colours.font;
    pen.textBaseline = "middle";
    this.drawLabels(pen, lines, seen.at(-1), label);
    pen.save();
    pen.beginPath();
    pen.rect(label, 0, this.width - label, this.height);
    pen.clip();
    const right = this.width + this.shift * CELL;
    seen.forEach((column, at) => {
      const x = right - (seen.length - at) * CELL;
      if (x + CELL >= label) this.drawColumn(pen, column, lines, x);
    });
    pen.restore();
    this.drawBarScale(pen, label);
  }

  // Lines that fit: those of whom the newest columns name, in their places.
  chosen(seen, numLines) {
    const kept = this.lines.filter((key) => key !== null);
    if (kept.length <= numLines) return this.lines.length <= numLines ? this.lines : kept;
    const newest = new Map();
    seen.forEach((column, at) => {
      for (const [key, [doing]] of column.cells) newest.set(key, doing === "w" ? at / 2 : at);
    });
    const best = new Set([...newest].sort((a, b) => b[1] - a[1]).slice(0, numLines).map(([key]) => key));
    return kept.filter((key) => best.has(key));
  }

  drawLabels(pen, lines, last, label) {
    const colours = this.palette();
    lines.forEach((key, at) => {
      if (key === null) return;
      const doing = last?.cells.get(key)?.[0];
      const [id, index] = [key.slice(0, key.lastIndexOf(":")), key.slice(key.lastIndexOf(":") + 1)];
      pen.fillStyle = doing && doing !== "w" ? colours.ink : colours.quiet;
      const text = shortId(id) + (index === "0" ? "" : `.${index}`);
      pen.fillText(text, 0, at * LINE + LINE / 2);
      const tenant = this.tenantOf?.(id);
      if (tenant && label === LABEL) {
        pen.fillStyle = colours.quiet;
        pen.fillText(clipped(tenantName(tenant), 7), 72, at * LINE + LINE / 2);
      }
    });
  }

  drawColumn(pen, column, lines, x) {
    const colours = this.palette();
    for (let at = 0; at < lines.length; at++) {
      const cell = lines[at] === null ? undefined : column.cells.get(lines[at]);
      if (!cell) continue;
      pen.fillStyle = colours[cell[0]];
      if (cell[0] === "w") pen.fillRect(x + 1.5, at * LINE + LINE / 2 - 1.5, CELL - 3, 3);
      else pen.fillRect(x, at * LINE + 1.5, CELL - 1, LINE - 3);
    }
    const height = (BARS * column.rows) / this.maxRows;
    pen.fillStyle = colours.bar;
    pen.globalAlpha = 0.55;
    pen.fillRect(x, this.height - height, CELL - 1, height);
    pen.globalAlpha = 1;
  }

  drawBarScale(pen, label) {
    const colours = this.palette();
    pen.fillStyle = colours.quiet;
    pen.fillText(label === LABEL ? "rows in the step" : "rows", 0, this.height - BARS / 2);
    pen.strokeStyle = colours.grid;
    pen.beginPath();
    pen.moveTo(label, this.height - 0.5);
    pen.lineTo(this.width, this.height - 0.5);
    pen.moveTo(label, this.height - BARS - 0.5);
    pen.lineTo(this.width, this.height - BARS - 0.5);
    pen.stroke();
    pen.textAlign = "right";
    pen.fillText(`${this.maxRows}`, label - 6, this.height - BARS + 2);
    pen.textAlign = "left";
  }

  // For those who do not see it.
  summary() {
    const last = this.columns.at(-1);
    if (!last) return "No step was seen yet.";
    const count = (doing) => [...last.cells.values()].filter(([each]) => each === doing).length;
    return `Step ${last.n}: ${count("d")} decode, ${count("p")} prefill, ${count("l")} leave, ${count("x")} are preempted, ${count("w")} wait.`;
  }
}

export const maxWaitingLines = MAX_WAITING_LINES;

const clipped = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
