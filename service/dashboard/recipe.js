/** A link that holds all that a page shows: the question and where one looks, deflated, in the fragment, which no server sees. */

/**
 * @typedef {object} Shared
 * @property {import("./analysis.js").Recipe} recipe
 * @property {string} page
 * @property {Partial<import("./session.js").State>} view
 */

/** Before the recipe in a fragment; the number tells forms apart. */
const PREFIX = "#look1=";
/** Longest recipe that is unpacked. */
const MOST_CHARACTERS = 2_000_000;
const VIEW = /** @type {const} */ ({
  group: "string",
  layer: "number",
  head: "number",
  measure: "string",
  scale: "string",
  hidesSpecial: "boolean",
});

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
  const view = Object.entries(VIEW).filter(([name, type]) => typeof given.view?.[name] === type);
  return { recipe, page: String(given.page), view: Object.fromEntries(view.map(([name]) => [name, given.view[name]])) };
}
