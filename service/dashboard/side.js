/** One side of a comparison: its own model, text, attention and head. */

import { choose, fill, make, makeField, makeSelect } from "./dom.js";
import { makeMapView } from "./mapview.js";
import { describeProblem } from "./notice.js";
import { headName } from "./number.js";
import { Session } from "./session.js";

/**
 * @typedef {import("./api.js").ModelCard} ModelCard
 * @typedef {import("./analysis.js").Recipe} Recipe
 */

/** How the same weights may attend, and the number that each way wants. */
const KINDS = /** @type {Record<string, {name: string, field: string, value: number, step: number}>} */ ({
  dense: { name: "Dense", field: "", value: 0, step: 1 },
  longformer: { name: "Longformer", field: "window", value: 4, step: 2 },
  linformer: { name: "Linformer", field: "rank", value: 4, step: 1 },
  performer: { name: "Performer", field: "features", value: 64, step: 1 },
});

/** @typedef {{model?: string, text?: string, kind?: string, size?: number}} Fields */

export class Side {
  /**
   * @param {string} name
   * @param {import("./api.js").Api} api
   * @param {ModelCard[]} models
   * @param {boolean} holds
   */
  constructor(name, api, models, holds) {
    this.name = name;
    this.session = new Session(api, { holds });
    this.models = models;
    this.model = makeSelect(
      models.map(({ id }) => [id, id]),
      models[0].id,
      () => this.ask(),
    );
    this.text = make("textarea", { rows: 2, spellcheck: "false" });
    this.kind = makeSelect(
      Object.entries(KINDS).map(([kind, { name }]) => [kind, name]),
      "dense",
      () => this.changeKind(),
    );
    this.size = make("input", { type: "number", min: "1", onchange: () => this.ask() });
    this.sizeField = makeField("Window", this.size);
    this.place = make("select", { onchange: () => this.open() });
    this.text.onchange = () => this.ask();
    this.element = this.build();
    this.changeKind(false);
  }

  /** @returns {HTMLElement} */
  build() {
    const problem = make("div", { role: "alert" });
    this.session.store.follow(["problem"], ({ problem: told }) =>
      fill(problem, told !== null && describeProblem(told, { onAgain: () => void this.session.again() })),
    );
    this.session.store.follow(["analysis"], () => this.listHeads());
    this.session.store.follow(["group", "layer", "head"], ({ group, layer, head }) => {
      this.place.value = JSON.stringify([group, layer, head]);
    });
    return make(
      "section",
      { class: "panel side", "aria-label": `Side ${this.name}` },
      make("h2", {}, this.name),
      make(
        "div",
        { class: "side-fields" },
        makeField("Model", this.model),
        makeField("Head", this.place),
        makeField("Attention", this.kind),
        this.sizeField,
      ),
      makeField("Text", this.text),
      problem,
      makeMapView(this.session),
    );
  }

  /** @returns {Recipe} */
  get recipe() {
    const kind = this.kind.value;
    const attention = kind === "dense" ? {} : { attention: { kind, [KINDS[kind].field]: Number(this.size.value) } };
    return { model: this.model.value, text: this.text.value, ...attention };
  }

  /** Ask what the fields say. @param {Partial<import("./session.js").State>} [view] */
  ask(view) {
    return this.session.analyze(this.recipe, view);
  }

  /** Another attention, with the number it usually wants. @param {boolean} [asks] */
  changeKind(asks = true) {
    const { field, value, step } = KINDS[this.kind.value];
    this.sizeField.hidden = field === "";
    fill(/** @type {HTMLElement} */ (this.sizeField.firstElementChild), field.slice(0, 1).toUpperCase() + field.slice(1));
    this.size.value = String(value);
    this.size.step = String(step);
    this.size.min = String(step);
    if (asks) void this.ask();
  }

  /**
   * Take all fields at once.
   * @param {Fields} fields
   * @param {Partial<import("./session.js").State>} [view]
   */
  set({ model, text, kind, size }, view) {
    if (model) choose(this.model, model);
    if (text !== undefined) this.text.value = text;
    if (kind && Object.hasOwn(KINDS, kind)) this.kind.value = kind;
    this.changeKind(false);
    if (size !== undefined && this.kind.value !== "dense") this.size.value = String(size);
    return this.ask(view);
  }

  /** What a link keeps of it. */
  get state() {
    const { group, layer, head, locked, view } = this.session.store.state;
    const fields = { model: this.model.value, text: this.text.value, kind: this.kind.value, size: Number(this.size.value) };
    return { fields, view: { group, layer, head, locked, view } };
  }

  listHeads() {
    const { analysis, group, layer, head } = this.session.store.state;
    const groups = analysis?.groups ?? [];
    const options = groups.flatMap(({ name, layers, heads }) =>
      layers.flatMap((l) =>
        heads.map((h) =>
          make("option", { value: JSON.stringify([name, l, h]) }, `${groups.length > 1 ? `${name} ` : ""}${headName(l, h)}`),
        ),
      ),
    );
    fill(this.place, options);
    this.place.value = JSON.stringify([group, layer, head]);
  }

  open() {
    const [group, layer, head] = JSON.parse(this.place.value);
    this.session.open({ group, layer, head });
  }
}
