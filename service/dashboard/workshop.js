/** The page of the six steps: of the head that is open, or of numbers that somebody brings. */

import { isAbort, Problem } from "./api.js";
import { choose, fill, make, makeChanging, makeChoice, makeField, makeSelect } from "./dom.js";
import { Latest } from "./latest.js";
import { makeLink } from "./linking.js";
import { describeProblem } from "./notice.js";
import { short } from "./number.js";
import { known } from "./recipe.js";
import { makeSteps } from "./steps.js";
import { lengthOf } from "./view.js";
import { isInPart, isLong, ofHead, ofTensors } from "./workings.js";

/** @typedef {import("./session.js").Session} Session */

/** What is in the field until somebody brings more. */
const EXAMPLES = {
  qkv: '{\n  "q": [[1, 0, 1], [0, 2, 0], [1, 1, 0], [0, 1, 2]],\n  "k": [[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 2]],\n  "v": [[1, 2], [3, 4], [5, 6], [7, 8]]\n}',
  x: '{\n  "x": [[1, 0, 2, 0], [0, 1, 0, 2], [1, 1, 1, 1]],\n  "num_heads": 2,\n  "seed": 0\n}',
};

/** @typedef {"head" | "qkv" | "x"} Source */

/** @type {[string, string][]} */
const SOURCES = [
  ["head", "The open head"],
  ["qkv", "My Q, K, V"],
  ["x", "My embeddings"],
];

/** The longest numbers that a link keeps, in characters. */
const MOST_SHARED = 20_000;

/**
 * @param {Session} session
 * @returns {import("./pages.js").Made}
 */
export function makeWorkshop(session) {
  const [place, problem, note] = [make("div", {}), make("div", { role: "alert" }), make("p", { class: "muted workshop-note" })];
  const latest = new Latest();
  /** @param {(signal: AbortSignal) => Promise<import("./workings.js").Workings[]>} compute */
  const show = async (compute) => {
    fill(problem);
    fill(note, "Computing …");
    try {
      await latest.run(async (signal) => {
        heads = await compute(signal);
        showHead(Math.min(wanted.head, heads.length - 1));
      });
    } catch (error) {
      if (isAbort(error)) return;
      fill(note);
      fill(problem, describeProblem(error, {}));
    }
  };
  /** @type {import("./workings.js").Workings[]} */
  let heads = [];
  /** @type {{head: number, cell: import("./session.js").Cell | null}} of one's own tensors, or as a link has it */
  let wanted = { head: 0, cell: null };
  const pick = makeChanging("Head", (head) => showHead(Number(head)));
  const showHead = (/** @type {number} */ index) => {
    pick.update(
      heads.map((_, head) => [String(head), `Head ${head}`]),
      String(index),
    );
    wanted = { ...wanted, head: index };
    fill(note, heads.length === 1 && make("b", {}, heads[0].title, " "), describe(heads[index]));
    const isOwn = chosen !== "head";
    fill(
      place,
      makeSteps(heads[index], isOwn ? wanted.cell : session.store.state.locked, (cell) => {
        if (isOwn) wanted = { ...wanted, cell };
        else session.store.set({ locked: cell });
      }),
    );
  };
  const own = makeOwn(
    (body) => void show((signal) => ofTensors(session.api, body, signal)),
    (told) => fill(problem, describeProblem(told, {})),
  );
  /** What the head was when it was last taken apart: a page that isn't seen asks for nothing. */
  let shown = "";
  const showOpen = () => {
    const { state } = session.store;
    const { analysis, group, layer, head, view } = state;
    if (!analysis || chosen !== "head" || !element.isConnected) return;
    const now = JSON.stringify([analysis.recipe, group, layer, head, isLong(session.group) && view]);
    if (now === shown && (!isLong(session.group) || heads.every((each) => isInPart(each, state)))) return;
    shown = now;
    void show(async (signal) => [await ofHead(session, signal)]);
  };
  /** @type {Source} */
  let chosen = "head";
  const turnTo = (/** @type {Source} */ source, /** @type {Record<string, any>} */ given = {}) => {
    chosen = source;
    shown = "";
    own.element.hidden = source === "head";
    if (source === "head") showOpen();
    else own.offer(given.text ?? EXAMPLES[source], given.mask);
  };
  const source = makeChoice("What to take apart", SOURCES, chosen, (value) => {
    wanted = { head: 0, cell: null };
    turnTo(/** @type {Source} */ (value));
  });
  const tell = () => {
    const numbers = own.state();
    const isShort = numbers.text.length <= MOST_SHARED;
    if (chosen === "head" || !isShort)
      return { state: { source: "head" }, ...(isShort ? {} : { lacks: "your numbers, which are too long for it" }) };
    return { state: { source: chosen, ...numbers, ...wanted.cell, head: wanted.head } };
  };
  own.element.hidden = true;
  const element = make(
    "div",
    { class: "workshop" },
    source,
    own.element,
    problem,
    note,
    pick,
    place,
    makeLink(session, "steps", tell),
  );
  session.store.follow(["analysis", "group", "layer", "head", "view", "locked"], showOpen);
  const begin = (/** @type {Record<string, unknown> | null} */ state) => {
    if (!state) return;
    const given = known(state, { source: "string", text: "string", mask: "string", head: "index", query: "index", key: "index" });
    wanted = { head: given.head ?? 0, cell: "query" in given && "key" in given ? { query: given.query, key: given.key } : null };
    const name = Object.hasOwn(EXAMPLES, given.source) ? given.source : "head";
    source.choose(name);
    turnTo(name, given);
  };
  return { element, begin, turn: showOpen };
}

/**
 * A field for tensors of one's own.
 * @param {(body: Record<string, any>) => void} onBody
 * @param {(problem: Problem) => void} onProblem
 */
function makeOwn(onBody, onProblem) {
  const field = make("textarea", { rows: 7, class: "code", spellcheck: "false" });
  const mask = makeSelect(
    [
      ["none", "none"],
      ["causal", "causal"],
    ],
    "none",
    () => send(),
  );
  const send = () => {
    try {
      onBody({ mask: mask.value, ...JSON.parse(field.value) });
    } catch (error) {
      onProblem(new Problem({ title: "Not JSON", detail: /** @type {Error} */ (error).message }));
    }
  };
  const compute = make("button", { type: "button", class: "primary", onclick: send }, "Compute");
  const element = make(
    "div",
    { class: "panel own" },
    makeField("The body of /v1/attend: q, k, v, or x with num_heads and a seed; anything else it takes, too", field),
    make("div", { class: "own-line" }, makeField("Mask", mask), compute),
  );
  const offer = (/** @type {string} */ text, masking = mask.value) => {
    field.value = text;
    choose(mask, masking);
    send();
  };
  return { element, offer, state: () => ({ text: field.value, mask: mask.value }) };
}

/**
 * Where the numbers come from.
 * @param {import("./workings.js").Workings} workings
 * @returns {string}
 */
function describe({ error, view, lengths }) {
  if (error === null) return "Computed by the service from your own numbers.";
  const closeness = error === 0 ? "exactly" : `within ${short(error)} of`;
  const [rows, columns] = [view.rows, view.columns].map(([start, stop]) => `${start}–${stop - 1}`);
  const isPart = lengthOf(view.rows) < lengths[0] || lengthOf(view.columns) < lengths[1];
  const part = ` Of ${lengths[0].toLocaleString("en")} tokens, queries ${rows} and keys ${columns}: what the map of Look has in view, or holds. The softmax is over all keys.`;
  return `Computed once more from the head’s own Q, K and V: ${closeness} the weights that the model used.${isPart ? part : ""}`;
}
