/** The system's theme, or one's own, which this browser alone remembers; theme.js reads it when the page opens. */

import { makeChoice } from "./dom.js";

const NAME = "kqv-theme";

/** @returns {HTMLElement} */
export function makeThemes() {
  return makeChoice(
    "Theme",
    [
      ["system", "System"],
      ["light", "Light"],
      ["dark", "Dark"],
    ],
    document.documentElement.dataset.theme ?? "system",
    choose,
  );
}

/** @param {string} theme */
function choose(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("themechange"));
  try {
    if (theme === "system") localStorage.removeItem(NAME);
    else localStorage.setItem(NAME, theme);
  } catch {
    // Where nothing may be stored, it lasts as long as the page.
  }
}
