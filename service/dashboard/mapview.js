/** The map of the head that is open, in step with all other views of it. */

import { make } from "./dom.js";
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
  return make("div", { class: "map-frame" }, map);
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
