/** The question: a model and a text. */

import { choose, fill, make, makeField, makeSelect } from "./dom.js";
import { duration } from "./number.js";

/**
 * @typedef {import("./api.js").ModelCard} ModelCard
 * @typedef {import("./session.js").Session} Session
 */

const EXAMPLES = /** @type {Record<string, string[]>} */ ({
  encoder: ["The cat sat on the mat.", "The cat that the dogs chased was tired, because it ran."],
  decoder: ["The cat sat on the mat.", "one two three four one two three four"],
  "encoder-decoder": ["the 21st of March, 1985", "Thu, Mar 21 1985"],
});

/**
 * @param {Session} session
 * @param {ModelCard[]} models
 * @param {string} text
 * @returns {HTMLFormElement}
 */
export function makeAsk(session, models, text) {
  const model = makeSelect(
    models.map(({ id }) => [id, id]),
    models[0].id,
    () => change(),
  );
  const field = make("textarea", { rows: 1, spellcheck: "false", "aria-label": "Text" }, text);
  const target = make("input", { type: "text", spellcheck: "false", placeholder: "written by the model itself" });
  const targetField = makeField("What the decoder reads", target);
  const about = make("p", { class: "muted about" });
  const examples = make("div", { class: "examples" });
  const cardOf = () => models.find(({ id }) => id === model.value) ?? models[0];
  /** @type {import("./analysis.js").Recipe | null} */
  let asked = null;
  const ask = () => {
    const reads = target.value && !targetField.hidden ? { target: target.value } : {};
    asked = { model: model.value, text: field.value, ...reads };
    void session.analyze(asked);
  };
  const offer = (/** @type {string} */ example) => () => {
    field.value = example;
    fit(field);
    ask();
  };
  const describe = () => {
    const card = cardOf();
    targetField.hidden = card.architecture !== "encoder-decoder";
    fill(about, describeModel(card));
    fill(
      examples,
      "Try ",
      EXAMPLES[card.architecture].map((example) =>
        make("button", { type: "button", class: "link", onclick: offer(example) }, example),
      ),
    );
  };
  const change = () => {
    describe();
    if (cardOf().architecture === "encoder-decoder") field.value = EXAMPLES["encoder-decoder"][0];
    ask();
  };
  field.oninput = () => fit(field);
  field.onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  };
  const form = make(
    "form",
    { class: "ask" },
    make("div", { class: "ask-line" }, makeField("Model", model), makeField("Text", field), makeButtons(session)),
    targetField,
    make("div", { class: "ask-below" }, about, examples),
    makeProgress(session),
  );
  form.onsubmit = (event) => {
    event.preventDefault();
    ask();
  };
  session.store.follow(["analysis"], ({ analysis }) => {
    if (analysis && analysis.recipe !== asked) copyRecipe(analysis.recipe, model, field, target);
    describe();
  });
  return form;
}

/**
 * The fields say what the page shows, where that came from a link: of what was asked here somebody may have typed more by now.
 * @param {import("./analysis.js").Recipe} recipe
 * @param {HTMLSelectElement} model
 * @param {HTMLTextAreaElement} field
 * @param {HTMLInputElement} target
 */
function copyRecipe(recipe, model, field, target) {
  choose(model, recipe.model);
  field.value = recipe.text;
  target.value = recipe.target ?? "";
  fit(field);
}

/** As high as its text. @param {HTMLTextAreaElement} field */
function fit(field) {
  field.style.height = "auto";
  if (field.scrollHeight) field.style.height = `${Math.min(field.scrollHeight + 2, 240)}px`;
}

/** @param {ModelCard} card */
const describeModel = ({ architecture, layers, heads, context, parameters }) =>
  `${architecture}, ${layers} layers × ${heads} heads, ${context} tokens, ${(parameters / 1e6).toFixed(1)} million weights`;

/**
 * @param {Session} session
 * @returns {HTMLElement}
 */
function makeButtons(session) {
  const analyze = make("button", { type: "submit", class: "primary" }, "Analyze");
  const cancel = make("button", { type: "button", class: "secondary", onclick: () => session.cancel() }, "Cancel");
  session.store.follow(["busy"], ({ busy }) => {
    cancel.hidden = busy === "idle";
    analyze.hidden = busy !== "idle";
  });
  return make("div", { class: "ask-buttons" }, analyze, cancel);
}

/**
 * How long it has been working, once that is long enough to notice.
 * @param {Session} session
 * @returns {HTMLElement}
 */
function makeProgress(session) {
  const said = make("span", {});
  const progress = make(
    "div",
    { class: "progress", role: "status", hidden: true },
    make("span", { class: "progress-bar", "aria-hidden": "true" }),
    said,
  );
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let clock;
  session.store.follow(["busy"], ({ busy }) => {
    clearInterval(clock);
    progress.hidden = true;
    if (busy === "idle") return;
    const started = performance.now();
    clock = setInterval(() => {
      progress.hidden = false;
      fill(said, `Working for ${duration(performance.now() - started)} …`);
    }, 400);
  });
  return progress;
}
