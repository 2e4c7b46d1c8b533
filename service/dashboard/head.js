/** One head: its map with every token hovered or held, the tokens shaded by one row, and that row in figures. */

import { fill, make, makeChoice } from "./dom.js";
import { makeLines } from "./lines.js";
import { makeMapView } from "./mapview.js";
import { headName, percent } from "./number.js";
import { makeRamp, makeScales } from "./overview.js";
import { partOf } from "./part.js";
import { makeRow } from "./row.js";
import { makeTable } from "./table.js";
import { makeTaking } from "./taking.js";
import "./tokens.js";

/** @typedef {import("./session.js").Session} Session */

/**
 * @param {Session} session
 * @returns {HTMLElement}
 */
export function makeHead(session) {
  const title = make("h2", { "aria-live": "polite" });
  session.store.follow(["analysis", "group", "layer", "head"], ({ layer, head }) => fill(title, "Head ", headName(layer, head)));
  const views = { map: makeMapView(session), lines: makeLines(session), table: makeTable(session) };
  const body = make("div", { class: "head-body" }, views.map);
  const pick = makeChoice(
    "Form",
    [
      ["map", "Map"],
      ["lines", "Lines"],
      ["table", "Table"],
    ],
    "map",
    (form) => fill(body, views[/** @type {keyof typeof views} */ (form)]),
  );
  return make(
    "section",
    { class: "panel head", "aria-label": "One head" },
    make(
      "header",
      { class: "panel-head" },
      make("div", { class: "title-line" }, makeStep(session, -1), title, makeStep(session, 1)),
      pick,
    ),
    body,
    make("div", { class: "head-tools" }, makeScales(session), makeRamp({ low: 0, high: 1 }), makeHiding(session)),
    makeStrips(session),
    makeRow(session),
    makeTaking(session),
  );
}

/**
 * @param {Session} session
 * @param {number} by
 * @returns {HTMLElement}
 */
function makeStep(session, by) {
  const name = by < 0 ? "Previous head" : "Next head";
  const go = () => session.open({ head: session.store.state.head + by });
  return make(
    "button",
    { type: "button", class: "arrow", title: `${name} (${by < 0 ? "[" : "]"})`, "aria-label": name, onclick: go },
    by < 0 ? "‹" : "›",
  );
}

/**
 * @param {Session} session
 * @returns {HTMLElement}
 */
function makeHiding(session) {
  const box = make("input", { type: "checkbox", onchange: () => session.store.set({ hidesSpecial: box.checked }) });
  const said = make("span", { class: "muted", role: "status" });
  session.store.follow(["hidesSpecial", "map"], ({ hidesSpecial }) => {
    box.checked = hidesSpecial;
    const part = hidesSpecial ? partOf(session) : null;
    fill(said, part && `${percent(part.hidden)} of the weight is on them`);
  });
  return make("span", { class: "hiding" }, make("label", { class: "check" }, box, "Hide special tokens"), said);
}

/**
 * The tokens, shaded by what the query that one looks at looks at.
 * @param {Session} session
 * @returns {HTMLElement}
 */
export function makeStrips(session) {
  const queries = /** @type {import("./tokens.js").TokensElement} */ (document.createElement("kqv-tokens"));
  const keys = /** @type {import("./tokens.js").TokensElement} */ (document.createElement("kqv-tokens"));
  const strips = make("div", { class: "strips" });
  for (const strip of [queries, keys]) listen(session, strip, strip === keys);
  const isShared = () => session.group?.queries === session.group?.keys;
  session.store.follow(["analysis", "group"], () => {
    if (!session.group) return;
    queries.show(session.group.queries);
    keys.show(session.group.keys);
    fill(strips, isShared() ? [queries] : [makeStrip("From", queries), makeStrip("To", keys)]);
  });
  session.store.follow(["analysis", "group", "map", "row", "hover", "locked", "scale"], ({ scale }) => {
    const cell = session.cell;
    queries.shade(isShared() ? session.row : null, cell?.query ?? null, scale);
    if (!isShared()) keys.shade(session.row, null, scale);
  });
  return strips;
}

/**
 * @param {Session} session
 * @param {import("./tokens.js").TokensElement} strip
 * @param {boolean} isKeys
 */
function listen(session, strip, isKeys) {
  const cellOf = (/** @type {number | null} */ index) => {
    if (index === null) return null;
    const locked = session.store.state.locked ?? { query: 0, key: 0 };
    return isKeys ? { query: locked.query, key: index } : session.strongest(index);
  };
  strip.addEventListener("look", (event) => session.store.set({ hover: cellOf(/** @type {CustomEvent} */ (event).detail) }));
  strip.addEventListener("lock", (event) => session.lock(cellOf(/** @type {CustomEvent} */ (event).detail)));
}

/**
 * @param {string} name
 * @param {HTMLElement} strip
 */
const makeStrip = (name, strip) => make("div", { class: "strip" }, make("span", { class: "strip-name" }, name), strip);
