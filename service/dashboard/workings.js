/** Attention taken apart: what /v1/attend says of a head's own queries, keys and values, or of the caller's. */

import { inputOf } from "./analysis.js";
import { Problem } from "./api.js";
import { Tensor } from "./tensor.js";

/** The longest text that is taken apart. */
const MOST = 512;

/**
 * @typedef {object} Workings every step of one head
 * @property {string} title
 * @property {Tensor} q [n][d]
 * @property {Tensor} k [m][d]
 * @property {Tensor} v [m][d]
 * @property {Tensor} scores [n][m]
 * @property {Tensor} scaled [n][m], before the mask
 * @property {Tensor} masked [n][m], −∞ where the query may not look
 * @property {Tensor} weights [n][m]
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
  if (Math.max(group.queries.length, group.keys.length) > MOST)
    throw new Problem({
      title: "Too long to take apart",
      detail: `Six maps of more than ${MOST} tokens are more than one can look at; try a shorter text.`,
      status: 400,
    });
  const { model, input } = inputOf(analysis.recipe);
  const outputs = ["q", "k", "v", "scaled_scores"];
  const selection = { layers: [layer], heads: [head], weights: "full", diagnostics: "none", outputs, encoding: "base64" };
  const answer = await api.ask("/v1/analyze", { model, input, ...selection }, signal);
  const told = answer.results[0].attention[group.name];
  const [q, k, v] = [told.q, told.k, told.v].map((encoded) => ({ ...encoded, shape: encoded.shape.slice(2) }));
  const [scaled, weights] = [Tensor.decode(told.scaled_scores).at(0, 0), Tensor.decode(told.weights).at(0, 0)];
  const fit = fitScale(dot(Tensor.decode(q), Tensor.decode(k)), scaled, q.shape[1]);
  const mask = encode(
    "bool",
    scaled.shape,
    Uint8Array.from(scaled.values, (value) => Number(value > Number.NEGATIVE_INFINITY)),
  );
  const bias = fit.bias ? { bias: encode("float32", scaled.shape, new Uint8Array(fit.bias.buffer)) } : {};
  const body = { q, k, v, mask, scale: fit.scale, ...bias, encoding: "base64" };
  const found = readWorkings(await api.ask("/v1/attend", body, signal), { scale: fit.scale, bias: fit.bias, head: 0 });
  const error = found.weights.values.reduce((most, value, index) => Math.max(most, Math.abs(value - weights.values[index])), 0);
  return { ...found, title: `Head ${head} of layer ${layer}`, queries: group.queries, keys: group.keys, error };
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
    return { ...found, title: `Head ${head}`, queries, keys, error: null };
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
  return {
    ...{ q: at("q"), k: at("k"), v: at("v"), scores, scaled, scale, hasBias: bias !== null },
    ...{ masked: at("scaled_scores"), weights: at("weights"), outputs: at("head_outputs") },
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
