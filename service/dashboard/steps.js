/** Attention step by step: six matrices, and the arithmetic of one cell in figures. */

import { aroundZero } from "./color.js";
import { fill, make } from "./dom.js";
import "./map.js";
import { short, visible } from "./number.js";

/**
 * @typedef {import("./workings.js").Workings} Workings
 * @typedef {import("./tensor.js").Tensor} Tensor
 * @typedef {import("./map.js").MapElement} MapElement
 */

/**
 * @typedef {object} Step
 * @property {string} name
 * @property {string} formula
 * @property {(workings: Workings) => Matrix[]} matrices
 * @property {(workings: Workings, row: number, column: number) => string} work the arithmetic of a cell
 */

/** @typedef {{name: string, tensor: Tensor, rows: string[], columns: string[] | null, isWeights?: boolean, marks: "query" | "key" | "both"}} Matrix */

/** @type {Step[]} */
const STEPS = [
  {
    name: "Queries, keys, values",
    formula: "Q, K, V",
    matrices: ({ q, k, v, queries, keys }) => [
      { name: "Q", tensor: q, rows: queries, columns: null, marks: "query" },
      { name: "K", tensor: k, rows: keys, columns: null, marks: "key" },
      { name: "V", tensor: v, rows: keys, columns: null, marks: "key" },
    ],
    work: ({ q, queries, keys }, row, column) =>
      `“${visible(queries[row])}” asks with its q, “${visible(keys[column])}” answers with its k: ${q.shape[1]} numbers each.`,
  },
  {
    name: "Raw scores",
    formula: "S = Q·Kᵀ",
    matrices: ({ scores, queries, keys }) => [{ name: "", tensor: scores, rows: queries, columns: keys, marks: "both" }],
    work: ({ q, k, scores }, row, column) =>
      `q·k = ${products(q.at(row).values, k.at(column).values)} = ${short(scores.item(row, column))}`,
  },
  {
    name: "Scale",
    formula: "S · scale",
    matrices: ({ scaled, queries, keys }) => [{ name: "", tensor: scaled, rows: queries, columns: keys, marks: "both" }],
    work: ({ scores, scaled, scale, hasBias }, row, column) => {
      const product = scores.item(row, column) * scale;
      const added = hasBias ? ` + ${short(scaled.item(row, column) - product)} for the distance` : "";
      return `${short(scores.item(row, column))} · ${short(scale)}${added} = ${short(scaled.item(row, column))}`;
    },
  },
  {
    name: "Mask",
    formula: "−∞ where a query may not look",
    matrices: ({ masked, queries, keys }) => [{ name: "", tensor: masked, rows: queries, columns: keys, marks: "both" }],
    work: ({ masked }, row, column) =>
      Number.isFinite(masked.item(row, column)) ? "The query may look here: the score stays." : "The query may not look here: −∞.",
  },
  {
    name: "Softmax",
    formula: "P = exp(S) / Σ exp(S)",
    matrices: ({ weights, queries, keys }) => [
      { name: "", tensor: weights, rows: queries, columns: keys, isWeights: true, marks: "both" },
    ],
    work: ({ masked, weights, most, sums }, row, column) =>
      `exp(${short(masked.item(row, column))} − ${short(most[row])}) / ${short(sums[row])} = ${short(weights.item(row, column))}`,
  },
  {
    name: "Mix the values",
    formula: "O = P·V",
    matrices: ({ outputs, queries }) => [{ name: "", tensor: outputs, rows: queries, columns: null, marks: "query" }],
    work: ({ weights, v, outputs }, row, column) =>
      `o₀ = Σ p·v₀ = … + ${short(weights.item(row, column))} · ${factor(v.item(column, 0))} + … = ${short(outputs.item(row, 0))}`,
  },
];

/**
 * A number beside another one that it is multiplied by.
 * @param {number} value
 */
const factor = (value) => (value < 0 ? `(${short(value)})` : short(value));

/**
 * The first products of two vectors, written out.
 * @param {Float32Array} one
 * @param {Float32Array} other
 */
function products(one, other) {
  const shown = Math.min(one.length, 3);
  const terms = Array.from({ length: shown }, (_, index) => `${factor(one[index])}·${factor(other[index])}`);
  return terms.join(" + ") + (one.length > shown ? " + …" : "");
}

/**
 * @param {Workings} workings
 * @param {import("./session.js").Cell | null} held the cell to begin with, counted from the text's beginning
 * @param {(cell: import("./session.js").Cell) => void} onHold
 * @returns {HTMLElement}
 */
export function makeSteps(workings, held, onHold) {
  /** @type {{map: MapElement, marks: Matrix["marks"]}[]} */
  const maps = [];
  const works = STEPS.map(() => make("p", { class: "work" }));
  let locked = (held && placeIn(workings, held)) ?? first(workings);
  const mark = (/** @type {{row: number, column: number}} */ place) => {
    for (const each of maps) each.map.mark(null, markOf(each.marks, place));
    for (const [index, step] of STEPS.entries()) fill(works[index], step.work(workings, place.row, place.column));
  };
  const point = (/** @type {Matrix["marks"]} */ marks) => (/** @type {Event} */ event) => {
    const detail = /** @type {CustomEvent} */ (event).detail;
    const place = detail && placeOf(marks, detail, locked, workings);
    if (event.type === "lock" && place) {
      locked = place;
      onHold({ query: workings.view.rows[0] + place.row, key: workings.view.columns[0] + place.column });
    }
    mark(place ?? locked);
  };
  const cards = STEPS.map((step, index) => {
    const drawn = step.matrices(workings).map((matrix) => {
      const map = draw(matrix, step.name);
      for (const name of ["look", "lock"]) map.addEventListener(name, point(matrix.marks));
      maps.push({ map, marks: matrix.marks });
      return make("figure", { class: "step-matrix" }, matrix.name && make("figcaption", {}, matrix.name), map);
    });
    return make(
      "section",
      { class: "panel step" },
      make(
        "header",
        {},
        make("span", { class: "step-number" }, index + 1),
        make("h2", {}, step.name),
        make("code", {}, step.formula),
      ),
      make("div", { class: drawn.length > 1 ? "step-matrices" : "step-one" }, drawn),
      works[index],
    );
  });
  const steps = make("div", { class: "steps" }, cards);
  mark(locked);
  return steps;
}

/**
 * Where a cell is in what is shown, if it is.
 * @param {Workings} workings
 * @param {import("./session.js").Cell} cell
 */
function placeIn({ view }, { query, key }) {
  const place = { row: query - view.rows[0], column: key - view.columns[0] };
  const isThere = place.row >= 0 && query < view.rows[1] && place.column >= 0 && key < view.columns[1];
  return isThere ? place : null;
}

/** A query with something before it and after it, and what it looks at. @param {Workings} workings */
function first(workings) {
  const row = workings.queries.length > 3 ? 3 : 0;
  return { row, column: strongestOf(workings, row) };
}

/**
 * @param {Workings} workings
 * @param {number} row
 */
function strongestOf({ weights }, row) {
  const values = weights.at(row).values;
  return values.indexOf(Math.max(...values));
}

/**
 * @param {Matrix} matrix
 * @param {string} step
 * @returns {MapElement}
 */
function draw({ tensor, rows, columns, isWeights, name }, step) {
  const map = /** @type {MapElement} */ (document.createElement("kqv-map"));
  const finite = tensor.values.map((value) => (Number.isFinite(value) ? value : Number.NaN));
  const range = isWeights ? { low: 0, high: 1 } : aroundZero(tensor.values);
  const names = columns ?? Array.from({ length: tensor.shape[1] }, () => "");
  map.classList.toggle("map-plain", columns === null);
  map.show({ values: finite, rows, columns: names, range, label: `${step} ${name}` });
  return map;
}

/**
 * Which part of a matrix belongs to a query and a key.
 * @param {Matrix["marks"]} marks
 * @param {{row: number, column: number}} place
 */
const markOf = (marks, { row, column }) =>
  marks === "both" ? { row, column } : { row: marks === "query" ? row : column, column: 0 };

/**
 * The query and the key that a cell of a matrix belongs to.
 * @param {Matrix["marks"]} marks
 * @param {{row: number, column: number}} cell
 * @param {{row: number, column: number}} locked
 * @param {Workings} workings
 */
function placeOf(marks, cell, locked, workings) {
  if (marks === "both") return cell;
  return marks === "query" ? { row: cell.row, column: strongestOf(workings, cell.row) } : { row: locked.row, column: cell.row };
}
