/** A link that holds all that a page shows: the question and where one looks, deflated, in the fragment, which no server sees. */

import { SCALES } from "./color.js";

/**
 * @typedef {object} Shared
 * @property {import("./analysis.js").Recipe} recipe
 * @property {string} page
 * @property {Partial<import("./session.js").State>} view
 * @property {Record<string, unknown>} state what the page alone knows, which the page checks
 */

/** Before the recipe in a fragment; the number tells forms apart. */
const PREFIX = "#look1=";
/** Longest recipe that is unpacked. */
const MOST_CHARACTERS = 2_000_000;
/** @typedef {"string" | "boolean" | "number" | "index"} Kind an index being a whole number from 0 on */

const VIEW = /** @type {Record<string, Kind>} */ ({
  ...{ group: "string", layer: "index", head: "index", measure: "string", scale: "string", hidesSpecial: "boolean" },
});
const CELL = /** @type {Record<string, Kind>} */ ({ query: "index", key: "index" });

export class BrokenLinkError extends Error {}

/**
 * @param {Shared} shared
 * @returns {Promise<string>} the fragment
 */
export async function toFragment(shared) {
  const bytes = await through(new TextEncoder().encode(JSON.stringify(shared)), new CompressionStream("deflate"));
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return PREFIX + btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/**
 * What a fragment holds, if it holds any; a checksum tells whether a character is missing or another.
 * @param {string} fragment
 * @returns {Promise<Shared | null>}
 */
export async function fromFragment(fragment) {
  if (!fragment.startsWith(PREFIX)) return null;
  try {
    const packed = atob(fragment.slice(PREFIX.length).replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = await through(
      Uint8Array.from(packed, (character) => character.charCodeAt(0)),
      new DecompressionStream("deflate"),
    );
    return check(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)));
  } catch {
    throw new BrokenLinkError("This link was cut short or changed on its way, so what it showed is lost. Ask for it once more.");
  }
}

/**
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @param {CompressionStream | DecompressionStream} stream
 * @returns {Promise<Uint8Array>}
 */
async function through(bytes, stream) {
  const reader = new Blob([bytes]).stream().pipeThrough(stream).getReader();
  const parts = [];
  for (let size = 0; ; ) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    size += value.length;
    if (size > MOST_CHARACTERS) throw new RangeError("too long");
    parts.push(value);
  }
}

/**
 * What is of the right kind, and nothing else: a link may come from anybody.
 * @param {any} given
 * @returns {Shared}
 */
function check(given) {
  const { model, text, target, attention } = given.recipe;
  if (typeof model !== "string" || typeof text !== "string") throw new TypeError("no recipe");
  const recipe = {
    model,
    text,
    ...(typeof target === "string" ? { target } : {}),
    ...(attention && typeof attention === "object" ? { attention } : {}),
  };
  const view = readView(given.view);
  return { recipe, page: String(given.page), view, state: given.state && typeof given.state === "object" ? given.state : {} };
}

/**
 * Where one looks, as a link says.
 * @param {any} given
 * @returns {Partial<import("./session.js").State>}
 */
export function readView(given) {
  const view = known(given, VIEW);
  if (!Object.hasOwn(SCALES, view.scale ?? "linear")) delete view.scale;
  const [locked, { rows, columns }] = [known(given?.locked, CELL), given?.view ?? {}];
  if (Object.keys(locked).length === 2) view.locked = locked;
  if (isRange(rows) && isRange(columns)) view.view = { rows, columns };
  return view;
}

/**
 * The fields that are of the kind they should be.
 * @param {any} given
 * @param {Record<string, Kind>} kinds
 * @returns {Record<string, any>}
 */
export function known(given, kinds) {
  const found = Object.entries(kinds).filter(([name, kind]) => isOf(given?.[name], kind));
  return Object.fromEntries(found.map(([name]) => [name, given[name]]));
}

/**
 * @param {unknown} value
 * @param {Kind} kind
 */
const isOf = (value, kind) => (kind === "index" ? Number.isInteger(value) && Number(value) >= 0 : typeof value === kind);

/** @param {unknown} range */
const isRange = (range) =>
  Array.isArray(range) && range.length === 2 && range.every((end) => isOf(end, "index")) && range[0] < range[1];
