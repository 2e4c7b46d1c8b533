/** The heads of a layer against each other: where a measure is of pairs, the layer of the head that is open. */

import { fill, make } from "./dom.js";
import "./map.js";
import { headName, short } from "./number.js";

/** The most that the Jensen–Shannon divergence can be. */
const MOST = Math.LN2;

/**
 * @param {import("./session.js").Session} session
 * @returns {HTMLElement}
 */
export function makePairs(session) {
  const map = /** @type {import("./map.js").MapElement} */ (document.createElement("kqv-map"));
  const [title, said] = [make("p", { class: "pairs-title" }), make("p", { class: "muted pairs-said", "aria-live": "polite" })];
  const parts = [title, make("div", { class: "map-frame" }, map), said];
  const place = make("div", { class: "pairs", hidden: true });
  const tell = (/** @type {import("./map.js").Place | null} */ pair) => {
    const { layer, head } = session.store.state;
    const pairs = pairsOf(session);
    const { row, column } = pair ?? { row: head, column: pairs ? nearest(pairs.at(layer, head).values, head) : 0 };
    map.mark(pair, { row: head, column: head });
    fill(
      said,
      pairs && `${headName(layer, row)} and ${headName(layer, column)} are `,
      pairs && make("b", {}, short(pairs.item(layer, row, column))),
      pairs && (pair ? " apart; a click opens the first." : " apart, the nearest to the open head."),
    );
  };
  map.addEventListener("look", (event) => tell(/** @type {CustomEvent} */ (event).detail));
  map.addEventListener("lock", (event) => {
    const pair = /** @type {CustomEvent} */ (event).detail;
    if (pair) session.open({ head: pair.row });
  });
  session.store.follow(["measure", "asked", "group", "layer", "head", "analysis"], ({ layer }) => {
    const pairs = pairsOf(session);
    const group = session.group;
    place.hidden = !pairs || !group;
    if (!pairs || !group) return fill(place);
    if (!place.hasChildNodes()) fill(place, parts);
    fill(title, `Each head of layer ${layer} beside each other one, 0 to ln 2`);
    const names = group.heads.map((head) => `H${head}`);
    const range = { low: 0, high: MOST };
    map.show({
      values: pairs.at(layer).values,
      rows: names,
      columns: names,
      range,
      label: `Divergence of the heads of layer ${layer}`,
    });
    tell(null);
  });
  return place;
}

/**
 * @param {import("./session.js").Session} session
 * @returns {import("./tensor.js").Tensor | null} [layers][heads][heads]
 */
function pairsOf({ store: { state }, group }) {
  return (group && state.asked[state.measure]?.[group.name]?.pairs) ?? null;
}

/**
 * The place of the least value, but for one's own.
 * @param {Float32Array} values
 * @param {number} own
 */
function nearest(values, own) {
  const others = values.map((value, index) => (index === own ? Number.POSITIVE_INFINITY : value));
  return others.indexOf(Math.min(...others));
}
