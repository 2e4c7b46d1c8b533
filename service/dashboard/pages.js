/** The pages of the dashboard, each made when it is first opened. */

import { fill, make } from "./dom.js";

/**
 * @typedef {object} Made
 * @property {HTMLElement} element
 * @property {(state: Record<string, unknown> | null) => void} [begin] as it begins, or as a link has it
 * @property {() => void} [turn] each time that one turns to it
 */
/** @typedef {{id: string, name: string, make: () => Made}} Page */

/**
 * @param {HTMLElement} nav
 * @param {HTMLElement} place
 * @param {Page[]} pages
 * @returns {(id: string, state?: Record<string, unknown>) => void} opens one, as a link has it if that is where one comes from
 */
export function makePages(nav, place, pages) {
  /** @type {Map<string, Made>} */
  const made = new Map();
  const buttons = pages.map(({ id, name }) =>
    make("button", { type: "button", class: "page", "data-page": id, onclick: () => open(id) }, name),
  );
  const open = (/** @type {string} */ id, /** @type {Record<string, unknown> | undefined} */ state = undefined) => {
    const page = pages.find((each) => each.id === id) ?? pages[0];
    const shown = made.get(page.id) ?? page.make();
    fill(place, shown.element);
    if (state || !made.has(page.id)) shown.begin?.(state ?? null);
    made.set(page.id, shown);
    shown.turn?.();
    document.body.dataset.page = page.id;
    for (const button of buttons)
      if (button.dataset.page === page.id) button.setAttribute("aria-current", "page");
      else button.removeAttribute("aria-current");
  };
  fill(nav, buttons);
  return open;
}
