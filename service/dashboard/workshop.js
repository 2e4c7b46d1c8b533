/** The page of the six steps: of the head that is open, or of numbers that somebody brings. */

import { isAbort, Problem } from "./api.js";
import { fill, make, makeChanging, makeChoice, makeField, makeSelect } from "./dom.js";
import { describeProblem } from "./notice.js";
import { short } from "./number.js";
import { makeSteps } from "./steps.js";
import { ofHead, ofTensors } from "./workings.js";

/** @typedef {import("./session.js").Session} Session */

/** What is in the field until somebody brings more. */
const EXAMPLES = {
  qkv: '{\n  "q": [[1, 0, 1], [0, 2, 0], [1, 1, 0], [0, 1, 2]],\n  "k": [[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 2]],\n  "v": [[1, 2], [3, 4], [5, 6], [7, 8]]\n}',
  x: '{\n  "x": [[1, 0, 2, 0], [0, 1, 0, 2], [1, 1, 1, 1]],\n  "num_heads": 2,\n  "seed": 0\n}',
};

/**
 * @param {Session} session
 * @returns {HTMLElement}
 */
export function makeWorkshop(session) {
  const [place, problem, note] = [make("div", {}), make("div", { role: "alert" }), make("p", { class: "muted workshop-note" })];
  let asking = new AbortController();
  /** @param {(signal: AbortSignal) => Promise<import("./workings.js").Workings[]>} compute */
  const show = async (compute) => {
    asking.abort();
    asking = new AbortController();
    try {
      heads = await compute(asking.signal);
      fill(problem);
      showHead(0);
    } catch (error) {
      if (!isAbort(error)) fill(problem, describeProblem(error, {}));
    }
  };
  /** @type {import("./workings.js").Workings[]} */
  let heads = [];
  const pick = makeChanging("Head", (head) => showHead(Number(head)));
  const showHead = (/** @type {number} */ index) => {
    pick.update(
      heads.map((_, head) => [String(head), `Head ${head}`]),
      String(index),
    );
    fill(note, heads.length === 1 && make("b", {}, heads[0].title, " "), describe(heads[index]));
    fill(place, makeSteps(heads[index]));
  };
  const own = makeOwn(
    (body) => void show((signal) => ofTensors(session.api, body, signal)),
    (told) => fill(problem, describeProblem(told, {})),
  );
  const showOpen = () => void show(async (signal) => [await ofHead(session, signal)]);
  const source = makeChoice(
    "What to take apart",
    [
      ["head", "The open head"],
      ["qkv", "My Q, K, V"],
      ["x", "My embeddings"],
    ],
    "head",
    (chosen) => {
      own.element.hidden = chosen === "head";
      if (chosen === "head") showOpen();
      else own.offer(EXAMPLES[/** @type {keyof typeof EXAMPLES} */ (chosen)]);
    },
  );
  own.element.hidden = true;
  const element = make("div", { class: "workshop" }, source, own.element, problem, note, pick, place);
  session.store.follow(["analysis", "group", "layer", "head"], ({ analysis }) => {
    if (analysis && own.element.hidden) showOpen();
  });
  return element;
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
  const offer = (/** @type {string} */ text) => {
    field.value = text;
    send();
  };
  return { element, offer };
}

/**
 * Where the numbers come from.
 * @param {import("./workings.js").Workings} workings
 * @returns {string}
 */
function describe({ error }) {
  if (error === null) return "Computed by the service from your own numbers.";
  const closeness = error === 0 ? "exactly" : `within ${short(error)} of`;
  return `Computed once more from the head’s own Q, K and V: ${closeness} the weights that the model used.`;
}
