/** The map of the head that is open, in step with all other views of it. */

import { fill, make } from "./dom.js";
import "./map.js";
import { partOf } from "./part.js";
import { allOf, LEAST, lengthOf } from "./view.js";

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
    const { row, column, ratio } = /** @type {CustomEvent} */ (event).detail;
    const cell = cellOf({ row, column });
    if (cell) session.zoom(cell, ratio);
  });
  const pan = makePan(session);
  map.addEventListener("pan", (event) => pan(/** @type {CustomEvent} */ (event).detail));
  session.store.follow(["map", "scale", "hidesSpecial"], ({ scale, layer, head }) => {
    part = partOf(session);
    const group = session.group;
    if (!part || !group) return;
    map.moves = Math.max(group.queries.length, group.keys.length) > SEEN_AT_ONCE;
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
  session.store.follow(["view"], ({ map: drawn, view }) => {
    map.classList.toggle("map-inside", view !== null);
    const group = session.group;
    if (drawn && group && drawn.view !== view) map.preview(boxOf(drawn.view, view ?? allOf(group)));
  });
  return make("div", { class: "map-frame" }, map, makeZoom(session));
}

/**
 * Where a part of a map lies in what is seen, as shares of that.
 * @param {import("./analysis.js").View} part
 * @param {import("./analysis.js").View} seen
 */
function boxOf(part, seen) {
  const [height, width] = [lengthOf(seen.rows), lengthOf(seen.columns)];
  return {
    top: (part.rows[0] - seen.rows[0]) / height,
    left: (part.columns[0] - seen.columns[0]) / width,
    height: lengthOf(part.rows) / height,
    width: lengthOf(part.columns) / width,
  };
}

/**
 * By whole tokens, though a pointer goes by parts of them.
 * @param {import("./session.js").Session} session
 * @returns {(by: {down: number, right: number}) => void} of the map's rows and columns
 */
function makePan(session) {
  const left = { down: 0, right: 0 };
  return ({ down, right }) => {
    const { map } = session.store.state;
    if (!map) return;
    left.down += (down * lengthOf(map.view.rows)) / map.rows;
    left.right += (right * lengthOf(map.view.columns)) / map.columns;
    const [rows, columns] = [Math.trunc(left.down), Math.trunc(left.right)];
    left.down -= rows;
    left.right -= columns;
    if (rows || columns) session.pan(rows, columns);
  };
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
/** How long one waits without wondering. */
const PATIENCE_MS = 400;

/**
 * Closer and further away, for maps of many tokens; what is in view is asked of the service.
 * @param {import("./session.js").Session} session
 * @returns {HTMLElement}
 */
function makeZoom(session) {
  const said = make("span", { class: "muted figure" });
  const zoom = (/** @type {number} */ ratio) => () => session.zoom(session.store.state.locked ?? { query: 0, key: 0 }, ratio);
  const [closer, further] = [
    make("button", { type: "button", class: "link", onclick: zoom(1 / 4) }, "Closer"),
    make("button", { type: "button", class: "link", onclick: zoom(4) }, "Further"),
  ];
  const line = make("p", { class: "map-zoom" }, closer, further, said, makeWaiting(session));
  session.store.follow(["map", "view"], ({ map, view }) => {
    const group = session.group;
    line.hidden = !map || !group || Math.max(group.queries.length, group.keys.length) <= SEEN_AT_ONCE;
    if (!map) return;
    further.hidden = view === null;
    closer.hidden = Math.max(lengthOf(map.view.rows), lengthOf(map.view.columns)) <= LEAST;
    const tile = Math.round(lengthOf(map.view.rows) / map.rows);
    const [rows, columns] = [map.view.rows, map.view.columns].map(([start, stop]) => `${start}–${stop - 1}`);
    fill(said, `queries ${rows}, keys ${columns}`, tile > 1 && `; each pixel is the largest of ${tile} × ${tile} weights`);
  });
  return line;
}

/**
 * Says that something is on its way, once that takes long enough to notice.
 * @param {import("./session.js").Session} session
 * @returns {HTMLElement}
 */
function makeWaiting(session) {
  const said = make("span", { class: "map-waiting", role: "status" });
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let clock;
  session.store.follow(["isFetching"], ({ isFetching }) => {
    clearTimeout(clock);
    fill(said);
    if (isFetching) clock = setTimeout(() => fill(said, "Asking …"), PATIENCE_MS);
  });
  return said;
}
