/** The maps of heads as they are asked for: kept while there is one analysis, for each costs the service a pass. */

import { headBody, THUMBNAIL } from "./analysis.js";
import { Tensor } from "./tensor.js";
import { allOf, crop, lengthOf } from "./view.js";

/**
 * @typedef {import("./analysis.js").Analysis} Analysis
 * @typedef {import("./analysis.js").Group} Group
 * @typedef {import("./analysis.js").HeadMap} HeadMap
 * @typedef {import("./analysis.js").HeadPlace} HeadPlace
 * @typedef {import("./analysis.js").View} View
 */

/** The longest side that comes whole; of more, the largest weight of each tile. */
export const SIDE = 512;
/** Most maps that are kept: one is up to a megabyte. */
const MOST_KEPT = 24;

export class Maps {
  /** @param {import("./api.js").Api} api */
  constructor(api) {
    this.api = api;
    /** @type {Analysis | null} */
    this.analysis = null;
    /** @type {Map<string, HeadMap>} latest last */
    this.kept = new Map();
  }

  /**
   * A head's map, or what is in view of it, where that is known already.
   * @param {Analysis} analysis
   * @param {Group} group
   * @param {HeadPlace} place
   * @param {View} view
   * @returns {HeadMap | null}
   */
  known(analysis, group, place, view) {
    if (this.analysis !== analysis) this.kept.clear();
    this.analysis = analysis;
    const { thumbnails } = group;
    const whole =
      thumbnails && isWithin(group, THUMBNAIL)
        ? fromThumbnail(group, thumbnails, place)
        : this.kept.get(nameOf(place, allOf(group)));
    if (whole && isWithin(group, SIDE)) return crop(whole, view);
    return this.kept.get(nameOf(place, view)) ?? null;
  }

  /**
   * That, asked of the service where it has to be: all at once where it is small enough to stay here.
   * @param {Analysis} analysis
   * @param {Group} group
   * @param {HeadPlace} place
   * @param {View} view
   * @param {AbortSignal} signal
   * @returns {Promise<HeadMap>}
   */
  async fetch(analysis, group, place, view, signal) {
    const wanted = isWithin(group, SIDE) ? allOf(group) : view;
    const body = headBody(analysis.recipe, place, isWithin(group, SIDE) ? null : view, SIDE);
    const answer = await this.api.ask("/v1/analyze", { ...body, encoding: "base64" }, signal);
    const found = answer.results[0].attention[group.name];
    const { values, shape } = Tensor.decode(found.weights ?? found.pooled).at(0, 0);
    const map = { values, rows: shape[0], columns: shape[1], view: wanted };
    if (this.analysis === analysis) this.keep(nameOf(place, wanted), map);
    return wanted === view ? map : crop(map, view);
  }

  /**
   * What one query makes of all keys.
   * @param {Analysis} analysis
   * @param {Group} group
   * @param {HeadPlace} place
   * @param {number} query
   * @param {AbortSignal} signal
   * @returns {Promise<Float32Array>}
   */
  async row(analysis, group, place, query, signal) {
    const view = { ...allOf(group), rows: /** @type {[number, number]} */ ([query, query + 1]) };
    const name = nameOf(place, view);
    const known = this.kept.get(name);
    if (known && this.analysis === analysis) return known.values;
    const body = headBody(analysis.recipe, place, view);
    const answer = await this.api.ask("/v1/analyze", { ...body, encoding: "base64" }, signal);
    const { values } = Tensor.decode(answer.results[0].attention[group.name].weights);
    if (this.analysis === analysis) this.keep(name, { values, rows: 1, columns: values.length, view });
    return values;
  }

  /**
   * @param {string} name
   * @param {HeadMap} map
   */
  keep(name, map) {
    this.kept.set(name, map);
    if (this.kept.size > MOST_KEPT) this.kept.delete(/** @type {string} */ (this.kept.keys().next().value));
  }
}

/**
 * @param {HeadPlace} place
 * @param {View} view
 */
const nameOf = ({ group, layer, head }, { rows, columns }) => [group, layer, head, ...rows, ...columns].join();

/**
 * @param {Group} group
 * @param {number} side
 */
const isWithin = (group, side) => Math.max(lengthOf(allOf(group).rows), lengthOf(allOf(group).columns)) <= side;

/**
 * @param {Group} group
 * @param {import("./tensor.js").Tensor} thumbnails
 * @param {HeadPlace} place
 * @returns {HeadMap}
 */
function fromThumbnail(group, thumbnails, { layer, head }) {
  const map = thumbnails.at(group.layers.indexOf(layer), group.heads.indexOf(head));
  return { values: map.values, rows: map.shape[0], columns: map.shape[1], view: allOf(group) };
}
