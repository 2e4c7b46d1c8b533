/** The diagnostics of a head, in the words of someone who sees them for the first time. */

/**
 * @typedef {object} Measure
 * @property {string} id as the API calls it
 * @property {string} name
 * @property {string} meaning
 * @property {boolean} isShare 0 to 1, whatever the text
 * @property {boolean} isByName whether the service tells it to those who ask for it by name only
 */

/** @type {[string, string, string, boolean][]} */
const ROWS = [
  ["previous", "Previous token", "weight on the token just before", true],
  ["next", "Next token", "weight on the token just after", true],
  ["self", "Itself", "weight of a token on itself", true],
  ["first", "First token", "weight on the first token, the usual sink", true],
  ["special", "Special tokens", "weight on tokens like [CLS] and [SEP]", true],
  ["duplicate", "Same token", "weight on other places of the same token", true],
  ["induction", "Induction", "weight on what followed this token the last time", true],
  [
    "max_received",
    "Strongest sink",
    "the most weight that any one token receives, wherever it is: the mean over all queries",
    true,
  ],
  ["entropy", "Entropy", "how widely a head spreads its weight, in nats", false],
  ["normalized_entropy", "Evenness", "entropy, as a share of the most there can be", true],
  ["max_weight", "Confidence", "the largest weight of a query", true],
  ["effective_tokens", "Effective tokens", "how many tokens an even spread as sharp as this would cover", false],
  ["top_k_mass", "Top-8 mass", "what the eight largest weights amount to", true],
  ["distance", "Distance", "how far away it looks, in tokens", false],
  ["output_norm", "Output", "how much the head adds to the residual stream", false],
  ["similarity", "Distinctness", "how unlike the other heads of its layer: Jensen–Shannon divergence, their mean", false],
];

/** Those that take a pass of their own. */
const BY_NAME = ["max_received", "similarity"];

/** @type {Measure[]} */
export const MEASURES = ROWS.map(([id, name, meaning, isShare]) => ({
  ...{ id, name, meaning, isShare },
  isByName: BY_NAME.includes(id),
}));

/** The measures that say where a head looks; the others say how. */
export const PLACES = MEASURES.slice(0, 8);
export const MANNERS = MEASURES.slice(8);

/**
 * @param {string} id
 * @returns {Measure}
 */
export const measureOf = (id) => MEASURES.find((measure) => measure.id === id) ?? MEASURES[0];

/**
 * The values that the first and the last colour stand for.
 * @param {Measure} measure
 * @param {Iterable<number>} values of all heads
 * @returns {{low: number, high: number}}
 */
export function rangeOf(measure, values) {
  const known = [...values].filter(Number.isFinite);
  return measure.isShare ? { low: 0, high: 1 } : { low: 0, high: Math.max(...known, 0) || 1 };
}
