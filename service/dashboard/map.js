/** `<kqv-map>`: a matrix as pixels, a colour a number, with the tokens beside it and the cell under the pointer marked. */

import { paint } from "./color.js";
import { fill, make, onceAFrame } from "./dom.js";
import { follow } from "./gestures.js";
import { visible } from "./number.js";

/**
 * @typedef {object} Shown
 * @property {Float32Array} values row-major
 * @property {string[]} rows names
 * @property {string[]} columns names
 * @property {{low: number, high: number, scale?: import("./color.js").Scale, table?: Uint8ClampedArray}} range
 * @property {string} label what it is, for those who can't see it
 */

/** @typedef {{row: number, column: number}} Place */

/** Most names beside a map: more of them can't be read. */
const MOST_NAMES = 48;
/** Height of a name in pixels. */
const LEAST_CELL = 11;
/** Steps of the arrow keys. */
const ARROWS = /** @type {Record<string, [number, number]>} */ ({
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
});

/** Ratios by keys; 0 is for all. */
const ZOOMS = /** @type {Record<string, number>} */ ({ "+": 1 / 4, "=": 1 / 4, "-": 4, 0: Number.POSITIVE_INFINITY });
/** How much of what is in view is left after a step closer. */
const CLOSER = 1 / 4;

/**
 * Tells of `look` (a place, or null when the pointer has gone) and `lock` (a place, or null to let go); and one that moves, of `zoom`
 * (a place that stays, and the ratio of what is seen then to what is seen now) and `pan` (rows down and columns right).
 */
export class MapElement extends HTMLElement {
  constructor() {
    super();
    /** @type {Shown | null} */
    this.shown = null;
    /** @type {Place} where the keyboard is */
    this.place = { row: 0, column: 0 };
    this.canvas = make("canvas", { class: "map-cells", "aria-hidden": "true" });
    this.rowBand = make("div", { class: "map-band map-band-row", hidden: true });
    this.columnBand = make("div", { class: "map-band map-band-column", hidden: true });
    this.cellMark = make("div", { class: "map-mark", hidden: true });
    this.lockMark = make("div", { class: "map-mark map-lock", hidden: true });
    this.rowNames = make("div", { class: "map-rows", "aria-hidden": "true" });
    this.columnNames = make("div", { class: "map-columns", "aria-hidden": "true" });
    this.stage = make(
      "div",
      { class: "map-stage", tabindex: "0", role: "application", "aria-roledescription": "matrix" },
      ...[make("div", { class: "map-window" }, this.canvas), this.rowBand, this.columnBand, this.lockMark, this.cellMark],
    );
    this.moves = false;
    this.tellLook = onceAFrame((/** @type {Place | null} */ place) => this.tell("look", place));
  }

  connectedCallback() {
    new ResizeObserver(() => this.fit()).observe(this.stage);
    fill(this, make("div", { class: "map-corner" }), this.columnNames, this.rowNames, this.stage);
    this.stage.onpointerleave = () => this.tellLook(null);
    this.stage.onkeydown = (event) => this.press(event);
    follow(this.stage, {
      moves: () => this.moves,
      point: (event) => this.tellLook(this.placeOf(event)),
      click: (event) => this.choose(this.placeOf(event)),
      drag: (down, right) => this.drag(down, right),
      zoom: (event, ratio) => this.zoom(this.placeOf(event), ratio),
      step: (event) => this.zoom(this.placeOf(event), event.shiftKey ? 1 / CLOSER : CLOSER),
    });
  }

  /**
   * @param {Place} place
   * @param {number} ratio
   */
  zoom(place, ratio) {
    if (this.moves) this.tell("zoom", { ...place, ratio });
  }

  /**
   * @param {number} down pixels that the pointer went
   * @param {number} right
   */
  drag(down, right) {
    const box = this.canvas.getBoundingClientRect();
    const [height, width] = [box.height / this.canvas.height, box.width / this.canvas.width];
    this.tell("pan", { down: -down / height, right: -right / width });
  }

  /**
   * Show the picture that there is as another part will have it, until that comes.
   * @param {{left: number, top: number, width: number, height: number}} box of the picture, as shares of the stage
   */
  preview({ left, top, width, height }) {
    this.canvas.style.transform = `translate(${100 * left}%, ${100 * top}%) scale(${width}, ${height})`;
    this.classList.add("map-moving");
  }

  /** @param {Shown} shown */
  show(shown) {
    this.shown = shown;
    const [rows, columns] = [shown.rows.length, shown.columns.length];
    this.place = { row: Math.min(this.place.row, rows - 1), column: Math.min(this.place.column, columns - 1) };
    this.canvas.style.transform = "";
    this.classList.remove("map-moving");
    this.canvas.width = columns;
    this.canvas.height = rows;
    this.canvas.getContext("2d")?.putImageData(paint(shown.values, columns, shown.range), 0, 0);
    this.stage.style.aspectRatio = `${columns} / ${rows}`;
    const keys = `Arrow keys move, Enter holds a cell${this.moves ? ", + and - come closer and go further, 0 shows all" : ""}.`;
    this.stage.setAttribute("aria-label", `${shown.label}. ${keys}`);
    this.name(this.rowNames, shown.rows);
    this.name(this.columnNames, shown.columns);
    this.classList.toggle("map-bare", Math.max(rows, columns) > MOST_NAMES);
    this.fit();
    this.mark(null, null);
  }

  /** Where cells are smaller than letters, only the names that are pointed at are shown. */
  fit() {
    const { clientWidth, clientHeight } = this.stage;
    this.rowNames.classList.toggle("is-tight", clientHeight / this.canvas.height < LEAST_CELL);
    this.columnNames.classList.toggle("is-tight", clientWidth / this.canvas.width < LEAST_CELL);
  }

  /**
   * @param {HTMLElement} side
   * @param {string[]} names
   */
  name(side, names) {
    fill(side, names.length > MOST_NAMES ? [] : names.map((name) => make("span", { class: "map-name" }, visible(name))));
  }

  /**
   * Mark the cell one looks at, and the one that is held.
   * @param {Place | null} place
   * @param {Place | null} locked
   */
  mark(place, locked) {
    const seen = place ?? locked;
    this.put(this.cellMark, place, 1, 1);
    this.put(this.lockMark, locked, 1, 1);
    this.put(this.rowBand, seen && { row: seen.row, column: 0 }, 1, this.shown?.columns.length ?? 1);
    this.put(this.columnBand, seen && { row: 0, column: seen.column }, this.shown?.rows.length ?? 1, 1);
    for (const [side, index] of /** @type {const} */ ([
      [this.rowNames, seen?.row],
      [this.columnNames, seen?.column],
    ])) {
      side.querySelector(".is-seen")?.classList.remove("is-seen");
      if (index !== undefined) side.children[index]?.classList.add("is-seen");
    }
  }

  /**
   * @param {HTMLElement} mark
   * @param {Place | null} place
   * @param {number} rows
   * @param {number} columns
   */
  put(mark, place, rows, columns) {
    mark.hidden = place === null || this.shown === null;
    if (place === null || this.shown === null) return;
    const [height, width] = [this.shown.rows.length, this.shown.columns.length];
    mark.style.top = `${(100 * place.row) / height}%`;
    mark.style.left = `${(100 * place.column) / width}%`;
    mark.style.height = `${(100 * rows) / height}%`;
    mark.style.width = `${(100 * columns) / width}%`;
  }

  /**
   * The cell under the pointer.
   * @param {{clientX: number, clientY: number}} event
   * @returns {Place}
   */
  placeOf(event) {
    const box = this.canvas.getBoundingClientRect();
    const [rows, columns] = [this.canvas.height, this.canvas.width];
    const within = (/** @type {number} */ share, /** @type {number} */ count) =>
      Math.min(Math.max(Math.floor(share * count), 0), count - 1);
    return {
      row: within((event.clientY - box.top) / box.height, rows),
      column: within((event.clientX - box.left) / box.width, columns),
    };
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    if (event.key === "Enter" || event.key === " ") this.choose(this.place);
    else if (event.key === "Escape") this.tell("lock", null);
    else if (this.moves && event.key in ZOOMS) this.zoom(this.place, ZOOMS[event.key]);
    else if (event.key in ARROWS && this.shown) this.step(...ARROWS[event.key], event.shiftKey ? 10 : 1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /**
   * @param {number} down
   * @param {number} right
   * @param {number} many
   */
  step(down, right, many) {
    const { row, column } = this.place;
    const within = (/** @type {number} */ index, /** @type {number} */ count) => Math.min(Math.max(index, 0), count - 1);
    const [nextRow, nextColumn] = [row + down * many, column + right * many];
    this.place = { row: within(nextRow, this.canvas.height), column: within(nextColumn, this.canvas.width) };
    const beyond = { down: nextRow - this.place.row, right: nextColumn - this.place.column };
    if (this.moves && (beyond.down || beyond.right)) this.tell("pan", beyond);
    this.tell("look", this.place);
  }

  /** @param {Place} place */
  choose(place) {
    this.place = place;
    this.tell("lock", place);
  }

  /**
   * @param {string} name
   * @param {any} detail
   */
  tell(name, detail) {
    if (this.shown) this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

customElements.define("kqv-map", MapElement);
