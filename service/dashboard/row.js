/** What one query looks at, in figures: its strongest keys, and the cell under the pointer. */

import { fill, make } from "./dom.js";
import { SIDE } from "./maps.js";
import { short, visible } from "./number.js";
import { isExact } from "./view.js";

const MOST = 8;

/**
 * @param {import("./session.js").Session} session
 * @returns {HTMLElement}
 */
export function makeRow(session) {
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  const [scope, list] = [make("p", { class: "muted row-scope" }), make("ol", { class: "row-list" })];
  session.store.follow(["map", "hover", "locked", "row"], () => {
    const { cell, row, group } = session;
    fill(readout, group && cell ? describeCell(session, group, cell) : HINT);
    fill(scope, group && cell && row && describeScope(session, group, cell));
    fill(list, group && row && strongest(row).map((index) => makeKey(group.keys[index], index, row[index])));
  });
  return make("div", { class: "row" }, readout, scope, list);
}

const HINT = "Point at a token or a cell; click to hold it.";

/**
 * @param {import("./session.js").Session} session
 * @param {import("./analysis.js").Group} group
 * @param {import("./session.js").Cell} cell
 * @returns {(Node | string)[]}
 */
function describeCell(session, group, { query, key }) {
  const { map } = session.store.state;
  if (!session.row || (map && !isExact(map))) return [make("span", { class: "muted" }, describeTile(session))];
  const [from, to] = [visible(group.queries[query]), visible(group.keys[key])];
  const figure = make("span", { class: "figure" }, short(session.row[key]));
  return [make("b", {}, from), ` (${query}) → `, make("b", {}, to), ` (${key})  `, figure];
}

/**
 * Of which keys the strongest are listed, where that isn't plain.
 * @param {import("./session.js").Session} session
 * @param {import("./analysis.js").Group} group
 * @param {import("./session.js").Cell} cell
 * @returns {string | false}
 */
function describeScope({ isRowWhole }, { queries, keys }, { query }) {
  if (!isRowWhole) return "The strongest of the keys in view; hold the query for those of all.";
  return (
    keys.length > SIDE &&
    `The strongest of all ${keys.length.toLocaleString("en")} keys for “${visible(queries[query])}” (${query}).`
  );
}

/**
 * Places of the largest weights, largest first.
 * @param {Float32Array} row
 * @param {number} [most]
 * @returns {number[]}
 */
export function strongest(row, most = MOST) {
  /** @type {number[]} */
  const found = [];
  for (let index = 0; index < row.length; index++) {
    if (!(row[index] > 0) || (found.length === most && row[index] <= row[found[most - 1]])) continue;
    const place = found.findIndex((other) => row[other] < row[index]);
    found.splice(place < 0 ? found.length : place, 0, index);
    if (found.length > most) found.pop();
  }
  return found;
}

/**
 * @param {string} token
 * @param {number} index
 * @param {number} weight
 * @returns {HTMLElement}
 */
function makeKey(token, index, weight) {
  const bar = make("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", String(Math.min(Math.max(weight, 0), 1)));
  return make(
    "li",
    { class: "row-key" },
    make("span", { class: "token-name" }, visible(token)),
    make("span", { class: "muted index" }, index),
    bar,
    make("span", { class: "figure" }, short(weight)),
  );
}

/**
 * What there is to say of a tile: its place and its largest weight. Closer, there are rows.
 * @param {import("./session.js").Session} session
 * @returns {string}
 */
function describeTile({ store, cell }) {
  const { map } = store.state;
  if (!map || !cell) return "";
  const [height, width] = [
    (map.view.rows[1] - map.view.rows[0]) / map.rows,
    (map.view.columns[1] - map.view.columns[0]) / map.columns,
  ];
  const [row, column] = [
    Math.floor((cell.query - map.view.rows[0]) / height),
    Math.floor((cell.key - map.view.columns[0]) / width),
  ];
  return `Near query ${cell.query} and key ${cell.key} the largest weight is ${short(map.values[row * map.columns + column])}; a double click comes closer.`;
}
