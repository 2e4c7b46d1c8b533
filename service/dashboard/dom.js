/** Elements, made without markup: whatever a token or a server says stays text. */

/** @typedef {Node | string | number | null | undefined | false} Child */
/** @typedef {string | number | boolean | null | undefined | ((event: any) => void)} Property */

/**
 * An element with attributes, listeners (`onclick`) and children.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, Property>} properties
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) give(element, name, value);
  fill(element, ...children);
  return element;
}

/**
 * @param {Element} element
 * @param {string} name
 * @param {Property} value
 */
function give(element, name, value) {
  if (typeof value === "function") element.addEventListener(name.slice(2), value);
  else if (value === true) element.setAttribute(name, "");
  else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
}

/**
 * Replace what an element holds.
 * @param {Element | ShadowRoot} element
 * @param {...(Child | Child[])} children
 */
export function fill(element, ...children) {
  const kept = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  element.replaceChildren(...kept.map((child) => (child instanceof Node ? child : String(child))));
}

/**
 * One choice out of a few, as buttons side by side.
 * @param {string} label
 * @param {[string, string][]} choices value and name
 * @param {string} chosen
 * @param {(value: string) => void} onChange
 * @returns {HTMLElement & {choose: (value: string) => void}}
 */
export function makeChoice(label, choices, chosen, onChange) {
  const buttons = choices.map(([value, name]) =>
    make("button", { type: "button", class: "choice", "data-value": value, onclick: () => pick(value, true) }, name),
  );
  const group = make("div", { class: "choices", role: "group", "aria-label": label }, buttons);
  /** @param {string} value @param {boolean} tells */
  const pick = (value, tells) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.value === value));
    if (tells) onChange(value);
  };
  pick(chosen, false);
  return Object.assign(group, { choose: (/** @type {string} */ value) => pick(value, false) });
}

/**
 * Choices that may become others: made anew only then, so that the one in focus stays. One alone is no choice, and not shown.
 * @param {string} label
 * @param {(value: string) => void} onChange
 * @returns {HTMLElement & {update: (choices: [string, string][], chosen: string) => void}}
 */
export function makeChanging(label, onChange) {
  const place = make("div", {});
  let known = "";
  /** @type {ReturnType<typeof makeChoice> | null} */
  let choice = null;
  const update = (/** @type {[string, string][]} */ choices, /** @type {string} */ chosen) => {
    if (JSON.stringify(choices) !== known) {
      known = JSON.stringify(choices);
      choice = makeChoice(label, choices, chosen, onChange);
      fill(place, choices.length > 1 && choice);
    }
    choice?.choose(chosen);
  };
  return Object.assign(place, { update });
}

/**
 * A field under its name.
 * @param {string} name
 * @param {HTMLElement} field
 * @returns {HTMLLabelElement}
 */
export function makeField(name, field) {
  return make("label", { class: "field" }, make("span", { class: "field-name" }, name), field);
}

/**
 * A list to choose one of.
 * @param {[string, string][]} choices value and name
 * @param {string} chosen
 * @param {(value: string) => void} [onChange]
 * @returns {HTMLSelectElement}
 */
export function makeSelect(choices, chosen, onChange) {
  const options = choices.map(([value, name]) => make("option", { value, selected: value === chosen }, name));
  return make(
    "select",
    { onchange: (/** @type {Event & {target: HTMLSelectElement}} */ event) => onChange?.(event.target.value) },
    options,
  );
}

/**
 * Choose in a list, though it may not have that: then whoever is asked for it will say so.
 * @param {HTMLSelectElement} select
 * @param {string} value
 */
export function choose(select, value) {
  if (![...select.options].some((option) => option.value === value)) select.append(make("option", { value }, value));
  select.value = value;
}

/**
 * Call a function at most once a frame, with the arguments of the last call.
 * @template {any[]} Arguments
 * @param {(...given: Arguments) => void} draw
 * @returns {(...given: Arguments) => void}
 */
export function onceAFrame(draw) {
  /** @type {Arguments | null} */
  let last = null;
  return (...given) => {
    if (last === null)
      requestAnimationFrame(() => {
        const latest = /** @type {Arguments} */ (last);
        last = null;
        draw(...latest);
      });
    last = given;
  };
}
