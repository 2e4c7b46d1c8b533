/** The page of /embed: one `<kqv-attention>`, as the address describes it. */

import { AttentionElement } from "./kqv-attention.js";
import { fromFragment } from "./recipe.js";

/** What is shown where the address names no text. */
const EXAMPLE = "The cat sat on the mat.";

/** The attributes come from the query, or from behind the `#`, where no log sees them; a token from there alone. */
async function open() {
  const element = new AttentionElement();
  const fragment = new URLSearchParams(location.hash.slice(1));
  element.token = fragment.get("token");
  const shared = await fromFragment(location.hash).catch(() => null);
  const given = {
    text: EXAMPLE,
    ...shared?.recipe,
    ...shared?.view,
    ...Object.fromEntries(new URLSearchParams(location.search)),
    ...Object.fromEntries(fragment),
  };
  for (const name of AttentionElement.observedAttributes)
    if (name !== "src" && name in given) element.setAttribute(name, String(given[/** @type {keyof typeof given} */ (name)]));
  element.setAttribute("src", location.origin);
  document.body.append(element);
}

addEventListener("hashchange", () => location.reload());
void open();
