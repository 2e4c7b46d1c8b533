/** Which part of a head's map is in view. */

/**
 * @typedef {import("./analysis.js").Group} Group
 * @typedef {import("./analysis.js").HeadMap} HeadMap
 * @typedef {import("./analysis.js").View} View
 * @typedef {[number, number]} Range half-open
 */

/** How little of a map is in view at least. */
export const LEAST = 32;

/** @param {Range} range */
export const lengthOf = ([start, stop]) => stop - start;

/**
 * @param {Group} group
 * @returns {View}
 */
export const allOf = (group) => ({ rows: [0, group.queries.length], columns: [0, group.keys.length] });

/**
 * Nothing where all of a group is in view.
 * @param {View} view
 * @param {Group} group
 * @returns {View | null}
 */
function orAll(view, group) {
  const isAll = lengthOf(view.rows) === group.queries.length && lengthOf(view.columns) === group.keys.length;
  return isAll ? null : view;
}

/**
 * As much of a map as a ratio of what is in view, with a cell where it is; one out of view comes to the middle.
 * @param {View} view
 * @param {Group} group
 * @param {import("./session.js").Cell} cell
 * @param {number} ratio
 * @returns {View | null}
 */
export function zoomed(view, group, { query, key }, ratio) {
  const rows = stretched(view.rows, query, ratio, group.queries.length);
  const columns = stretched(view.columns, key, ratio, group.keys.length);
  return orAll({ rows, columns }, group);
}

/**
 * @param {Range} range
 * @param {number} fixed
 * @param {number} ratio
 * @param {number} length
 * @returns {Range}
 */
function stretched([start, stop], fixed, ratio, length) {
  const span = Math.min(Math.max(Math.round((stop - start) * ratio), LEAST), length);
  const share = fixed >= start && fixed < stop ? (fixed - start) / (stop - start) : 0.5;
  return held(Math.round(fixed - share * span), span, length);
}

/**
 * As much, from another place on.
 * @param {View} view
 * @param {Group} group
 * @param {number} down queries
 * @param {number} right keys
 * @returns {View | null}
 */
export function moved(view, group, down, right) {
  const rows = held(view.rows[0] + down, lengthOf(view.rows), group.queries.length);
  const columns = held(view.columns[0] + right, lengthOf(view.columns), group.keys.length);
  return orAll({ rows, columns }, group);
}

/**
 * @param {number} start
 * @param {number} span
 * @param {number} length
 * @returns {Range} that begins as near as it can and ends within the length
 */
export function held(start, span, length) {
  const first = Math.min(Math.max(start, 0), length - span);
  return [first, first + span];
}

/**
 * Whether a map has a number for each query and key in view, and not one for a tile of them.
 * @param {HeadMap} map
 */
export const isExact = ({ rows, columns, view }) => lengthOf(view.rows) === rows && lengthOf(view.columns) === columns;

/**
 * Part of an exact map.
 * @param {HeadMap} map
 * @param {View} view
 * @returns {HeadMap}
 */
export function crop(map, view) {
  if ([...view.rows, ...view.columns].join() === [...map.view.rows, ...map.view.columns].join()) return map;
  const [rows, columns] = [lengthOf(view.rows), lengthOf(view.columns)];
  const values = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const start = (view.rows[0] + row - map.view.rows[0]) * map.columns + view.columns[0] - map.view.columns[0];
    values.set(map.values.subarray(start, start + columns), row * columns);
  }
  return { values, rows, columns, view };
}

/**
 * The weights of a query, where they are exact; keys out of view have none.
 * @param {HeadMap} map
 * @param {number} query
 * @returns {Float32Array | null}
 */
export function rowOf(map, query) {
  const row = query - map.view.rows[0];
  if (!isExact(map) || row < 0 || row >= map.rows) return null;
  const weights = map.values.subarray(row * map.columns, (row + 1) * map.columns);
  if (map.view.columns[0] === 0) return weights;
  const moved = new Float32Array(map.view.columns[1]);
  moved.set(weights, map.view.columns[0]);
  return moved;
}
