/** A map to take along: as SVG, PNG, CSV, or a page of its own without scripts. */

import { colorOf, paint } from "./color.js";
import { visible } from "./number.js";

/**
 * @typedef {object} Picture
 * @property {string} title
 * @property {string} subtitle
 * @property {Float32Array} values row-major
 * @property {string[]} rows
 * @property {string[]} columns
 * @property {{low: number, high: number, scale?: import("./color.js").Scale}} range
 */

/** Side of a cell, and room for the names beside them. */
const CELL = 22;
const NAMES = 90;
/** Up to this side, a rectangle is drawn for each cell; beyond, an image of pixels. */
const MOST_RECTANGLES = 96;

/**
 * Text that may stand in markup.
 * @param {string} text
 */
export const escapeMarkup = (text) =>
  text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`).replace(/(?![\t\n\r])[\p{Cc}\ufffe\uffff]/gu, "\ufffd");

/**
 * @param {Picture} picture
 * @returns {string}
 */
export function toSvg(picture) {
  const { rows, columns, title } = picture;
  const [width, height] = [NAMES + columns.length * CELL, NAMES + rows.length * CELL];
  const isSmall = Math.max(rows.length, columns.length) <= MOST_RECTANGLES;
  const names = isSmall ? [...rows.map(rowName), ...columns.map(columnName)].join("") : "";
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="ui-monospace, monospace" font-size="11" role="img"><title>${escapeMarkup(title)}</title>${names}${isSmall ? rectangles(picture) : image(picture)}</svg>`;
}

/**
 * @param {string} name
 * @param {number} row
 */
const rowName = (name, row) =>
  `<text x="${NAMES - 6}" y="${NAMES + (row + 0.65) * CELL}" text-anchor="end" fill="#777">${escapeMarkup(visible(name))}</text>`;

/**
 * @param {string} name
 * @param {number} column
 */
function columnName(name, column) {
  const x = NAMES + (column + 0.65) * CELL;
  return `<text x="${x}" y="${NAMES - 6}" transform="rotate(-90 ${x} ${NAMES - 6})" fill="#777">${escapeMarkup(visible(name))}</text>`;
}

/** @param {Picture} picture */
function rectangles({ values, rows, columns, range }) {
  const cells = Array.from(values, (value, index) => {
    const [row, column] = [Math.floor(index / columns.length), index % columns.length];
    const told = `${visible(rows[row])} → ${visible(columns[column])}: ${value}`;
    return `<rect x="${NAMES + column * CELL}" y="${NAMES + row * CELL}" width="${CELL}" height="${CELL}" fill="${colorOf(value, range)}"><title>${escapeMarkup(told)}</title></rect>`;
  });
  return cells.join("");
}

/** @param {Picture} picture */
function image({ values, rows, columns, range }) {
  const source = drawPixels(values, columns.length, range).toDataURL();
  return `<image x="${NAMES}" y="${NAMES}" width="${columns.length * CELL}" height="${rows.length * CELL}" style="image-rendering:pixelated" preserveAspectRatio="none" href="${source}"/>`;
}

/**
 * @param {Float32Array} values
 * @param {number} columns
 * @param {Picture["range"]} range
 * @returns {HTMLCanvasElement} a pixel a value
 */
function drawPixels(values, columns, range) {
  const canvas = document.createElement("canvas");
  const pixels = paint(values, columns, range);
  [canvas.width, canvas.height] = [pixels.width, pixels.height];
  canvas.getContext("2d")?.putImageData(pixels, 0, 0);
  return canvas;
}

/**
 * @param {Picture} picture
 * @returns {Promise<Blob>}
 */
export async function toPng({ values, rows, columns, range }) {
  const cell = Math.max(1, Math.min(32, Math.floor(4096 / Math.max(rows.length, columns.length))));
  const names = cell >= 14 ? 110 : 0;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [names + columns.length * cell, names + rows.length * cell];
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  context.drawImage(drawPixels(values, columns.length, range), names, names, columns.length * cell, rows.length * cell);
  if (names) drawNames(context, rows, columns, cell, names);
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the picture is too large"))), "image/png"),
  );
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string[]} rows
 * @param {string[]} columns
 * @param {number} cell
 * @param {number} room
 */
function drawNames(context, rows, columns, cell, room) {
  context.fillStyle = "#555";
  context.font = "13px ui-monospace, monospace";
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const [row, name] of rows.entries()) context.fillText(visible(name), room - 8, room + (row + 0.5) * cell, room - 12);
  context.rotate(-Math.PI / 2);
  context.textAlign = "left";
  for (const [column, name] of columns.entries())
    context.fillText(visible(name), 8 - room, room + (column + 0.5) * cell, room - 12);
}

/**
 * A line for each weight.
 * @param {Picture} picture
 * @returns {string}
 */
export function toCsv({ values, rows, columns }) {
  const lines = Array.from(values, (value, index) => {
    const [row, column] = [Math.floor(index / columns.length), index % columns.length];
    return `${row},${quote(rows[row])},${column},${quote(columns[column])},${value}`;
  });
  return ["query,query_token,key,key_token,weight", ...lines, ""].join("\n");
}

/** What a spreadsheet takes for a formula is a text here. @param {string} text */
const quote = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;

/**
 * A page that needs nothing but itself, not even scripts.
 * @param {Picture} picture
 * @param {string | null} command that asks for the same, where there is one
 * @returns {string}
 */
export function toHtml(picture, command) {
  const style =
    "body{max-width:900px;margin:40px auto;padding:0 20px;font:15px/1.5 system-ui,sans-serif;color-scheme:light dark}svg{max-width:100%;height:auto}pre{overflow:auto;padding:12px;border:1px solid #8884;border-radius:8px;font-size:12px}";
  const asked = command === null ? "</p>" : ` Asked with:</p><pre>${escapeMarkup(command)}</pre>`;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"><title>${escapeMarkup(picture.title)}</title><style>${style}</style></head>
<body><h1>${escapeMarkup(picture.title)}</h1><p>${escapeMarkup(picture.subtitle)}</p>${toSvg(picture)}<p>Rows look at columns; each cell tells its weight when it is pointed at.${asked}</body></html>
`;
}
