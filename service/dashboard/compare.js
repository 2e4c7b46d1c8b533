/** Two maps and their difference: of two texts, heads, models, or of dense attention and what stands in for it. */

import { aroundZero, SCALE_NAMES } from "./color.js";
import { fill, make, makeChoice } from "./dom.js";
import { makeLink } from "./linking.js";
import { short, visible } from "./number.js";
import { makeRamp } from "./overview.js";
import { known, readView } from "./recipe.js";
import { Side } from "./side.js";

/**
 * @typedef {import("./session.js").Session} Session
 * @typedef {import("./side.js").Side} OneSide
 */

const SHARED = /** @type {const} */ (["hover", "locked", "scale", "hidesSpecial"]);

/**
 * @param {import("./api.js").Api} api
 * @param {import("./api.js").ModelCard[]} models
 * @param {Session} session whose text and head it begins with
 * @returns {import("./pages.js").Made}
 */
export function makeCompare(api, models, session) {
  const [a, b] = [new Side("A", api, models, true), new Side("B", api, models, false)];
  link(a.session, b.session);
  link(b.session, a.session);
  b.session.store.follow(["analysis"], () => b.session.store.set({ locked: a.session.store.state.locked }));
  let chosen = "heads";
  const start = (/** @type {string} */ preset) => {
    chosen = preset;
    const { group, layer, head } = session.store.state;
    const { model, text } = session.asked?.[0] ?? { model: models[0].id, text: "" };
    const [fields, view] = [
      { model, text, kind: "dense" },
      { group, layer, head },
    ];
    const other = otherOf(preset, fields, view, models);
    void a.set(fields, view);
    void b.set(other.fields, other.view);
  };
  const presets = makeChoice("Compare", PRESETS, chosen, start);
  const tell = () => ({ state: { preset: chosen, scale: a.session.store.state.scale, a: a.state, b: b.state } });
  const element = make(
    "div",
    { class: "compare" },
    make("div", { class: "compare-head" }, presets, makeSharedScale(a.session)),
    make("div", { class: "compare-sides" }, a.element, b.element, makeDifference(a.session, b.session)),
    makeLink(session, "compare", tell),
  );
  const begin = (/** @type {Record<string, unknown> | null} */ state) => {
    const shared = readState(state);
    if (!shared) return start(chosen);
    chosen = shared.preset;
    presets.choose(chosen);
    for (const [side, { fields, view }] of /** @type {const} */ ([
      [a, shared.a],
      [b, shared.b],
    ]))
      void side.set(fields, { ...view, ...(shared.scale ? { scale: shared.scale } : {}) });
  };
  return { element, begin };
}

/**
 * What a link says of both sides, if it does.
 * @param {Record<string, unknown> | null} state
 */
function readState(state) {
  const { preset = "heads", scale } = known(state, { preset: "string", scale: "string" });
  const [a, b] = [state?.a, state?.b].map(readSide);
  const isScale = SCALE_NAMES.some(([name]) => name === scale);
  return a && b ? { preset, a, b, ...(isScale ? { scale: /** @type {import("./color.js").Scale} */ (scale) } : {}) } : null;
}

/**
 * @param {any} side
 * @returns {{fields: import("./side.js").Fields, view: Partial<import("./session.js").State>} | null}
 */
function readSide(side) {
  const fields = known(side?.fields, { model: "string", text: "string", kind: "string", size: "index" });
  return "model" in fields && "text" in fields ? { fields, view: readView(side.view) } : null;
}

/** @type {[string, string][]} */
const PRESETS = [
  ["heads", "Two heads"],
  ["texts", "Two texts"],
  ["models", "Two models"],
  ["longformer", "Dense and Longformer"],
  ["linformer", "Dense and Linformer"],
  ["performer", "Dense and Performer"],
];

/**
 * What B begins with.
 * @param {string} preset
 * @param {{model: string, text: string, kind: string}} fields
 * @param {{group: string, layer: number, head: number}} view
 * @param {import("./api.js").ModelCard[]} models
 */
function otherOf(preset, fields, view, models) {
  const card = /** @type {import("./api.js").ModelCard} */ (models.find(({ id }) => id === fields.model) ?? models[0]);
  const alike =
    models.find(({ id, architecture }) => id !== card.id && architecture === card.architecture) ??
    models.find(({ id }) => id !== card.id);
  if (preset === "heads") return { fields, view: { ...view, head: (view.head + 1) % card.heads } };
  if (preset === "texts") return { fields: { ...fields, text: fields.text.replace(/(\w+)(\W*)$/, "sofa$2") }, view };
  if (preset === "models") return { fields: { ...fields, model: alike?.id ?? card.id }, view };
  return { fields: { ...fields, kind: preset }, view };
}

/**
 * What is pointed at in one is marked in the other.
 * @param {Session} from
 * @param {Session} to
 */
function link(from, to) {
  for (const name of SHARED)
    from.store.follow([name], (state) => {
      const isOther = JSON.stringify(state[name]) !== JSON.stringify(to.store.state[name]);
      if (isOther && to.store.state.analysis && from.store.state.analysis) to.store.set({ [name]: state[name] });
    });
}

/** @param {Session} session */
function makeSharedScale(session) {
  const scales = makeChoice("Scale of the colours", SCALE_NAMES, "linear", (scale) =>
    session.store.set({ scale: /** @type {any} */ (scale) }),
  );
  session.store.follow(["scale"], ({ scale }) => scales.choose(scale));
  return scales;
}

/**
 * @param {Session} a
 * @param {Session} b
 * @returns {HTMLElement}
 */
function makeDifference(a, b) {
  const map = /** @type {import("./map.js").MapElement} */ (document.createElement("kqv-map"));
  const [said, legend, readout] = [
    make("p", { class: "muted", role: "status" }),
    make("div", { class: "legend" }),
    make("p", { class: "readout" }),
  ];
  const frame = make("div", { class: "map-frame" }, map);
  map.addEventListener("look", (event) => a.store.set({ hover: cellOf(/** @type {CustomEvent} */ (event).detail) }));
  map.addEventListener("lock", (event) => a.lock(cellOf(/** @type {CustomEvent} */ (event).detail)));
  const draw = () => {
    const [one, other] = [a.store.state.map, b.store.state.map];
    const fits = one && other && one.rows === other.rows && one.columns === other.columns;
    frame.hidden = !fits;
    fill(said, describe(a, b));
    fill(legend);
    if (!fits) return;
    const values = one.values.map((value, index) => value - other.values[index]);
    const range = aroundZero(values);
    const [rows, columns] = [a.group?.queries ?? [], a.group?.keys ?? []];
    map.show({ values, rows, columns, range, label: "Difference A − B" });
    fill(
      legend,
      make("span", {}, `B more, ${short(range.low)}`),
      makeRamp(range),
      make("span", {}, `${short(range.high)}, A more`),
    );
    point();
  };
  const point = () => {
    const cell = a.cell;
    const toPlace = (/** @type {import("./session.js").Cell | null} */ each) => each && { row: each.query, column: each.key };
    map.mark(toPlace(a.store.state.hover), toPlace(a.store.state.locked));
    fill(readout, cell && !frame.hidden && readOut(a, b, cell));
  };
  for (const side of [a, b]) side.store.follow(["map", "analysis"], draw);
  a.store.follow(["hover", "locked"], point);
  return make(
    "section",
    { class: "panel side", "aria-label": "Difference" },
    make("h2", {}, "A − B"),
    said,
    make("div", { class: "side-rest" }, readout, legend),
    frame,
  );
}

/** @param {import("./map.js").Place | null} place */
const cellOf = (place) => place && { query: place.row, key: place.column };

/**
 * @param {Session} a
 * @param {Session} b
 * @param {import("./session.js").Cell} cell
 * @returns {(Node | string)[]}
 */
function readOut(a, b, { query, key }) {
  const [one, other] = [a.row?.[key] ?? Number.NaN, weightAt(b, query, key)];
  const [from, to] = [a.group?.queries[query] ?? "", a.group?.keys[key] ?? ""];
  const figure = make("span", { class: "figure" }, short(one - other));
  return [make("b", {}, visible(from)), " → ", make("b", {}, visible(to)), `  ${short(one)} − ${short(other)} = `, figure];
}

/**
 * @param {Session} session
 * @param {number} query
 * @param {number} key
 * @returns {number}
 */
function weightAt({ store }, query, key) {
  const { map } = store.state;
  return map ? map.values[query * map.columns + key] : Number.NaN;
}

/**
 * How far apart the two are, in words.
 * @param {Session} a
 * @param {Session} b
 * @returns {(string | HTMLElement)[]}
 */
function describe(a, b) {
  const [one, other] = [a.store.state.map, b.store.state.map];
  if (!one || !other) return ["…"];
  if (one.rows !== other.rows || one.columns !== other.columns)
    return [
      `A is ${one.rows} × ${one.columns} tokens and B ${other.rows} × ${other.columns}: only maps of one size have a difference.`,
    ];
  const distance = one.values.reduce((sum, value, index) => sum + Math.abs(value - other.values[index]), 0) / (2 * one.rows);
  return [`Total variation ${short(distance)}, the mean over the queries.`, ...[a, b].flatMap(describeError)];
}

/**
 * What the service measured of another attention than dense.
 * @param {Session} session
 * @returns {string[]}
 */
function describeError(session) {
  const { layer, head } = session.store.state;
  const error = session.group?.comparison.output_error;
  return session.group?.attention && error
    ? [` The head’s output is ${short(error.item(layer, head))} of its length away from dense.`]
    : [];
}
