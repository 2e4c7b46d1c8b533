/** What the service found in a text: the groups of attention, their heads, their maps. */

import { Tensor } from "./tensor.js";

/** Side of the thumbnails; a map of no more tokens is whole in them. */
export const THUMBNAIL = 32;

/** Characters of a text, some 2,000 tokens, beyond which heads have no thumbnails: to make them takes many times as long as the measures. */
const LONG = 8192;

/**
 * @typedef {object} Group one kind of attention
 * @property {string} name
 * @property {number[]} layers
 * @property {number[]} heads
 * @property {Tensor | null} thumbnails [layers][heads][p][r], the largest weight of each tile; null for a long text
 * @property {Record<string, Tensor>} measures [layers][heads]
 * @property {string[]} queries tokens
 * @property {string[]} keys tokens
 * @property {string | null} attention what it attended by, where that isn't the model's own
 * @property {Record<string, Tensor>} comparison its distance from dense, [layers][heads]
 */

/**
 * @typedef {object} Analysis
 * @property {Recipe} recipe
 * @property {string} model
 * @property {Group[]} groups
 * @property {boolean[]} special of the input's tokens
 * @property {number} truncated
 * @property {{row_sum_error: number, forbidden_mass: number} | undefined} checks
 * @property {{queue_ms: number, compute_ms: number, batch_sequences: number}} timing
 */

/** @typedef {Record<string, {heads: Tensor, pairs: Tensor | null}>} Asked what a measure by name only is of each group's heads, and of their pairs */
/** @typedef {{model: string, text: string, target?: string, attention?: Record<string, any>}} Recipe what to ask for */
/** @typedef {{values: Float32Array, rows: number, columns: number, view: View}} HeadMap what is in view of a head's map, a row for each query or tile of them */
/** @typedef {{group: string, layer: number, head: number}} HeadPlace */
/** @typedef {{rows: [number, number], columns: [number, number]}} View half-open ranges of queries and of keys */

/** Tokens that begin and end texts, and fill them up, as vocabularies spell them. */
const SPECIAL = /^(\[[A-Z]+\]|<\/?[a-z_|]+>)$/;

/**
 * The body that asks for all heads: their measures, and a thumbnail of each.
 * @param {Recipe} recipe
 * @returns {Record<string, any>}
 */
export function overviewBody(recipe) {
  return {
    ...inputOf(recipe),
    weights: recipe.text.length > LONG ? "none" : "pooled",
    pool: THUMBNAIL,
    diagnostics: "all",
    outputs: [],
    ...variantOf(recipe),
    encoding: "base64",
  };
}

/**
 * The body that asks for one head's map, or for what is in view of it: whole up to a side, and of more the largest weight of each tile.
 * @param {Recipe} recipe
 * @param {HeadPlace} place
 * @param {View | null} view all of the map without it
 * @param {number} side
 * @returns {Record<string, any>}
 */
export function headBody(recipe, { layer, head }, view = null, side = Number.POSITIVE_INFINITY) {
  const crop = view ? { queries: view.rows, keys: view.columns } : {};
  const sides = view ? [view.rows, view.columns].map(([start, stop]) => stop - start) : [0];
  const weights = Math.max(...sides) <= side ? { weights: "full" } : { weights: "pooled", pool: side };
  const variant = recipe.attention ? { attention: recipe.attention } : {};
  return { ...inputOf(recipe), layers: [layer], heads: [head], ...weights, ...crop, diagnostics: "none", outputs: [], ...variant };
}

/**
 * The body that asks for one measure of all heads.
 * @param {Recipe} recipe
 * @param {string} id
 * @returns {Record<string, any>}
 */
export function measureBody(recipe, id) {
  const variant = recipe.attention ? { attention: recipe.attention } : {};
  return { ...inputOf(recipe), weights: "none", diagnostics: [id], outputs: [], ...variant, encoding: "base64" };
}

/**
 * A measure of each group: of each head, or of each pair of a layer's heads and then a head's mean over the others.
 * @param {any} answer
 * @param {string} id
 * @returns {Asked}
 */
export function readMeasure(answer, id) {
  const groups = Object.entries(answer.results[0].attention).map(([name, { diagnostics }]) => {
    const found = Tensor.decode(diagnostics[id]);
    return [name, found.shape.length === 3 ? { heads: meanOfOthers(found), pairs: found } : { heads: found, pairs: null }];
  });
  return Object.fromEntries(groups);
}

/**
 * @param {Tensor} pairs [layers][heads][heads], 0 of a head and itself
 * @returns {Tensor} [layers][heads]
 */
function meanOfOthers(pairs) {
  const [layers, heads] = pairs.shape;
  const values = Float32Array.from({ length: layers * heads }, (_, index) => {
    const row = pairs.at(Math.floor(index / heads), index % heads).values;
    return row.reduce((sum, value) => sum + value, 0) / (heads - 1);
  });
  return new Tensor([layers, heads], values);
}

/**
 * @param {Recipe} recipe
 * @returns {{model: string, input: any}}
 */
export function inputOf({ model, text, target }) {
  return { model, input: target ? { text, target } : text };
}

/** @param {Recipe} recipe */
const variantOf = ({ attention }) => (attention ? { attention, compare: true } : {});

/**
 * Read an answer of /v1/analyze.
 * @param {Recipe} recipe
 * @param {any} answer
 * @param {boolean[] | null} special of each token of the input
 * @returns {Analysis}
 */
export function readAnalysis(recipe, answer, special) {
  const [result] = answer.results;
  const tokens = result.tokens ?? result.token_ids.map((/** @type {number} */ id) => `#${id}`);
  const target = result.target_tokens ?? result.target_token_ids?.map((/** @type {number} */ id) => `#${id}`) ?? tokens;
  const groups = Object.entries(result.attention).map(([name, group]) => readGroup(name, group, tokens, target));
  return {
    recipe,
    model: answer.model,
    groups,
    special: special?.length === tokens.length ? special : tokens.map(isSpecial),
    truncated: result.truncated,
    checks: result.checks,
    timing: answer.timing,
  };
}

/** @param {string} token */
export const isSpecial = (token) => SPECIAL.test(token);

/**
 * @param {string} name
 * @param {any} group
 * @param {string[]} tokens
 * @param {string[]} target
 * @returns {Group}
 */
function readGroup(name, group, tokens, target) {
  return {
    name,
    layers: group.layers,
    heads: group.heads,
    thumbnails: group.pooled ? Tensor.decode(group.pooled) : null,
    measures: decodeAll(group.diagnostics),
    queries: name === "encoder" || target === tokens ? tokens : target,
    keys: name === "decoder" ? target : tokens,
    attention: group.attention ?? null,
    comparison: decodeAll(group.comparison ?? {}),
  };
}

/**
 * @param {Record<string, import("./tensor.js").Encoded>} encoded
 * @returns {Record<string, Tensor>}
 */
export function decodeAll(encoded) {
  return Object.fromEntries(Object.entries(encoded).map(([id, each]) => [id, Tensor.decode(each)]));
}

/**
 * Whether each token of a side of a group is special.
 * @param {Analysis} analysis
 * @param {string[]} tokens
 * @returns {boolean[]}
 */
export function specialOf(analysis, tokens) {
  return tokens.length === analysis.special.length ? analysis.special : tokens.map(isSpecial);
}
