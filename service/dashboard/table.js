/** The same map as a table: for those who don't see it, and to copy from. */

import { fill, make } from "./dom.js";
import { short, visible } from "./number.js";
import { partOf } from "./part.js";

/** Most rows and columns; the CSV has all. */
const MOST = 64;

/**
 * @param {import("./session.js").Session} session
 * @returns {HTMLElement}
 */
export function makeTable(session) {
  const table = /** @type {TableElement} */ (document.createElement("kqv-table"));
  table.draw = () => {
    const part = partOf(session);
    const group = session.group;
    if (part && group) fill(table, makeBody(part, group));
  };
  session.store.follow(["map", "hidesSpecial"], () => table.isConnected && table.draw());
  return table;
}

/** `<kqv-table>`: drawn only while it is seen, for it is slower than a map. */
class TableElement extends HTMLElement {
  constructor() {
    super();
    this.draw = () => {};
  }

  connectedCallback() {
    this.className = "table-scroll";
    this.tabIndex = 0;
    this.role = "region";
    this.ariaLabel = "Weights as a table";
    this.draw();
  }
}

customElements.define("kqv-table", TableElement);

/**
 * @param {import("./part.js").Part} part
 * @param {import("./analysis.js").Group} group
 * @returns {HTMLElement}
 */
function makeBody(part, group) {
  const [rows, columns] = [part.rows.slice(0, MOST), part.columns.slice(0, MOST)];
  const isCut = rows.length < part.rows.length || columns.length < part.columns.length;
  const names = columns.map((key) => make("th", { scope: "col" }, visible(group.keys[key])));
  const lines = rows.map((query, row) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, visible(group.queries[query])),
      columns.map((_, column) => make("td", {}, short(part.values[row * part.columns.length + column]))),
    ),
  );
  const caption = isCut
    ? `The first ${rows.length} queries and ${columns.length} keys; the CSV has all.`
    : "A row for each query, a column for each key.";
  return make(
    "table",
    {},
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, make("td", {}), names)),
    make("tbody", {}, lines),
  );
}
