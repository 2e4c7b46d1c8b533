/** From numbers to pixels: tables of 256 colours, looked up. */

import { VIRIDIS } from "./viridis.js";

/** @typedef {"linear" | "root" | "log"} Scale */

/** The smallest weight that the logarithmic scale tells from 0. */
const FLOOR = 1e-4;

/** @type {Record<Scale, (share: number) => number>} from a share of the most, 0 to 1, to a share of the colours */
export const SCALES = {
  linear: (share) => share,
  root: Math.sqrt,
  log: (share) => 1 - Math.log(Math.max(share, FLOOR)) / Math.log(FLOOR),
};

/** @type {[string, string][]} */
export const SCALE_NAMES = [
  ["linear", "linear"],
  ["root", "√"],
  ["log", "log"],
];

/** For weights. */
export const SEQUENTIAL = tableOf(VIRIDIS);

/** For differences: blue below 0, orange above, the paper's own grey at 0. */
export const DIVERGING = blend([
  [0, [33, 102, 172]],
  [0.25, [103, 169, 207]],
  [0.5, [242, 242, 242]],
  [0.75, [239, 158, 84]],
  [1, [179, 88, 6]],
]);

/** What has no number: masked, or undefined. */
const NOTHING = [128, 128, 128, 48];

/**
 * @param {string} hexadecimal six digits a colour
 * @returns {Uint8ClampedArray} [256 × RGBA]
 */
function tableOf(hexadecimal) {
  const table = new Uint8ClampedArray(1024).fill(255);
  for (let index = 0; index < 256; index++)
    for (let channel = 0; channel < 3; channel++) {
      const place = index * 6 + channel * 2;
      table[index * 4 + channel] = Number.parseInt(hexadecimal.slice(place, place + 2), 16);
    }
  return table;
}

/**
 * @param {[number, number[]][]} stops where, 0 to 1, and which colour
 * @returns {Uint8ClampedArray} [256 × RGBA]
 */
function blend(stops) {
  const table = new Uint8ClampedArray(1024).fill(255);
  for (let index = 0; index < 256; index++) {
    const place = index / 255;
    const next = Math.max(
      1,
      stops.findIndex(([stop]) => stop >= place),
    );
    const [[from, start], [to, end]] = [stops[next - 1], stops[next]];
    const share = (place - from) / (to - from);
    for (let channel = 0; channel < 3; channel++)
      table[index * 4 + channel] = start[channel] + share * (end[channel] - start[channel]);
  }
  return table;
}

/**
 * The place of a value in a table of 256.
 * @param {number} value
 * @param {{low: number, high: number, scale?: Scale}} range
 * @returns {number} 0 to 255
 */
export function lookUp(value, { low, high, scale = "linear" }) {
  const share = high > low ? Math.min(Math.max((value - low) / (high - low), 0), 1) : 0;
  return Math.round(255 * SCALES[scale](share));
}

/**
 * A pixel for each value.
 * @param {Float32Array} values row-major
 * @param {number} columns
 * @param {{low: number, high: number, scale?: Scale, table?: Uint8ClampedArray}} range
 * @returns {ImageData}
 */
export function paint(values, columns, range) {
  const table = new Uint32Array((range.table ?? SEQUENTIAL).buffer);
  const nothing = new Uint32Array(Uint8ClampedArray.from(NOTHING).buffer)[0];
  const pixels = new Uint32Array(values.length);
  for (let index = 0; index < values.length; index++)
    pixels[index] = Number.isFinite(values[index]) ? table[lookUp(values[index], range)] : nothing;
  return new ImageData(new Uint8ClampedArray(pixels.buffer), columns);
}

/**
 * A colour as CSS has it.
 * @param {number} value
 * @param {{low: number, high: number, scale?: Scale, table?: Uint8ClampedArray}} range
 * @returns {string}
 */
export function colorOf(value, range) {
  const table = range.table ?? SEQUENTIAL;
  const [red, green, blue, alpha] = Number.isFinite(value) ? table.subarray(lookUp(value, range) * 4) : NOTHING;
  return `rgb(${red} ${green} ${blue} / ${(alpha / 255).toFixed(2)})`;
}

/**
 * The ends of values around 0, or from 0 on.
 * @param {Float32Array} values
 * @returns {{low: number, high: number, table: Uint8ClampedArray}}
 */
export function aroundZero(values) {
  let most = 0;
  for (const value of values) if (Number.isFinite(value)) most = Math.max(most, Math.abs(value));
  most ||= 1;
  return { low: -most, high: most, table: DIVERGING };
}
