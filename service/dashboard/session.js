/** A text under a model, and where in it one is looking: what every view of it shares. */

import { measureBody, overviewBody, readAnalysis, readMeasure } from "./analysis.js";
import { isAbort } from "./api.js";
import { Latest, rest } from "./latest.js";
import { Maps } from "./maps.js";
import { measureOf } from "./measures.js";
import { Store } from "./store.js";
import { allOf, moved, rowOf, zoomed } from "./view.js";

/**
 * @typedef {import("./analysis.js").Analysis} Analysis
 * @typedef {import("./analysis.js").Group} Group
 * @typedef {import("./analysis.js").HeadMap} HeadMap
 * @typedef {import("./analysis.js").Recipe} Recipe
 * @typedef {import("./tensor.js").Tensor} Tensor
 */

/** @typedef {{query: number, key: number}} Cell */
/** @typedef {{query: number, weights: Float32Array}} Row */
/** @typedef {import("./analysis.js").Asked} Asked */

/**
 * @typedef {object} State
 * @property {Analysis | null} analysis
 * @property {string} group
 * @property {number} layer
 * @property {number} head
 * @property {string} measure
 * @property {import("./color.js").Scale} scale
 * @property {boolean} hidesSpecial
 * @property {import("./analysis.js").View | null} view what is in view of the map; all of it without
 * @property {HeadMap | null} map of the head, or of what is in view of it
 * @property {Row | null} row of the query that is held, where the map hasn't all of it
 * @property {Record<string, Asked>} asked what measures by name only are of each group, as `similarity group`
 * @property {boolean} isFetching whether a map or a row is on its way
 * @property {Cell | null} hover
 * @property {Cell | null} locked
 * @property {"idle" | "asking"} busy
 * @property {unknown} problem
 */

/** How long what is in view rests before it is asked for. */
const REST_MS = 120;

/** The query that is held until somebody holds another: one with something before it and after it. */
const FIRST_QUERY = 3;

/** Where one is after a step to other tokens. */
const NOWHERE = { hover: null, locked: null, map: null, row: null, view: null };

/** @returns {State} */
const beginning = () => ({
  analysis: null,
  group: "encoder",
  layer: 0,
  head: 0,
  measure: "entropy",
  scale: "linear",
  hidesSpecial: false,
  view: null,
  map: null,
  row: null,
  asked: {},
  isFetching: false,
  hover: null,
  locked: null,
  busy: "idle",
  problem: null,
});

export class Session {
  /**
   * @param {import("./api.js").Api} api
   * @param {{holds?: boolean}} [options] `holds`: whether it holds a cell by itself, so that there is something to see
   */
  constructor(api, { holds = true } = {}) {
    this.api = api;
    this.holds = holds;
    this.store = new Store(beginning());
    this.maps = new Maps(api);
    /** @type {AbortController | null} */
    this.asking = null;
    /** @type {[Recipe, Partial<State>] | null} */
    this.asked = null;
    this.drawing = new Latest();
    this.reading = new Latest();
    this.measuring = new Latest();
    this.pending = 0;
    this.store.follow(["analysis", "group", "layer", "head", "view"], () => void this.fetchMap());
    this.store.follow(["map", "locked"], () => void this.fetchRow());
    this.store.follow(["analysis", "measure"], () => void this.fetchMeasure());
  }

  /** @returns {Group | null} the group one is looking at */
  get group() {
    const { analysis, group } = this.store.state;
    return analysis?.groups.find((each) => each.name === group) ?? analysis?.groups[0] ?? null;
  }

  /** @returns {Cell | null} the cell one is looking at */
  get cell() {
    return this.store.state.hover ?? this.store.state.locked;
  }

  /** @returns {Float32Array | null} the weights of the query one is looking at; keys out of view may have none */
  get row() {
    return this.cell && this.rowOf(this.cell.query);
  }

  /** @returns {boolean} whether that row is of all keys */
  get isRowWhole() {
    return this.cell !== null && this.wholeRow(this.cell.query) !== null;
  }

  /**
   * @param {number} query
   * @returns {Float32Array | null}
   */
  rowOf(query) {
    const { map } = this.store.state;
    return this.wholeRow(query) ?? (map && rowOf(map, query));
  }

  /**
   * A query's weights on all keys, where they are known.
   * @param {number} query
   * @returns {Float32Array | null}
   */
  wholeRow(query) {
    const { analysis, row, layer, head, map } = this.store.state;
    const group = this.group;
    if (row?.query === query) return row.weights;
    if (!analysis || !group || !map) return null;
    const whole = this.maps.known(analysis, group, { group: group.name, layer, head }, allOf(group));
    return whole && rowOf(whole, query);
  }

  /**
   * The cell of a query's largest weight.
   * @param {number} query
   * @returns {Cell}
   */
  strongest(query) {
    const row = this.rowOf(query);
    return { query, key: row ? row.indexOf(Math.max(...row)) : 0 };
  }

  /** Hold a cell, or let it go if it is held already. @param {Cell | null} cell */
  lock(cell) {
    const { locked } = this.store.state;
    const isHeld = cell && locked && cell.query === locked.query && cell.key === locked.key;
    this.store.set({ locked: isHeld ? null : cell });
  }

  /**
   * Ask about a text; a former question is given up.
   * @param {Recipe} recipe
   * @param {Partial<State>} [view] where to look
   */
  async analyze(recipe, view = {}) {
    this.asking?.abort();
    const asking = new AbortController();
    this.asking = asking;
    this.asked = [recipe, view];
    this.store.set({ busy: "asking", problem: null });
    try {
      const analysis = await this.overview(recipe, asking.signal);
      const first = this.store.state.analysis === null ? sharpest(analysis) : {};
      const place = within(analysis, { ...this.store.state, ...first, ...view });
      const { locked } = this.holds ? view : this.store.state;
      const seen = { locked: locked ?? null, view: view.view ?? null };
      this.store.set({ ...view, ...NOWHERE, asked: {}, ...place, ...seenIn(analysis, place.group, seen), analysis });
    } catch (error) {
      if (!isAbort(error)) this.store.set({ problem: error });
    } finally {
      if (this.asking === asking) this.store.set({ busy: "idle" });
    }
  }

  /** Ask the last question once more. */
  async again() {
    if (this.asked) await this.analyze(...this.asked);
  }

  /** Give up what is being asked. */
  cancel() {
    this.asking?.abort();
  }

  /**
   * @param {Recipe} recipe
   * @param {AbortSignal} signal
   * @returns {Promise<Analysis>}
   */
  async overview(recipe, signal) {
    const [answer, special] = await Promise.all([
      this.api.ask("/v1/analyze", overviewBody(recipe), signal),
      this.specialTokens(recipe, signal),
    ]);
    return readAnalysis(recipe, answer, special);
  }

  /**
   * Which tokens the tokenizer added: those that come from no characters. Nothing where it can't tell.
   * @param {Recipe} recipe
   * @param {AbortSignal} signal
   * @returns {Promise<boolean[] | null>}
   */
  async specialTokens({ model, text }, signal) {
    try {
      const answer = await this.api.ask("/v1/tokenize", { model, input: text }, signal);
      return answer.results[0].offsets.map((/** @type {[number, number]} */ [start, stop]) => start === stop);
    } catch (error) {
      if (isAbort(error)) throw error;
      return null;
    }
  }

  /**
   * See so much of what is in view: a quarter of it, or four times as much.
   * @param {Cell} cell that stays where it is
   * @param {number} ratio
   */
  zoom(cell, ratio) {
    const group = this.group;
    if (group) this.store.set({ view: zoomed(this.store.state.view ?? allOf(group), group, cell, ratio) });
  }

  /**
   * See what is beside it.
   * @param {number} down queries
   * @param {number} right keys
   */
  pan(down, right) {
    const group = this.group;
    const { view } = this.store.state;
    if (group && view) this.store.set({ view: moved(view, group, down, right) });
  }

  /** @param {HeadMap} map */
  show(map) {
    this.store.set({ map });
    if (this.holds && !this.store.state.locked)
      this.store.set({ locked: this.strongest(Math.min(FIRST_QUERY, (this.group?.queries.length ?? 1) - 1)) });
  }

  /** Look at a head. @param {{group?: string, layer?: number, head?: number}} place */
  open(place) {
    const next = within(this.store.state.analysis, { ...this.store.state, ...place });
    this.store.set(next.group === this.store.state.group ? { ...next, row: null } : { ...NOWHERE, ...next });
  }

  /** The map of the head that is looked at, or of what is in view of it. */
  async fetchMap() {
    const { analysis, layer, head, view } = this.store.state;
    const group = this.group;
    this.drawing.giveUp();
    if (!analysis || !group) return;
    const place = { group: group.name, layer, head };
    const known = this.maps.known(analysis, group, place, view ?? allOf(group));
    if (known) this.show(known);
    else
      await this.fetch(this.drawing, async (signal) => {
        if (view) await rest(REST_MS, signal);
        this.show(await this.maps.fetch(analysis, group, place, view ?? allOf(group), signal));
      });
  }

  /** What the query that is held makes of all keys, where the map doesn't say. */
  async fetchRow() {
    const { analysis, layer, head, locked, map } = this.store.state;
    const group = this.group;
    if (!analysis || !group || !map || !locked || this.wholeRow(locked.query)) return this.reading.giveUp();
    const { query } = locked;
    if (!this.reading.begins([analysis, group, layer, head, query])) return; // another part of the map came: the row is on its way
    await this.fetch(this.reading, async (signal) => {
      await rest(REST_MS, signal);
      const weights = await this.maps.row(analysis, group, { group: group.name, layer, head }, query, signal);
      this.store.set({ row: { query, weights } });
    });
  }

  /** A measure that comes by name only, for it takes a pass of its own. */
  async fetchMeasure() {
    const { analysis, measure, asked } = this.store.state;
    this.measuring.giveUp();
    if (!analysis || !measureOf(measure).isByName || measure in asked || this.group?.measures[measure]) return;
    await this.fetch(this.measuring, async (signal) => {
      const answer = await this.api.ask("/v1/analyze", measureBody(analysis.recipe, measure), signal);
      this.store.set({ asked: { ...this.store.state.asked, [measure]: readMeasure(answer, measure) } });
    });
  }

  /**
   * What is known of a measure in the group that is looked at.
   * @param {string} id
   * @returns {Tensor | null} [layers][heads]
   */
  measured(id) {
    const group = this.group;
    return group?.measures[id] ?? (group && this.store.state.asked[id]?.[group.name]?.heads) ?? null;
  }

  /**
   * Ask for something, beside what else is asked for.
   * @param {Latest} latest
   * @param {(signal: AbortSignal) => Promise<void>} work
   */
  async fetch(latest, work) {
    this.pending += 1;
    this.store.set({ isFetching: true });
    try {
      await latest.run(work);
    } catch (error) {
      if (!isAbort(error)) this.store.set({ problem: error });
    } finally {
      this.pending -= 1;
      this.store.set({ isFetching: this.pending > 0 });
    }
  }
}

/**
 * The head of the least entropy: the first one to show.
 * @param {Analysis} analysis
 * @returns {{group?: string, layer?: number, head?: number}}
 */
function sharpest({ groups: [group] }) {
  const entropies = group.measures.entropy?.values;
  if (!entropies) return {};
  const place = entropies.indexOf(Math.min(...entropies));
  return { group: group.name, layer: Math.floor(place / group.heads.length), head: place % group.heads.length };
}

/**
 * Which cell is held and what is in view, of what there is.
 * @param {Analysis} analysis
 * @param {string} name
 * @param {{locked: Cell | null, view: import("./analysis.js").View | null}} wanted
 * @returns {{locked: Cell | null, view: import("./analysis.js").View | null}}
 */
function seenIn({ groups }, name, { locked, view }) {
  const group = /** @type {Group} */ (groups.find((each) => each.name === name));
  const isThere = locked && locked.query < group.queries.length && locked.key < group.keys.length;
  const isSeen = view && view.rows[1] <= group.queries.length && view.columns[1] <= group.keys.length;
  return { locked: isThere ? locked : null, view: isSeen ? view : null };
}

/**
 * The nearest place that there is.
 * @param {Analysis | null} analysis
 * @param {{group: string, layer: number, head: number}} wanted
 * @returns {{group: string, layer: number, head: number}}
 */
export function within(analysis, { group, layer, head }) {
  const found = analysis?.groups.find((each) => each.name === group) ?? analysis?.groups[0];
  if (!found) return { group, layer, head };
  const clamp = (/** @type {number} */ index, /** @type {number} */ count) => Math.min(Math.max(index, 0), count - 1);
  return { group: found.name, layer: clamp(layer, found.layers.length), head: clamp(head, found.heads.length) };
}
