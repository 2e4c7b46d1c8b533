/** What is shown of a head's map. */

import { specialOf } from "./analysis.js";

/**
 * What is shown of a map: without special tokens, where these are hidden.
 * @typedef {object} Part
 * @property {Float32Array} values
 * @property {number[]} rows token of each row, or the first one of its tile
 * @property {number[]} columns
 * @property {number} hidden mean weight of the shown queries on keys that are not shown
 */

/**
 * @param {import("./session.js").Session} session
 * @returns {Part | null}
 */
export function partOf(session) {
  const { map, analysis, hidesSpecial } = session.store.state;
  const group = session.group;
  if (!map || !analysis || !group) return null;
  const [rowStep, columnStep] = [
    (map.view.rows[1] - map.view.rows[0]) / map.rows,
    (map.view.columns[1] - map.view.columns[0]) / map.columns,
  ];
  const hides = hidesSpecial && rowStep === 1 && columnStep === 1;
  const keep = (
    /** @type {string[]} */ tokens,
    /** @type {number} */ start,
    /** @type {number} */ step,
    /** @type {number} */ count,
  ) => {
    const special = hides ? specialOf(analysis, tokens) : [];
    const places = Array.from({ length: count }, (_, index) => index).filter((index) => !special[start + index]);
    return { places, tokens: places.map((index) => Math.floor(start + index * step)) };
  };
  const rows = keep(group.queries, map.view.rows[0], rowStep, map.rows);
  const columns = keep(group.keys, map.view.columns[0], columnStep, map.columns);
  return { ...cut(map, rows.places, columns.places), rows: rows.tokens, columns: columns.tokens };
}

/**
 * @param {{values: Float32Array, columns: number}} map
 * @param {number[]} rows
 * @param {number[]} columns
 * @returns {{values: Float32Array, hidden: number}}
 */
function cut(map, rows, columns) {
  if (rows.length * columns.length === map.values.length) return { values: map.values, hidden: 0 };
  const values = new Float32Array(rows.length * columns.length);
  let shown = 0;
  for (const [row, from] of rows.entries())
    for (const [column, to] of columns.entries()) {
      const weight = map.values[from * map.columns + to];
      values[row * columns.length + column] = weight;
      shown += weight;
    }
  const whole = rows.reduce(
    (sum, row) =>
      sum + map.values.subarray(row * map.columns, (row + 1) * map.columns).reduce((total, weight) => total + weight, 0),
    0,
  );
  return { values, hidden: rows.length ? (whole - shown) / rows.length : 0 };
}
