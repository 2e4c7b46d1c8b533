/** A text as it is written, as a timeline: at each step, what the model looked at to choose the token. */

import { isAbort } from "./api.js";
import { choose, fill, make, makeChanging, makeField, makeSelect } from "./dom.js";
import "./map.js";
import { makeLink } from "./linking.js";
import { describeProblem } from "./notice.js";
import { short, visible } from "./number.js";
import { strongest } from "./row.js";
import { Store } from "./store.js";
import "./tokens.js";
import { GROUP_NAMES } from "./overview.js";
import { known } from "./recipe.js";
import { rowOfHead, write } from "./written.js";

/** @typedef {import("./written.js").Written} Written */

/**
 * @typedef {object} State
 * @property {Written | null} written
 * @property {number} step the new token one looks at
 * @property {number | null} goal the one that is to be looked at as soon as there is one; null for the newest, whichever that is
 * @property {number | null} head null for the mean over all
 * @property {string} group
 * @property {boolean} busy
 * @property {unknown} problem
 */

const PROMPTS = /** @type {Record<string, string>} */ ({ decoder: "The cat sat on", "encoder-decoder": "Thu, Mar 21 1985" });

const REASONS = /** @type {Record<string, string>} */ ({
  length: "so many tokens were asked for",
  stop: "the stop text came",
  end: "the model ended it itself",
});

/** What a link keeps. */
const SHARED = /** @type {Record<string, import("./recipe.js").Kind>} */ ({
  ...{ model: "string", prompt: "string", layer: "index", count: "index", temperature: "number", seed: "index" },
  ...{ goal: "index", group: "string", head: "index" },
});

/**
 * @param {import("./api.js").Api} api
 * @param {import("./api.js").ModelCard[]} models
 * @param {import("./session.js").Session} session whose question a link keeps too
 * @returns {import("./pages.js").Made}
 */
export function makeGenerate(api, models, session) {
  const writers = models.filter(({ architecture }) => architecture !== "encoder");
  if (writers.length === 0)
    return { element: make("p", { class: "notice" }, "None of the models that are served writes text: they are encoders.") };
  /** @type {Store<State>} */
  const store = new Store(
    /** @type {State} */ ({ written: null, step: 0, goal: null, head: null, group: "decoder", busy: false, problem: null }),
  );
  const problem = make("div", { role: "alert" });
  store.follow(["problem"], ({ problem: told }) => fill(problem, told !== null && describeProblem(told, {})));
  const form = makeForm(api, writers, store);
  const tell = () => {
    const { goal, group, head } = store.state;
    return { state: { ...form.state(), goal, group, head } };
  };
  const element = make(
    "div",
    { class: "generate" },
    form.element,
    problem,
    makeTimeline(store),
    makeLink(session, "generate", tell),
  );
  return { element, begin: form.begin };
}

/**
 * @param {import("./api.js").Api} api
 * @param {import("./api.js").ModelCard[]} writers
 * @param {Store<State>} store
 */
function makeForm(api, writers, store) {
  let asking = new AbortController();
  const card = () => writers.find(({ id }) => id === model.value) ?? writers[0];
  const model = makeSelect(
    writers.map(({ id }) => [id, id]),
    writers[0].id,
    () => change(),
  );
  const prompt = make("textarea", { rows: 1, spellcheck: "false" }, PROMPTS[writers[0].architecture]);
  const layer = make("select", { onchange: () => void run() });
  const [count, temperature, seed] = [makeNumber("24", "1", "1"), makeNumber("0", "0", "0.1"), makeNumber("0", "0", "1")];
  const run = async (/** @type {number | null} */ goal = null) => {
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    const numbers = { max_new_tokens: Number(count.value), temperature: Number(temperature.value), seed: Number(seed.value) };
    const task = { model: model.value, input: prompt.value, ...numbers, layers: [Number(layer.value)] };
    store.set({ busy: true, problem: null, written: null, step: 0, goal });
    try {
      await write(api, task, (written) => !signal.aborted && follow(store, written), signal);
    } catch (error) {
      if (!isAbort(error)) store.set({ problem: error });
    } finally {
      if (asking.signal === signal) store.set({ busy: false });
    }
  };
  const describeCard = () => {
    const { groups, architecture } = card();
    fill(
      layer,
      Array.from({ length: groups.decoder }, (_, index) => make("option", { value: index }, `Layer ${index}`)),
    );
    prompt.value = PROMPTS[architecture];
    store.set({ written: null, group: groups.cross ? "cross" : "decoder", head: null });
  };
  const change = () => {
    describeCard();
    void run();
  };
  const state = () => ({
    ...{ model: model.value, prompt: prompt.value, layer: Number(layer.value) },
    ...{ count: Number(count.value), temperature: Number(temperature.value), seed: Number(seed.value) },
  });
  const begin = (/** @type {Record<string, unknown> | null} */ shared) => {
    const found = known(shared, SHARED);
    if (found.model) choose(model, found.model);
    describeCard();
    if (found.prompt !== undefined) prompt.value = found.prompt;
    if (found.layer !== undefined) choose(layer, String(found.layer));
    for (const [name, field] of Object.entries({ count, temperature, seed })) if (name in found) field.value = String(found[name]);
    const { groups, heads } = card();
    if (found.group !== "encoder" && Object.hasOwn(groups, found.group)) store.set({ group: found.group });
    if (found.head < heads) store.set({ head: found.head });
    void run(found.goal ?? null);
  };
  const [start, stop] = [
    make("button", { class: "primary" }, "Write"),
    make("button", { type: "button", class: "secondary", onclick: () => asking.abort() }, "Stop"),
  ];
  store.follow(["busy"], ({ busy }) => {
    start.hidden = busy;
    stop.hidden = !busy;
  });
  const fields = [
    makeField("Model", model),
    makeField("Layer", layer),
    makeField("New tokens", count),
    makeField("Temperature", temperature),
    makeField("Seed", seed),
  ];
  const form = make(
    "form",
    { class: "generate-form" },
    makeField("Begin with", prompt),
    make("div", { class: "generate-fields" }, fields, make("div", { class: "generate-buttons" }, start, stop)),
  );
  form.onsubmit = (event) => {
    event.preventDefault();
    void run();
  };
  return { element: form, state, begin };
}

/**
 * @param {string} value
 * @param {string} min
 * @param {string} step
 */
const makeNumber = (value, min, step) => make("input", { type: "number", value, min, step });

/**
 * Take what is written by now, at its end if that is where one is.
 * @param {Store<State>} store
 * @param {Written} written
 */
function follow(store, written) {
  const { goal } = store.state;
  store.set({ written, step: Math.max(Math.min(goal ?? Number.POSITIVE_INFINITY, written.rows.length - 1), 0) });
}

/**
 * @param {Store<State>} store
 * @returns {HTMLElement}
 */
function makeTimeline(store) {
  const scrub = make("input", { type: "range", min: "0", step: "1", "aria-label": "Step", class: "scrub" });
  scrub.oninput = () => go(store, Number(scrub.value));
  const said = make("p", { class: "readout", "aria-live": "polite" });
  const groups = makeChanging("Kind of attention", (group) => store.set({ group }));
  const heads = makeChanging("Head", (head) => store.set({ head: head === "mean" ? null : Number(head) }));
  const timeline = make(
    "section",
    { class: "panel timeline", "aria-label": "Timeline" },
    make("div", { class: "compare-head" }, groups, heads),
    makeStrips(store),
    scrub,
    said,
    makeRows(store),
  );
  store.follow(["written", "step", "group", "head"], (state) => {
    const { written, step, group, head } = state;
    timeline.hidden = !written?.rows.length;
    if (!written?.rows.length) return;
    scrub.max = String(written.rows.length - 1);
    scrub.value = String(step);
    scrub.setAttribute("aria-valuetext", visible(written.rows[step].token));
    fill(said, describe(state));
    const [{ weights }] = written.rows;
    const names = Object.keys(weights).map((name) => /** @type {[string, string]} */ ([name, GROUP_NAMES[name]]));
    groups.update(names, group);
    const numbers = Array.from(
      { length: weights[group].shape[0] },
      (_, index) => /** @type {[string, string]} */ ([String(index), `H${index}`]),
    );
    heads.update([["mean", "Mean"], ...numbers], String(head ?? "mean"));
  });
  return timeline;
}

/**
 * @param {Store<State>} store
 * @param {number} step
 */
function go(store, step) {
  const last = (store.state.written?.rows.length ?? 1) - 1;
  store.set({ step, goal: step === last ? null : step });
}

/**
 * What the tokens' row is over: of cross-attention the source, else all before the new one.
 * @param {Written} written
 * @param {string} group
 * @returns {string[]}
 */
const keysOf = (written, group) =>
  group === "cross" ? written.read : [...written.prompt, ...written.rows.map(({ token }) => token)];

/**
 * @param {State} state
 * @returns {(Node | string)[]}
 */
function describe({ written, step, group, head }) {
  if (!written) return [];
  const row = rowOfHead(written.rows[step].weights[group], head);
  const keys = keysOf(written, group);
  const most = strongest(row, 3).map((key) => `${visible(keys[key])} ${short(row[key])}`);
  const end = written.reason && step === written.rows.length - 1 ? ` – the end: ${REASONS[written.reason] ?? written.reason}.` : "";
  return [make("b", {}, visible(written.rows[step].token)), ` was chosen looking at ${most.join(", ")}${end}`];
}

/**
 * @param {Store<State>} store
 * @returns {HTMLElement}
 */
function makeStrips(store) {
  const text = /** @type {import("./tokens.js").TokensElement} */ (document.createElement("kqv-tokens"));
  const source = /** @type {import("./tokens.js").TokensElement} */ (document.createElement("kqv-tokens"));
  text.addEventListener("lock", (event) => {
    const { written } = store.state;
    const step = /** @type {CustomEvent} */ (event).detail - (written?.prompt.length ?? 0);
    if (written && step >= 0) go(store, step);
  });
  store.follow(["written", "step", "group", "head"], ({ written, step, group, head }) => {
    if (!written?.rows.length) return;
    const row = rowOfHead(written.rows[step].weights[group], head);
    const isCross = group === "cross";
    source.hidden = !isCross;
    if (isCross) {
      source.show(written.read);
      source.shade(row, null, "root");
    }
    text.show([...written.prompt, ...written.rows.map(({ token }) => token)]);
    text.shade(isCross ? null : row, written.prompt.length + step, "root");
  });
  return make("div", { class: "generate-strips" }, source, text);
}

/**
 * All steps as a map: a row for each new token.
 * @param {Store<State>} store
 * @returns {HTMLElement}
 */
function makeRows(store) {
  const map = /** @type {import("./map.js").MapElement} */ (document.createElement("kqv-map"));
  for (const name of ["look", "lock"])
    map.addEventListener(name, (event) => {
      const place = /** @type {CustomEvent} */ (event).detail;
      if (place && name === "lock") go(store, place.row);
    });
  store.follow(["written", "group", "head"], ({ written, group, head }) => {
    if (!written?.rows.length) return;
    const columns = group === "cross" ? keysOf(written, group) : keysOf(written, group).slice(0, -1);
    const values = new Float32Array(written.rows.length * columns.length).fill(Number.NaN);
    for (const [index, { weights }] of written.rows.entries()) values.set(rowOfHead(weights[group], head), index * columns.length);
    map.show({
      values,
      rows: written.rows.map(({ token }) => token),
      columns,
      range: { low: 0, high: 1, scale: "root" },
      label: "A row for each new token",
    });
  });
  store.follow(["written", "step", "group", "head"], ({ written, step, group, head }) => {
    if (!written?.rows.length) return;
    const row = rowOfHead(written.rows[step].weights[group], head);
    map.mark(null, { row: step, column: strongest(row, 1)[0] ?? 0 });
  });
  return make("div", { class: "map-frame generate-map" }, map);
}
