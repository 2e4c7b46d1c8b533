/** A text while it is written: each new token, and the row of weights by which it was chosen. */

import { Tensor } from "./tensor.js";

/**
 * @typedef {object} Row
 * @property {string} token
 * @property {string} text
 * @property {Record<string, Tensor>} weights [heads][keys] of each kind of attention: the last query's
 */

/**
 * @typedef {object} Written
 * @property {string[]} read tokens that the model was given: the prompt of a decoder, or the source of an encoder–decoder
 * @property {string[]} prompt tokens before the first new one, in the decoder
 * @property {Row[]} rows
 * @property {string | null} reason why it ended; null while it goes on
 */

/** @typedef {{model: string, input: string, max_new_tokens: number, temperature: number, seed?: number, layers: number[]}} Task */

/**
 * Write, and tell of each token.
 * @param {import("./api.js").Api} api
 * @param {Task} task
 * @param {(written: Written) => void} tell
 * @param {AbortSignal} signal
 */
export async function write(api, task, tell, signal) {
  const tokens = await api.ask("/v1/tokenize", { model: task.model, input: task.input }, signal);
  const read = tokens.results[0].tokens;
  /** @type {Written} */
  let written = { read, prompt: read, rows: [], reason: null };
  for await (const { name, data } of api.stream(
    "/v1/generate",
    { ...task, weights: "full", stream: true, encoding: "base64" },
    signal,
  )) {
    if (name === "done") written = { ...written, reason: data.results[0].finish_reason };
    else written = { ...written, ...promptOf(data, written), rows: [...written.rows, readRow(data)] };
    tell(written);
  }
}

/**
 * What the decoder had read before it wrote: of an encoder–decoder, its start token alone.
 * @param {any} event
 * @param {Written} written
 */
function promptOf({ attention }, { rows, prompt }) {
  return { prompt: rows.length === 0 && attention.encoder ? ["<start>"] : prompt };
}

/**
 * @param {any} event
 * @returns {Row}
 */
function readRow({ token, token_id, text, attention }) {
  const groups = Object.entries(attention).filter(([name]) => name !== "encoder");
  const weights = groups.map(([name, group]) => [name, lastQuery(Tensor.decode(group.weights).at(0))]);
  return { token: token ?? `#${token_id}`, text: text ?? "", weights: Object.fromEntries(weights) };
}

/**
 * @param {Tensor} weights [heads][queries][keys]
 * @returns {Tensor} [heads][keys]
 */
function lastQuery(weights) {
  const [heads, queries, keys] = weights.shape;
  const values = new Float32Array(heads * keys);
  for (let head = 0; head < heads; head++) values.set(weights.at(head, queries - 1).values, head * keys);
  return new Tensor([heads, keys], values);
}

/**
 * The weights of one head, or the mean over all.
 * @param {Tensor} weights [heads][keys]
 * @param {number | null} head
 * @returns {Float32Array}
 */
export function rowOfHead(weights, head) {
  if (head !== null) return weights.at(head).values;
  const [heads, keys] = weights.shape;
  const mean = new Float32Array(keys);
  for (let index = 0; index < heads; index++)
    for (let key = 0; key < keys; key++) mean[key] += weights.values[index * keys + key] / heads;
  return mean;
}
