/** The map of the head that is open, in step with all other views of it. */

import { fill, make } from "./dom.js";
import "./map.js";
import { partOf } from "./part.js";

/**
 * @param {import("./session.js").Session} session
 * @returns {HTMLElement}
 */
export function makeMapView(session) {
  const map = /** @type {import("./map.js").MapElement} */ (document.createElement("kqv-map"));
  /** @type {import("./part.js").Part | null} */
  let part = null;
  const cellOf = (/** @type {import("./map.js").Place | null} */ place) =>
    place && part && { query: part.rows[place.row], key: part.columns[place.column] };
  const placeOf = (/** @type {import("./session.js").Cell | null} */ cell) => {
    const [row, column] = part && cell ? [lastUpTo(part.rows, cell.query), lastUpTo(part.columns, cell.key)] : [-1, -1];
    return row < 0 || column < 0 ? null : { row, column };
  };
  map.addEventListener("look", (event) => session.store.set({ hover: cellOf(/** @type {CustomEvent} */ (event).detail) }));
  map.addEventListener("lock", (event) => session.lock(cellOf(/** @type {CustomEvent} */ (event).detail)));
  map.addEventListener("zoom", (event) => {
    const { row, column, into } = /** @type {CustomEvent} */ (event).detail;
    const cell = cellOf({ row, column });
    if (cell) session.zoom(cell, into);
  });
  session.store.follow(["map", "scale", "hidesSpecial"], ({ scale, layer, head }) => {
    part = partOf(session);
    const group = session.group;
    if (!part || !group) return;
    const [rows, columns] = [part.rows.map((index) => group.queries[index]), part.columns.map((index) => group.keys[index])];
    map.show({
      values: part.values,
      rows,
      columns,
      range: { low: 0, high: 1, scale },
      label: `Weights of head ${head} of layer ${layer}`,
    });
  });
  session.store.follow(["map", "hover", "locked", "scale", "hidesSpecial"], ({ hover, locked }) =>
    map.mark(placeOf(hover), placeOf(locked)),
  );
  return make("div", { class: "map-frame" }, map, makeZoom(session));
}

/**
 * @param {number[]} starts ascending
 * @param {number} index
 * @returns {number}
 */
function lastUpTo(starts, index) {
  let [low, high] = [0, starts.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (starts[middle] <= index) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** Up to this side a map can be seen without coming closer. */
const SEEN_AT_ONCE = 48;

/**
 * Closer and further away, for maps of many tokens; what is in view is asked of the service.
 * @param {import("./session.js").Session} session
 * @returns {HTMLElement}
 */
function makeZoom(session) {
  const said = make("span", { class: "muted figure" });
  const zoom = (/** @type {boolean} */ into) => () => session.zoom(session.cell ?? { query: 0, key: 0 }, into);
  const [closer, further] = [
    make("button", { type: "button", class: "link", onclick: zoom(true) }, "Closer"),
    make("button", { type: "button", class: "link", onclick: zoom(false) }, "Further"),
  ];
  const line = make("p", { class: "map-zoom" }, closer, further, said);
  session.store.follow(["map", "view"], ({ map, view }) => {
    const group = session.group;
    line.hidden = !map || !group || Math.max(group.queries.length, group.keys.length) <= SEEN_AT_ONCE;
    if (!map) return;
    further.hidden = view === null;
    const tile = Math.round((map.view.rows[1] - map.view.rows[0]) / map.rows);
    const [rows, columns] = [map.view.rows, map.view.columns].map(([start, stop]) => `${start}–${stop - 1}`);
    fill(said, `queries ${rows}, keys ${columns}`, tile > 1 && `; each pixel is the largest of ${tile} × ${tile} weights`);
  });
  return line;
}
