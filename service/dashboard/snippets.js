/** The question as somebody would ask it without this page. */

import { headBody } from "./analysis.js";

/** @typedef {import("./analysis.js").Recipe} Recipe */
/** @typedef {import("./analysis.js").HeadPlace} HeadPlace */

/**
 * @param {string} origin
 * @param {Recipe} recipe
 * @param {HeadPlace} place
 * @returns {string}
 */
export function asCurl(origin, recipe, place) {
  const body = JSON.stringify(headBody(recipe, place)).replaceAll("'", "'\\''");
  return `curl -s ${origin}/v1/analyze -H 'Content-Type: application/json' -d '${body}'`;
}

/**
 * @param {string} origin
 * @param {Recipe} recipe
 * @param {HeadPlace} place
 * @returns {string}
 */
export function asPython(origin, recipe, place) {
  const { input, ...options } = headBody(recipe, place);
  const lines = Object.entries(options).map(([name, value]) => `        ${name}=${python(value)},\n`);
  return `from service.client import Client

with Client("${origin}") as client:
    [analysis] = client.analyze(
        ${python(input)},
${lines.join("")}    )
weights = analysis.attention["${place.group}"].weights[0, 0]  # [queries, keys]
`;
}

/**
 * A value as Python writes it; a string as JSON has it is one of Python's.
 * @param {unknown} value of JSON
 * @returns {string}
 */
function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value)
      .map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`)
      .join(", ")}}`;
  return JSON.stringify(value);
}
