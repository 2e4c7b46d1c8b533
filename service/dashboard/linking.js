/** Links to what a page shows, and the clipboard they go to. */

import { fill, make } from "./dom.js";
import { toFragment } from "./recipe.js";

/** @typedef {import("./session.js").Session} Session */

/**
 * Copies, and where that isn't allowed shows what to copy.
 * @returns {{parts: HTMLElement[], copy: (what: string, text: string) => Promise<void>}}
 */
export function makeCopier() {
  const said = make("span", { class: "muted", role: "status" });
  const fallback = make("textarea", { class: "code taking-text", rows: 3, readonly: true, hidden: true, "aria-label": "To copy" });
  const copy = async (/** @type {string} */ what, /** @type {string} */ text) => {
    const isCopied = await navigator.clipboard?.writeText(text).then(
      () => true,
      () => false,
    );
    fill(said, isCopied ? `${what} copied.` : `Copy ${what.toLowerCase()} from here:`);
    fallback.hidden = Boolean(isCopied);
    fallback.value = text;
    if (!isCopied) fallback.select();
  };
  return { parts: [said, fallback], copy };
}

/**
 * A link to a page as it is now.
 * @param {Session} session
 * @param {string} page
 * @param {Record<string, unknown>} state what the page alone knows
 * @returns {Promise<string>}
 */
export async function linkTo(session, page, state) {
  const { analysis, group, layer, head, measure, scale, hidesSpecial, locked, view: part } = session.store.state;
  const recipe = analysis?.recipe ?? /** @type {NonNullable<Session["asked"]>} */ (session.asked)[0];
  const view = { group, layer, head, measure, scale, hidesSpecial, locked, view: part };
  const home = session.api.base ? `${session.api.base}/` : location.href.split("#")[0];
  return home + (await toFragment({ recipe, page, view, state }));
}

/**
 * A button that copies it.
 * @param {Session} session
 * @param {string} page
 * @param {() => {state: Record<string, unknown>, lacks?: string}} tell `lacks`: what is too long for a link
 * @returns {HTMLElement}
 */
export function makeLink(session, page, tell) {
  const { parts, copy } = makeCopier();
  const take = async () => {
    const { state, lacks } = tell();
    await copy(lacks ? `Link without ${lacks}` : "Link", await linkTo(session, page, state));
  };
  return make(
    "div",
    { class: "linking" },
    make("button", { type: "button", class: "link", onclick: () => void take() }, "Copy link"),
    parts,
  );
}
