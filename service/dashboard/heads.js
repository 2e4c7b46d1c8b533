/** `<kqv-heads>`: every head of a model, layer under layer, by the colour of a measure and a thumbnail of its map. */

import { colorOf, paint } from "./color.js";
import { fill, make } from "./dom.js";
import { measureOf, rangeOf } from "./measures.js";
import { headName, short } from "./number.js";

/** @typedef {import("./analysis.js").Group} Group */

const ARROWS = /** @type {Record<string, [number, number]>} */ ({
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
});

/** Tells of `open` (a layer and a head). */
export class HeadsElement extends HTMLElement {
  constructor() {
    super();
    /** @type {Group | null} */
    this.group = null;
    /** @type {HTMLButtonElement[][]} */
    this.cells = [];
    this.addEventListener("keydown", (event) => this.press(event));
  }

  /**
   * The heads of a group, with their thumbnails.
   * @param {Group} group
   * @param {import("./color.js").Scale} scale
   */
  show(group, scale) {
    this.group = group;
    this.style.setProperty("--heads", String(group.heads.length));
    this.cells = group.layers.map((_, layer) => group.heads.map((_, head) => this.makeCell(layer, head)));
    this.setAttribute("role", "grid");
    this.setAttribute("aria-label", "Heads of every layer");
    const rows = this.cells.map((cells, layer) =>
      make(
        "div",
        { class: "heads-row", role: "row" },
        make("span", { class: "heads-name", role: "rowheader" }, `L${group.layers[layer]}`),
        cells.map(inGridCell),
      ),
    );
    const names = group.heads.map((head) => make("span", { class: "heads-name", role: "columnheader" }, `H${head}`));
    fill(
      this,
      make(
        "div",
        { class: "heads-row", role: "row" },
        make("span", { class: "heads-name", role: "columnheader" }, make("span", { class: "unseen" }, "Layer")),
        names,
      ),
      rows,
    );
    this.drawThumbnails(scale);
  }

  /**
   * @param {number} layer
   * @param {number} head
   * @returns {HTMLButtonElement}
   */
  makeCell(layer, head) {
    const open = () => this.dispatchEvent(new CustomEvent("open", { detail: { layer, head } }));
    return make(
      "button",
      { type: "button", class: "heads-cell", tabindex: "-1", onclick: open },
      make("canvas", { "aria-hidden": "true" }),
    );
  }

  /** @param {import("./color.js").Scale} scale */
  drawThumbnails(scale) {
    const { thumbnails } = /** @type {Group} */ (this.group);
    if (!thumbnails) return;
    const [rows, columns] = thumbnails.shape.slice(2);
    this.each((cell, layer, head) => {
      const canvas = /** @type {HTMLCanvasElement} */ (cell.firstElementChild);
      canvas.width = columns;
      canvas.height = rows;
      canvas.getContext("2d")?.putImageData(paint(thumbnails.at(layer, head).values, columns, { low: 0, high: 1, scale }), 0, 0);
    });
  }

  /**
   * Colour every head by a measure, or by none while it isn't known.
   * @param {string} id
   * @param {import("./tensor.js").Tensor | null} values
   */
  color(id, values) {
    const measure = measureOf(id);
    const range = rangeOf(measure, values?.values ?? []);
    this.each((cell, layer, head) => {
      const value = values?.item(layer, head) ?? Number.NaN;
      const name = `${headName(layer, head)}: ${measure.name.toLowerCase()} ${short(value)}`;
      cell.style.setProperty("--color", colorOf(value, range));
      cell.title = name;
      cell.setAttribute("aria-label", name);
    });
  }

  /**
   * Mark the head that is open, where Tab comes to.
   * @param {number} layer
   * @param {number} head
   */
  mark(layer, head) {
    this.each((cell, ownLayer, ownHead) => {
      const isOpen = ownLayer === layer && ownHead === head;
      cell.classList.toggle("is-open", isOpen);
      cell.tabIndex = isOpen ? 0 : -1;
      if (isOpen) cell.setAttribute("aria-current", "true");
      else cell.removeAttribute("aria-current");
    });
  }

  /** @param {(cell: HTMLButtonElement, layer: number, head: number) => void} visit */
  each(visit) {
    for (const [layer, cells] of this.cells.entries()) for (const [head, cell] of cells.entries()) visit(cell, layer, head);
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    if (!(event.key in ARROWS)) return;
    const focused = /** @type {HTMLButtonElement} */ (event.target);
    const layer = this.cells.findIndex((cells) => cells.includes(focused));
    const [down, right] = ARROWS[event.key];
    const next = this.cells[layer + down]?.[this.cells[layer].indexOf(focused) + right];
    next?.focus();
    event.preventDefault();
  }
}

/** @param {HTMLElement} cell */
const inGridCell = (cell) => make("span", { class: "heads-place", role: "gridcell" }, cell);

customElements.define("kqv-heads", HeadsElement);
