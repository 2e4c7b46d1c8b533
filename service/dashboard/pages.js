/** The pages of the dashboard, each made when it is first opened. */

import { fill, make } from "./dom.js";

/** @typedef {{id: string, name: string, make: () => HTMLElement}} Page */

/**
 * @param {HTMLElement} nav
 * @param {HTMLElement} place
 * @param {Page[]} pages
 * @returns {(id: string) => void} opens one
 */
export function makePages(nav, place, pages) {
  /** @type {Map<string, HTMLElement>} */
  const made = new Map();
  const buttons = pages.map(({ id, name }) =>
    make("button", { type: "button", class: "page", "data-page": id, onclick: () => open(id) }, name),
  );
  const open = (/** @type {string} */ id) => {
    const page = pages.find((each) => each.id === id) ?? pages[0];
    if (!made.has(page.id)) made.set(page.id, page.make());
    fill(place, made.get(page.id));
    document.body.dataset.page = page.id;
    for (const button of buttons)
      if (button.dataset.page === page.id) button.setAttribute("aria-current", "page");
      else button.removeAttribute("aria-current");
  };
  fill(nav, buttons);
  return open;
}
