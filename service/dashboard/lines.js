/** The same weights as lines from tokens to tokens: only the strongest of each query, for more than a few of them say nothing. */

import { fill, make, makeChoice, onceAFrame } from "./dom.js";
import { percent, visible } from "./number.js";
import { partOf } from "./part.js";
import { strongest } from "./row.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {{by: "top" | "mass", top: number, mass: number}} Rule which keys of a query get a line */

/** Height of a token's line in pixels. */
const STEP = 24;
/** Most tokens at either side: of a longer text, those around the one that is looked at. */
const MOST = 200;

/**
 * @param {Session} session
 * @returns {HTMLElement}
 */
export function makeLines(session) {
  /** @type {Rule} */
  const rule = { by: "top", top: 2, mass: 0.7 };
  const canvas = make("canvas", {
    class: "lines-canvas",
    role: "img",
    "aria-label": "Lines from each token to those it looks at; the table has the figures",
  });
  const [left, right] = [make("ol", { class: "lines-tokens lines-from" }), make("ol", { class: "lines-tokens lines-to" })];
  const said = make("p", { class: "muted lines-said" });
  const stage = make("div", { class: "lines-stage" }, left, canvas, right);
  const view = new Lines(session, canvas, left, right);
  const draw = onceAFrame(() => fill(said, view.draw(rule)));
  left.addEventListener("pointermove", (event) => view.look(event));
  left.addEventListener("pointerleave", () => session.store.set({ hover: null }));
  left.addEventListener("click", (event) => view.lock(event));
  session.store.follow(["map", "hidesSpecial"], () => {
    view.name();
    draw();
  });
  session.store.follow(["hover", "locked"], () => draw());
  new ResizeObserver(() => draw()).observe(stage);
  document.addEventListener("themechange", () => draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  return make(
    "div",
    { class: "lines" },
    makeRule(rule, () => draw()),
    make("div", { class: "lines-scroll" }, stage),
    said,
  );
}

/**
 * @param {Rule} rule
 * @param {() => void} onChange
 * @returns {HTMLElement}
 */
function makeRule(rule, onChange) {
  const slider = make("input", { type: "range", "aria-label": "How much" });
  const said = make("output", { class: "figure" });
  const set = () => {
    const isTop = rule.by === "top";
    [slider.min, slider.max, slider.step] = isTop ? ["1", "8", "1"] : ["0.1", "0.99", "0.01"];
    slider.value = String(rule[rule.by]);
    tell();
  };
  const tell = () => {
    fill(said, rule.by === "top" ? `${rule.top} each` : percent(rule.mass));
    onChange();
  };
  slider.oninput = () => {
    rule[rule.by] = Number(slider.value);
    tell();
  };
  const choice = makeChoice(
    "Which lines",
    [
      ["top", "Strongest"],
      ["mass", "Share of the weight"],
    ],
    rule.by,
    (by) => {
      rule.by = /** @type {Rule["by"]} */ (by);
      set();
    },
  );
  set();
  return make("div", { class: "lines-rule" }, choice, slider, said);
}

class Lines {
  /**
   * @param {Session} session
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLElement} left
   * @param {HTMLElement} right
   */
  constructor(session, canvas, left, right) {
    this.session = session;
    this.canvas = canvas;
    this.sides = { left, right };
    /** @type {import("./part.js").Part | null} */
    this.part = null;
    this.start = { rows: 0, columns: 0 };
  }

  /** Write the tokens on both sides. */
  name() {
    const { session } = this;
    this.part = partOf(session);
    const group = session.group;
    if (!this.part || !group) return;
    const start = (/** @type {number[]} */ tokens, /** @type {number | undefined} */ near) =>
      Math.max(0, Math.min(tokens.indexOf(near ?? tokens[0]) - MOST / 2, tokens.length - MOST));
    this.start = { rows: start(this.part.rows, session.cell?.query), columns: start(this.part.columns, session.cell?.key) };
    const list = (/** @type {number[]} */ indices, /** @type {string[]} */ tokens, /** @type {number} */ first) =>
      indices
        .slice(first, first + MOST)
        .map((index) => make("li", { class: "lines-token", "data-index": index }, visible(tokens[index])));
    fill(this.sides.left, list(this.part.rows, group.queries, this.start.rows));
    fill(this.sides.right, list(this.part.columns, group.keys, this.start.columns));
  }

  /**
   * @param {Rule} rule
   * @returns {string} what it shows, in words
   */
  draw(rule) {
    const { canvas, part } = this;
    const context = canvas.getContext("2d");
    if (!context || !part || !canvas.isConnected) return "";
    const [rows, columns] = [Math.min(part.rows.length, MOST), Math.min(part.columns.length, MOST)];
    const [width, height, ratio] = [canvas.clientWidth, STEP * Math.max(rows, columns), devicePixelRatio];
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    canvas.style.height = `${height}px`;
    context.scale(ratio, ratio);
    context.strokeStyle = getComputedStyle(canvas).color;
    const query = this.session.cell?.query;
    let drawn = 0;
    for (let row = 0; row < rows; row++) {
      const from = this.start.rows + row;
      const isSeen = query === undefined || part.rows[from] === query;
      drawn += this.drawQuery(context, rule, from, width, isSeen ? 1 : 0.22);
    }
    this.mark(query);
    return `${drawn} lines for ${rows} of ${part.rows.length} queries.`;
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Rule} rule
   * @param {number} from row
   * @param {number} width
   * @param {number} strength
   * @returns {number} lines drawn
   */
  drawQuery(context, rule, from, width, strength) {
    const part = /** @type {import("./part.js").Part} */ (this.part);
    const weights = part.values.subarray(from * part.columns.length, (from + 1) * part.columns.length);
    let drawn = 0;
    for (const key of keysOf(weights, rule)) {
      const to = key - this.start.columns;
      if (to < 0 || to >= MOST) continue;
      drawLine(context, (from - this.start.rows + 0.5) * STEP, (to + 0.5) * STEP, width, weights[key], strength);
      drawn += 1;
    }
    return drawn;
  }

  /** @param {number | undefined} query */
  mark(query) {
    this.sides.left.querySelector(".is-seen")?.classList.remove("is-seen");
    if (query !== undefined) this.sides.left.querySelector(`[data-index="${query}"]`)?.classList.add("is-seen");
  }

  /** @param {Event} event */
  cellAt(event) {
    const index = /** @type {HTMLElement} */ (event.target).dataset.index;
    return index === undefined ? null : this.session.strongest(Number(index));
  }

  /** @param {Event} event */
  look(event) {
    this.session.store.set({ hover: this.cellAt(event) });
  }

  /** @param {Event} event */
  lock(event) {
    this.session.lock(this.cellAt(event));
  }
}

/**
 * The keys that a query gets lines to.
 * @param {Float32Array} weights
 * @param {Rule} rule
 * @returns {number[]}
 */
export function keysOf(weights, rule) {
  if (rule.by === "top") return strongest(weights, rule.top);
  const order = Array.from(weights.keys()).sort((one, other) => weights[other] - weights[one]);
  const whole = weights.reduce((sum, weight) => sum + weight, 0);
  let count = 0;
  for (let sum = 0; sum < rule.mass * whole && count < order.length; count++) sum += weights[order[count]];
  return order.slice(0, count);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} from
 * @param {number} to
 * @param {number} width
 * @param {number} weight
 * @param {number} strength
 */
function drawLine(context, from, to, width, weight, strength) {
  context.globalAlpha = strength * (0.12 + 0.88 * Math.min(Math.max(weight, 0), 1));
  context.lineWidth = 0.75 + 3 * Math.min(Math.max(weight, 0), 1);
  context.beginPath();
  context.moveTo(0, from);
  context.bezierCurveTo(width / 2, from, width / 2, to, width, to);
  context.stroke();
}
