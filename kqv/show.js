/** Another measure for the heads of a page. Without this script it shows the one that it was made with, and every head. */

/** @typedef {{name: string, caption: string, cells: [string, string, string][]}} Measure what each cell says, its colour and its ink */

for (const section of document.querySelectorAll("section")) {
  const choice = section.querySelector("select");
  const data = section.querySelector("script");
  if (!choice || !data) continue;
  /** @type {Record<string, Measure>} */
  const measures = JSON.parse(data.text);
  const caption = /** @type {HTMLElement} */ (section.querySelector("figcaption"));
  const cells = [...section.querySelectorAll("td[title]")].map((cell) => /** @type {HTMLElement} */ (cell));
  choice.onchange = () => {
    const measure = measures[choice.value];
    caption.textContent = measure.caption;
    for (const [index, [told, colour, ink]] of measure.cells.entries()) {
      const cell = cells[index];
      cell.title = `${cell.title.split(":")[0]}: ${measure.name} ${told}`;
      Object.assign(cell.style, { background: colour, color: ink });
      /** @type {HTMLElement} */ (cell.firstElementChild).textContent = told;
    }
  };
  /** @type {HTMLElement} */ (choice.parentElement).hidden = false;
}
