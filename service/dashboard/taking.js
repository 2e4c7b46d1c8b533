/** What one can take along from a head: a link, the question, the picture, the numbers. */

import { make } from "./dom.js";
import { linkTo, makeCopier } from "./linking.js";
import { headName } from "./number.js";
import { partOf } from "./part.js";
import { toCsv, toHtml, toPng, toSvg } from "./picture.js";
import { asCurl, asPython } from "./snippets.js";

/** @typedef {import("./session.js").Session} Session */

/**
 * @param {Session} session
 * @returns {HTMLElement}
 */
export function makeTaking(session) {
  const { parts, copy } = makeCopier();
  const button = (/** @type {string} */ name, /** @type {() => void} */ onclick) =>
    make("button", { type: "button", class: "link", onclick }, name);
  const base = () => session.api.base || location.origin;
  const isReached = !base().endsWith(".invalid"); // from a notebook there is no address to ask or to link to
  const asked = () => /** @type {const} */ ([base(), recipeOf(session), placeOf(session)]);
  return make(
    "footer",
    { class: "taking" },
    ...(isReached
      ? [
          make("span", { class: "muted" }, "Copy"),
          button("Link", () => void linkTo(session, "look", {}).then((link) => copy("Link", link))),
          button("curl", () => void copy("Command", asCurl(...asked()))),
          button("Python", () => void copy("Program", asPython(...asked()))),
        ]
      : []),
    make("span", { class: "muted" }, "Save"),
    button("PNG", () => void toPng(pictureOf(session)).then((blob) => save(session, "png", blob))),
    button("SVG", () => save(session, "svg", new Blob([toSvg(pictureOf(session))], { type: "image/svg+xml" }))),
    button("CSV", () => save(session, "csv", new Blob([toCsv(pictureOf(session))], { type: "text/csv" }))),
    button("HTML", () =>
      save(session, "html", new Blob([toHtml(pictureOf(session), isReached ? asCurl(...asked()) : null)], { type: "text/html" })),
    ),
    parts,
  );
}

/** @param {Session} session */
const recipeOf = ({ store }) => /** @type {import("./analysis.js").Analysis} */ (store.state.analysis).recipe;

/** @param {Session} session */
const placeOf = ({ store: { state } }) => ({ group: state.group, layer: state.layer, head: state.head });

/**
 * @param {Session} session
 * @returns {import("./picture.js").Picture}
 */
function pictureOf(session) {
  const { layer, head, scale, analysis } = session.store.state;
  const part = /** @type {import("./part.js").Part} */ (partOf(session));
  const group = /** @type {import("./analysis.js").Group} */ (session.group);
  const recipe = recipeOf(session);
  return {
    title: `Head ${head} of layer ${layer}, ${analysis?.model}`,
    subtitle: recipe.text,
    values: part.values,
    rows: part.rows.map((index) => group.queries[index]),
    columns: part.columns.map((index) => group.keys[index]),
    range: { low: 0, high: 1, scale },
  };
}

/**
 * @param {Session} session
 * @param {string} ending
 * @param {Blob} blob
 */
function save(session, ending, blob) {
  const { layer, head, analysis } = session.store.state;
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: `${analysis?.model}-${headName(layer, head).replace(" ", "-")}.${ending}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
