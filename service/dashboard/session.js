/** A text under a model, and where in it one is looking: what every view of it shares. */

import { headBody, overviewBody, readAnalysis, THUMBNAIL } from "./analysis.js";
import { isAbort } from "./api.js";
import { Store } from "./store.js";
import { Tensor } from "./tensor.js";

/**
 * @typedef {import("./analysis.js").Analysis} Analysis
 * @typedef {import("./analysis.js").Group} Group
 * @typedef {import("./analysis.js").HeadMap} HeadMap
 * @typedef {import("./analysis.js").Recipe} Recipe
 */

/** @typedef {{query: number, key: number}} Cell */

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
 * @property {Cell | null} hover
 * @property {Cell | null} locked
 * @property {"idle" | "asking"} busy
 * @property {unknown} problem
 */

/** The longest side that comes whole; of more, the largest weight of each tile. */
export const SIDE = 512;

/** How much less of a map is in view after a step closer, and how little at least. */
const ZOOM = 4;
const LEAST = 32;

/** The query that is held until somebody holds another: one with something before it and after it. */
const FIRST_QUERY = 3;

/** Where one is after a step to other tokens. */
const NOWHERE = { hover: null, locked: null, map: null, view: null };

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
    /** @type {AbortController | null} */
    this.asking = null;
    /** @type {[Recipe, Partial<State>] | null} */
    this.asked = null;
    /** @type {AbortController | null} */
    this.fetching = null;
    this.store.follow(["analysis", "group", "layer", "head", "view"], () => void this.fetchMap());
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

  /** @returns {Float32Array | null} the weights of the query one is looking at, on all keys */
  get row() {
    const { map } = this.store.state;
    const cell = this.cell;
    return map && cell ? rowOf(map, cell.query) : null;
  }

  /**
   * The cell of a query's largest weight.
   * @param {number} query
   * @returns {Cell}
   */
  strongest(query) {
    const { map } = this.store.state;
    const row = map && rowOf(map, query);
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
      const { locked } = this.store.state;
      this.store.set({ ...view, ...NOWHERE, locked: this.holds ? null : locked, ...place, analysis });
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
   * See a quarter of what is in view, around a cell, or four times as much.
   * @param {Cell} cell
   * @param {boolean} into
   */
  zoom(cell, into) {
    const group = this.group;
    if (!group) return;
    const view = this.store.state.view ?? allOf(group);
    const rows = zoomed(view.rows, cell.query, group.queries.length, into);
    const columns = zoomed(view.columns, cell.key, group.keys.length, into);
    const isAll = rows[1] - rows[0] === group.queries.length && columns[1] - columns[0] === group.keys.length;
    this.store.set({ view: isAll ? null : { rows, columns } });
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
    this.store.set(next.group === this.store.state.group ? next : { ...NOWHERE, ...next });
  }

  /** The map of the head that is looked at, kept from the overview where that has it whole. */
  async fetchMap() {
    const { analysis, layer, head, view } = this.store.state;
    const group = this.group;
    if (!analysis || !group) return;
    this.fetching?.abort();
    const fetching = new AbortController();
    this.fetching = fetching;
    const whole = group.queries.length <= THUMBNAIL && group.keys.length <= THUMBNAIL;
    const place = { group: group.name, layer, head };
    try {
      const map = whole
        ? fromThumbnail(group, layer, head)
        : await this.headMap(analysis.recipe, group, place, view ?? allOf(group), fetching.signal);
      const now = this.store.state;
      if (now.analysis === analysis && this.group === group && now.layer === layer && now.head === head) this.show(map);
    } catch (error) {
      if (!isAbort(error)) this.store.set({ problem: error });
    }
  }

  /**
   * A head's map, or what is in view of it.
   * @param {Recipe} recipe
   * @param {Group} group
   * @param {import("./analysis.js").HeadPlace} place
   * @param {import("./analysis.js").View} [view]
   * @param {AbortSignal} [signal]
   * @returns {Promise<HeadMap>}
   */
  async headMap(recipe, group, place, view = allOf(group), signal) {
    const isAll = view.rows[1] - view.rows[0] === group.queries.length && view.columns[1] - view.columns[0] === group.keys.length;
    const isSmall = Math.max(group.queries.length, group.keys.length) <= SIDE;
    const body = headBody(recipe, place, isAll && isSmall ? null : view, SIDE);
    const answer = await this.api.ask("/v1/analyze", { ...body, encoding: "base64" }, signal);
    const found = answer.results[0].attention[group.name];
    const map = Tensor.decode(found.weights ?? found.pooled).at(0, 0);
    const [rows, columns] = map.shape;
    return { values: map.values, rows, columns, view };
  }
}

/**
 * The weights of a query, where they are whole: a row of tiles is none.
 * @param {HeadMap} map
 * @param {number} query
 * @returns {Float32Array | null}
 */
function rowOf({ values, rows, columns, view }, query) {
  const row = query - view.rows[0];
  const isWhole = view.rows[1] - view.rows[0] === rows && view.columns[1] - view.columns[0] === columns;
  if (!isWhole || row < 0 || row >= rows) return null;
  const weights = values.subarray(row * columns, (row + 1) * columns);
  if (view.columns[0] === 0) return weights;
  const moved = new Float32Array(view.columns[1]);
  moved.set(weights, view.columns[0]);
  return moved;
}

/**
 * @param {[number, number]} range
 * @param {number} middle
 * @param {number} length
 * @param {boolean} into
 * @returns {[number, number]}
 */
function zoomed([start, stop], middle, length, into) {
  const span = Math.min(Math.max(Math.round((stop - start) * (into ? 1 / ZOOM : ZOOM)), LEAST), length);
  const first = Math.min(Math.max(middle - Math.floor(span / 2), 0), length - span);
  return [first, first + span];
}

/**
 * @param {Group} group
 * @returns {import("./analysis.js").View}
 */
export const allOf = (group) => ({ rows: [0, group.queries.length], columns: [0, group.keys.length] });

/**
 * @param {Group} group
 * @param {number} layer
 * @param {number} head
 * @returns {HeadMap}
 */
function fromThumbnail(group, layer, head) {
  const map = group.thumbnails.at(group.layers.indexOf(layer), group.heads.indexOf(head));
  return { values: map.values, rows: map.shape[0], columns: map.shape[1], view: allOf(group) };
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
