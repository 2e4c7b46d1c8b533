/** What went wrong, in the words of the service, and what can be done about it. */

import { Problem } from "./api.js";
import { fill, make, makeField } from "./dom.js";
import { BrokenLinkError } from "./recipe.js";

/** @typedef {import("./session.js").Session} Session */

/**
 * @param {Session} session
 * @param {{onAgain?: () => void, onKey?: (key: string) => void}} remedies what it offers beside to ask once more; a key, where one may be asked for
 * @returns {HTMLElement}
 */
export function makeNotice(session, { onAgain = () => void session.again(), onKey } = {}) {
  const place = make("div", { class: "notices", role: "alert" });
  session.store.follow(["problem"], ({ problem }) => {
    fill(place, problem !== null && describeProblem(problem, { onAgain, onKey }));
  });
  return place;
}

/**
 * @param {unknown} problem
 * @param {{onAgain?: () => void, onKey?: (key: string) => void}} remedies
 * @returns {HTMLElement}
 */
export function describeProblem(problem, { onAgain, onKey }) {
  const known = asProblem(problem);
  const asksForKey = known.status === 401 && onKey;
  const errors = known.errors
    .filter(({ msg }) => !known.message.includes(msg))
    .map(({ loc, msg }) => make("li", {}, make("code", {}, loc.join(".")), " ", msg));
  return make(
    "div",
    { class: "notice" },
    make("strong", {}, known.title),
    make("p", {}, known.message),
    errors.length > 0 && make("ul", {}, errors),
    asksForKey && makeKeyForm(onKey),
    !asksForKey && onAgain && isWorthRepeating(known) && makeAgain(known, onAgain),
    known.requestId !== undefined && make("p", { class: "muted" }, `Request ${known.requestId}`),
  );
}

/**
 * @param {unknown} problem
 * @returns {Problem}
 */
function asProblem(problem) {
  if (problem instanceof Problem) return problem;
  if (problem instanceof BrokenLinkError) return new Problem({ title: "Broken link", detail: problem.message, status: 400 });
  return new Problem({ title: "Something broke in this page", detail: String(problem), status: 400 });
}

/** @param {Problem} problem */
const isWorthRepeating = ({ status }) => status === 0 || status === 401 || status === 429 || status >= 500;

/**
 * @param {Problem} problem
 * @param {() => void} onAgain
 * @returns {HTMLElement}
 */
function makeAgain({ retryAfter }, onAgain) {
  const hint = retryAfter ? `The server asks for ${retryAfter} s of patience.` : null;
  return make("p", {}, make("button", { type: "button", class: "secondary", onclick: onAgain }, "Try again"), " ", hint);
}

/**
 * @param {(key: string) => void} onKey
 * @returns {HTMLFormElement}
 */
function makeKeyForm(onKey) {
  const field = make("input", { type: "password", autocomplete: "off" });
  const form = make(
    "form",
    { class: "key-form" },
    makeField("API key, kept until the page is closed", field),
    make("button", { class: "primary" }, "Use it"),
  );
  form.onsubmit = (event) => {
    event.preventDefault();
    onKey(field.value);
  };
  return form;
}
