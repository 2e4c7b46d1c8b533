/** Attention taken apart: what /v1/attend says of a head's own queries, keys and values, or of the caller's. */

import { inputOf } from "./analysis.js";
import { Tensor } from "./tensor.js";
import { allOf, held, lengthOf } from "./view.js";

/** The longest text of which all is shown at once, and how much of a longer one is. */
const MOST = 512;
const PART = 96;

/** @typedef {import("./analysis.js").View} View */

/**
 * @typedef {object} Workings every step of one head, for the queries and keys in view
 * @property {string} title
 * @property {View} view
 * @property {[number, number]} lengths of the text: queries and keys that there are
 * @property {Tensor} q [n][d]
 * @property {Tensor} k [m][d]
 * @property {Tensor} v [m][d]
 * @property {Tensor} scores [n][m]
 * @property {Tensor} scaled [n][m], before the mask
 * @property {Tensor} masked [n][m], −∞ where the query may not look
 * @property {Tensor} weights [n][m]
 * @property {Float32Array} most [n] largest masked score of a query, over all keys
 * @property {Float32Array} sums [n] Σ exp(score − most), over all keys
 * @property {Tensor} outputs [n][d]
 * @property {number} scale
 * @property {boolean} hasBias
 * @property {string[]} queries
 * @property {string[]} keys
 * @property {number | null} error largest difference from the weights that the model used
 */

/**
 * The workings of a head of a model, computed once more from its queries, keys and values.
 * @param {import("./session.js").Session} session
 * @param {AbortSignal} signal
 * @returns {Promise<Workings>}
 */
export async function ofHead({ api, store, group }, signal) {
  const { analysis, layer, head } = store.state;
  if (!analysis || !group) throw new Error("there is no head yet");
  const view = viewOf(store.state, group);
  const { model, input } = inputOf(analysis.recipe);
  const outputs = ["q", "k", "v", "scaled_scores"];
  const crop = isLong(group) ? { queries: view.rows } : {};
  const asked = { layers: [layer], heads: [head], ...crop, weights: "full", diagnostics: "none", outputs };
  const answer = await api.ask("/v1/analyze", { model, input, ...asked, encoding: "base64" }, signal);
  const told = answer.results[0].attention[group.name];
  const [allQ, k, v] = [told.q, told.k, told.v].map((each) => Tensor.decode(each).at(0, 0));
  const q = rowsOf(allQ, view.rows);
  const [scaled, weights] = [Tensor.decode(told.scaled_scores).at(0, 0), Tensor.decode(told.weights).at(0, 0)];
  const fit = fitScale(dot(q, k), scaled, q.shape[1]);
  const mask = encode(
    "bool",
    scaled.shape,
    Uint8Array.from(scaled.values, (value) => Number(value > Number.NEGATIVE_INFINITY)),
  );
  const bias = fit.bias ? { bias: encodeTensor(new Tensor(scaled.shape, fit.bias)) } : {};
  const tensors = { q: encodeTensor(q), k: encodeTensor(k), v: encodeTensor(v) };
  const body = { ...tensors, mask, scale: fit.scale, ...bias, encoding: "base64" };
  const found = readWorkings(await api.ask("/v1/attend", body, signal), { scale: fit.scale, bias: fit.bias, head: 0 });
  const error = found.weights.values.reduce((most, value, index) => Math.max(most, Math.abs(value - weights.values[index])), 0);
  const names = { queries: group.queries.slice(...view.rows), keys: group.keys.slice(...view.columns) };
  const lengths = /** @type {[number, number]} */ ([group.queries.length, group.keys.length]);
  return { ...inView(found, view.columns), ...names, title: `Head ${head} of layer ${layer}`, view, lengths, error };
}

/** @param {import("./analysis.js").Group | null} group */
export const isLong = (group) => group !== null && Math.max(group.queries.length, group.keys.length) > MOST;

/**
 * What is taken apart of a text: all of it, or of a long one what is in view, or else what is around the cell that is held.
 * @param {import("./session.js").State} state
 * @param {import("./analysis.js").Group} group
 * @returns {View}
 */
function viewOf({ view, locked }, group) {
  const [queries, keys] = [group.queries.length, group.keys.length];
  if (!isLong(group)) return allOf(group);
  const around = (/** @type {[number, number] | undefined} */ range, /** @type {number} */ place, /** @type {number} */ length) =>
    range && lengthOf(range) <= PART ? range : held(nearestIn(range, place) - PART / 2, Math.min(PART, length), length);
  return { rows: around(view?.rows, locked?.query ?? 0, queries), columns: around(view?.columns, locked?.key ?? 0, keys) };
}

/**
 * A place, or the middle of the range that it isn't in.
 * @param {[number, number] | undefined} range
 * @param {number} place
 */
const nearestIn = (range, place) =>
  range && (place < range[0] || place >= range[1]) ? Math.floor((range[0] + range[1]) / 2) : place;

/**
 * Whether what is taken apart has the cell that is held, and nobody has come closer to something else.
 * @param {Workings} workings
 * @param {import("./session.js").State} state
 */
export function isInPart({ view }, state) {
  const isCloser = state.view && Math.max(lengthOf(state.view.rows), lengthOf(state.view.columns)) <= PART;
  const { query, key } = state.locked ?? { query: view.rows[0], key: view.columns[0] };
  const has = (/** @type {[number, number]} */ [start, stop], /** @type {number} */ place) => place >= start && place < stop;
  return !isCloser && has(view.rows, query) && has(view.columns, key);
}

/**
 * The same with the keys in view alone: what the softmax was over, it still is.
 * @template {Pick<Workings, "k" | "v" | "scores" | "scaled" | "masked" | "weights">} Found
 * @param {Found} found
 * @param {[number, number]} columns
 * @returns {Found}
 */
function inView(found, columns) {
  const { scores, scaled, masked, weights } = found;
  const [k, v] = [rowsOf(found.k, columns), rowsOf(found.v, columns)];
  const cut = Object.entries({ scores, scaled, masked, weights }).map(([name, tensor]) => [name, columnsOf(tensor, columns)]);
  return { ...found, ...Object.fromEntries(cut), k, v };
}

/**
 * @param {Tensor} matrix
 * @param {[number, number]} range
 */
function rowsOf({ shape, values }, [start, stop]) {
  return new Tensor([stop - start, shape[1]], values.slice(start * shape[1], stop * shape[1]));
}

/**
 * @param {Tensor} matrix
 * @param {[number, number]} range
 */
function columnsOf(matrix, [start, stop]) {
  const [rows, width] = [matrix.shape[0], stop - start];
  if (width === matrix.shape[1]) return matrix;
  const values = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) values.set(matrix.at(row).values.subarray(start, stop), row * width);
  return new Tensor([rows, width], values);
}

/**
 * The workings of tensors of one's own.
 * @param {import("./api.js").Api} api
 * @param {Record<string, any>} body of /v1/attend
 * @param {AbortSignal} signal
 * @returns {Promise<Workings[]>} a head each
 */
export async function ofTensors(api, body, signal) {
  const answer = await api.ask("/v1/attend", { ...body, encoding: "base64" }, signal);
  const heads = answer.q.shape[0];
  return Array.from({ length: heads }, (_, head) => {
    const width = answer.q.shape[2];
    const found = readWorkings(answer, { scale: body.scale ?? 1 / Math.sqrt(width), bias: null, head });
    const names = (/** @type {string} */ letter, /** @type {number} */ count) =>
      Array.from({ length: count }, (_, index) => `${letter}${index}`);
    const [queries, keys] = [names("q", found.q.shape[0]), names("k", found.k.shape[0])];
    const lengths = /** @type {[number, number]} */ ([queries.length, keys.length]);
    const view = /** @type {View} */ ({ rows: [0, lengths[0]], columns: [0, lengths[1]] });
    return { ...found, title: `Head ${head}`, queries, keys, view, lengths, error: null };
  });
}

/**
 * @param {any} answer of /v1/attend
 * @param {{scale: number, bias: Float32Array | null, head: number}} known
 */
function readWorkings(answer, { scale, bias, head }) {
  const at = (/** @type {string} */ name) => Tensor.decode(answer[name]).at(head);
  const scores = at("scores");
  const scaled = new Tensor(
    scores.shape,
    scores.values.map((value, index) => value * scale + (bias?.[index] ?? 0)),
  );
  const masked = at("scaled_scores");
  const most = Float32Array.from({ length: masked.shape[0] }, (_, row) => Math.max(...masked.at(row).values));
  const sums = most.map((largest, row) => masked.at(row).values.reduce((sum, value) => sum + Math.exp(value - largest), 0));
  return {
    ...{ q: at("q"), k: at("k"), v: at("v"), scores, scaled, scale, hasBias: bias !== null },
    ...{ masked, most, sums, weights: at("weights"), outputs: at("head_outputs") },
  };
}

/**
 * By what a head scales its scores, and what it adds to them: told from both, for the answer names neither. What is added depends on
 * places alone, so of the two scales that there are (1/√d, and T5's 1) it is the one that leaves the same along each diagonal.
 * @param {Tensor} scores
 * @param {Tensor} scaled
 * @param {number} width
 * @returns {{scale: number, bias: Float32Array | null}}
 */
export function fitScale(scores, scaled, width) {
  const fits = [1 / Math.sqrt(width), 1].map((scale) => {
    const bias = scaled.values.map((value, index) => (Number.isFinite(value) ? value - scores.values[index] * scale : 0));
    return { scale, bias, roughness: roughness(bias, scaled) };
  });
  const { scale, bias } = fits[0].roughness <= fits[1].roughness ? fits[0] : fits[1];
  return { scale, bias: bias.some((value) => Math.abs(value) > 1e-3) ? bias : null };
}

/**
 * How much a matrix differs from its neighbour down the diagonal.
 * @param {Float32Array} bias
 * @param {Tensor} scaled
 * @returns {number}
 */
function roughness(bias, { shape: [rows, columns], values }) {
  let sum = 0;
  for (let row = 1; row < rows; row++)
    for (let column = 1; column < columns; column++) {
      const [here, before] = [row * columns + column, (row - 1) * columns + column - 1];
      if (Number.isFinite(values[here]) && Number.isFinite(values[before])) sum += Math.abs(bias[here] - bias[before]);
    }
  return sum;
}

/**
 * Q·Kᵀ.
 * @param {Tensor} q
 * @param {Tensor} k
 * @returns {Tensor}
 */
function dot(q, k) {
  const [rows, columns, width] = [q.shape[0], k.shape[0], q.shape[1]];
  const values = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      for (let index = 0; index < width; index++)
        values[row * columns + column] += q.values[row * width + index] * k.values[column * width + index];
  return new Tensor([rows, columns], values);
}

/**
 * @param {Tensor} tensor on memory of its own, or part of another's
 * @returns {import("./tensor.js").Encoded}
 */
const encodeTensor = ({ shape, values }) =>
  encode("float32", shape, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));

/**
 * @param {string} dtype
 * @param {number[]} shape
 * @param {Uint8Array} bytes
 * @returns {import("./tensor.js").Encoded}
 */
function encode(dtype, shape, bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192) text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  return { dtype, shape, data: btoa(text) };
}
