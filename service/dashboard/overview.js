/** All heads of a model on one text: chosen measure, coloured matrix, and the strongest of them in order. */

import { colorOf, SCALE_NAMES } from "./color.js";
import { fill, make, makeChanging, makeChoice } from "./dom.js";
import "./heads.js";
import { MANNERS, measureOf, PLACES, rangeOf } from "./measures.js";
import { short } from "./number.js";
import { makePairs } from "./pairs.js";
import { makeRanking } from "./ranking.js";

/** @typedef {import("./session.js").Session} Session */

/** The kinds of attention, as they are called. */
export const GROUP_NAMES = /** @type {Record<string, string>} */ ({ encoder: "Encoder", decoder: "Decoder", cross: "Cross" });

/**
 * @param {Session} session
 * @returns {HTMLElement}
 */
export function makeOverview(session) {
  const heads = /** @type {import("./heads.js").HeadsElement} */ (document.createElement("kqv-heads"));
  heads.addEventListener("open", (event) => session.open(/** @type {CustomEvent} */ (event).detail));
  followHeads(session, heads);
  return make(
    "section",
    { class: "panel overview", "aria-label": "All heads" },
    make("header", { class: "panel-head" }, make("h2", {}, "Heads"), makeGroups(session)),
    makeMeasures(session),
    make("div", { class: "heads-scroll" }, heads),
    makeLegend(session),
    makePairs(session),
    makeRanking(session),
  );
}

/**
 * @param {Session} session
 * @param {import("./heads.js").HeadsElement} heads
 */
function followHeads(session, heads) {
  session.store.follow(["analysis", "group"], ({ scale, measure, layer, head }) => {
    if (!session.group) return;
    heads.show(session.group, scale);
    heads.color(measure, session.measured(measure));
    heads.mark(layer, head);
  });
  session.store.follow(["measure", "asked"], ({ measure }) => heads.color(measure, session.measured(measure)));
  session.store.follow(["scale"], ({ scale }) => session.group && heads.drawThumbnails(scale));
  session.store.follow(["layer", "head"], ({ layer, head }) => heads.mark(layer, head));
}

/**
 * Encoder, decoder and cross-attention, for models that have more than one.
 * @param {Session} session
 * @returns {HTMLElement}
 */
function makeGroups(session) {
  const place = makeChanging("Kind of attention", (name) => session.open({ group: name }));
  session.store.follow(["analysis", "group"], ({ analysis, group }) => {
    const names = analysis?.groups.map(({ name }) => /** @type {[string, string]} */ ([name, GROUP_NAMES[name] ?? name])) ?? [];
    place.update(names, group);
  });
  return place;
}

/**
 * @param {Session} session
 * @returns {HTMLElement}
 */
function makeMeasures(session) {
  const choose = (/** @type {string} */ measure) => session.store.set({ measure });
  const pairs = (/** @type {typeof PLACES} */ measures) =>
    measures.map(({ id, name }) => /** @type {[string, string]} */ ([id, name]));
  const places = makeChoice("Where heads look", pairs(PLACES), "", choose);
  const manners = makeChoice("How heads look", pairs(MANNERS), "", choose);
  const meaning = make("p", { class: "meaning" });
  session.store.follow(["measure"], ({ measure }) => {
    places.choose(measure);
    manners.choose(measure);
    fill(meaning, make("strong", {}, measureOf(measure).name), " – ", measureOf(measure).meaning);
  });
  return make(
    "div",
    { class: "measures" },
    ...[
      make("span", { class: "measures-name" }, "Where they look"),
      places,
      make("span", { class: "measures-name" }, "How they look"),
      manners,
    ],
    meaning,
  );
}

/**
 * What the colours stand for.
 * @param {Session} session
 * @returns {HTMLElement}
 */
function makeLegend(session) {
  const legend = make("div", { class: "legend" });
  session.store.follow(["measure", "analysis", "group", "asked"], ({ measure }) => {
    const hasMaps = session.group?.thumbnails !== null;
    const range = rangeOf(measureOf(measure), session.measured(measure)?.values ?? []);
    fill(
      legend,
      make("span", {}, short(range.low)),
      makeRamp(range),
      make("span", {}, short(range.high)),
      make(
        "span",
        { class: "legend-note" },
        hasMaps ? "frame: the measure · inside: the head’s map" : "the measure; a text so long has its maps one by one",
      ),
    );
  });
  return legend;
}

/**
 * @param {{low: number, high: number, table?: Uint8ClampedArray}} range
 * @returns {HTMLElement}
 */
export function makeRamp(range) {
  const ramp = make("span", { class: "ramp", "aria-hidden": "true" });
  const colors = Array.from({ length: 17 }, (_, step) => colorOf(range.low + (step / 16) * (range.high - range.low), range));
  ramp.style.backgroundImage = `linear-gradient(to right, ${colors.join(", ")})`;
  return ramp;
}

/**
 * @param {Session} session
 * @returns {HTMLElement}
 */
export function makeScales(session) {
  const scales = makeChoice("Scale of the colours", SCALE_NAMES, "linear", (scale) =>
    session.store.set({ scale: /** @type {any} */ (scale) }),
  );
  session.store.follow(["scale"], ({ scale }) => scales.choose(scale));
  return scales;
}
