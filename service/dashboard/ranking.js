/** The heads in the order of a measure, to be searched by name or by value. */

import { colorOf } from "./color.js";
import { fill, make } from "./dom.js";
import { measureOf, rangeOf } from "./measures.js";
import { headName, short } from "./number.js";

/** @typedef {{layer: number, head: number, value: number}} Ranked */

/**
 * @param {import("./session.js").Session} session
 * @returns {HTMLElement}
 */
export function makeRanking(session) {
  const list = make("ol", { class: "ranking-list" });
  const search = make("input", {
    type: "search",
    class: "search",
    placeholder: "L0, H2, > 0.5",
    "aria-label": "Search heads by name or value",
    oninput: () => draw(),
  });
  const order = make(
    "button",
    { type: "button", class: "quiet", "aria-pressed": "false", onclick: () => turn() },
    "Strongest first",
  );
  const turn = () => {
    const isAscending = order.getAttribute("aria-pressed") !== "true";
    order.setAttribute("aria-pressed", String(isAscending));
    fill(order, isAscending ? "Weakest first" : "Strongest first");
    draw();
  };
  const draw = () => {
    const { measure } = session.store.state;
    const ranked = rank(session, order.getAttribute("aria-pressed") === "true").filter(matches(search.value));
    fill(
      list,
      ranked.length
        ? ranked.map((each) => makeRow(session, each, measure))
        : make("li", { class: "nothing" }, "No head is like that."),
    );
    markOpen();
  };
  const markOpen = () => {
    const { layer, head } = session.store.state;
    for (const button of list.querySelectorAll("button"))
      if (button.dataset.name === headName(layer, head)) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
  };
  session.store.follow(["analysis", "group", "measure", "asked"], draw);
  session.store.follow(["layer", "head"], markOpen);
  return make("div", { class: "ranking" }, make("div", { class: "ranking-head" }, order, search), list);
}

/**
 * @param {import("./session.js").Session} session
 * @param {boolean} isAscending
 * @returns {Ranked[]} those without a value are last
 */
function rank(session, isAscending) {
  const group = session.group;
  const values = session.measured(session.store.state.measure);
  if (!group || !values) return [];
  const all = group.layers.flatMap((_, layer) => group.heads.map((_, head) => ({ layer, head, value: values.item(layer, head) })));
  const known = all
    .filter(({ value }) => Number.isFinite(value))
    .sort((one, other) => (isAscending ? 1 : -1) * (one.value - other.value));
  return [...known, ...all.filter(({ value }) => !Number.isFinite(value))];
}

/**
 * What a search means: `L0`, `H2`, both, or a comparison such as `> 0.5`.
 * @param {string} text
 * @returns {(each: Ranked) => boolean}
 */
export function matches(text) {
  const bound = text.match(/([<>])\s*(\d*\.?\d+)/);
  const layer = text.match(/l\D{0,5}\s*(\d+)/i);
  const head = text.match(/h\D{0,4}\s*(\d+)/i);
  return (each) =>
    (!layer || each.layer === Number(layer[1])) &&
    (!head || each.head === Number(head[1])) &&
    (!bound || (bound[1] === "<" ? each.value < Number(bound[2]) : each.value > Number(bound[2])));
}

/**
 * @param {import("./session.js").Session} session
 * @param {Ranked} ranked
 * @param {string} id
 * @returns {HTMLElement}
 */
function makeRow(session, { layer, head, value }, id) {
  const values = session.measured(id)?.values ?? [];
  const range = rangeOf(measureOf(id), values);
  const bar = make("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", String(Number.isFinite(value) ? value / range.high : 0));
  bar.style.setProperty("--color", colorOf(value, range));
  const open = () => session.open({ layer, head });
  return make(
    "li",
    {},
    make(
      "button",
      { type: "button", class: "ranking-row", "data-name": headName(layer, head), onclick: open },
      ...[make("span", { class: "ranking-name" }, headName(layer, head)), bar, make("span", { class: "figure" }, short(value))],
    ),
  );
}
