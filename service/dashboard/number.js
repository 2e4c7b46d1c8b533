/** Numbers and names as people read them. */

/**
 * A weight or a measure, exact enough to tell neighbours apart and short enough to read.
 * @param {number | null | undefined} value
 * @returns {string}
 */
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const digits = size < 0.0001 ? tiny(size) : size >= 1000 ? Math.round(size).toLocaleString("en") : size.toFixed(decimals(size));
  return value < 0 ? `−${digits}` : digits;
}

/** @param {number} size */
const decimals = (size) => (size >= 10 ? 1 : size >= 1 ? 2 : 4);

/**
 * As a power of ten, such as 1.2·10⁻⁵.
 * @param {number} size
 * @returns {string}
 */
function tiny(size) {
  const [digits, power] = size.toExponential(1).split("e-");
  return `${digits}·10⁻${[...power].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(digit)]).join("")}`;
}

/**
 * @param {number} share
 * @returns {string}
 */
export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

/**
 * @param {number} milliseconds
 * @returns {string}
 */
export const duration = (milliseconds) =>
  milliseconds < 1000
    ? `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`
    : `${(milliseconds / 1000).toFixed(1)} s`;

/**
 * @param {number} layer
 * @param {number} head
 * @returns {string}
 */
export const headName = (layer, head) => `L${layer} H${head}`;

/**
 * A token so that its blanks can be seen: words of a vocabulary mark them by Ġ or ▁, or have them.
 * @param {string} token
 * @returns {string}
 */
export const visible = (token) =>
  token
    .replace(/^[Ġ▁ ]/, "·")
    .replace(/[Ġ▁ ]/g, "·")
    .replace(/[\nĊ]/g, "⏎")
    .replace(/\t/g, "⇥") || "∅";
