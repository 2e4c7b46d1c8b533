/** The dashboard: what is on the page, and what happens when it opens. */

import { Api } from "./api.js";
import { makeAsk } from "./ask.js";
import { makeCompare } from "./compare.js";
import { fill, make } from "./dom.js";
import { makeGenerate } from "./generate.js";
import { makeHead } from "./head.js";
import { listenToKeys } from "./keys.js";
import { makeLive } from "./live.js";
import { makeNotice } from "./notice.js";
import { makeOverview } from "./overview.js";
import { makePages } from "./pages.js";
import { fromFragment } from "./recipe.js";
import { Session } from "./session.js";
import { makeThemes } from "./themes.js";
import { makeWorkshop } from "./workshop.js";

/** What is there before anybody has asked. */
const EXAMPLE = "The cat sat on the mat.";

const key = { current: "" };
let isOpen = false;
const api = new Api("", () => key.current);
const session = new Session(api);

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/**
 * All heads, and one of them.
 * @param {Session} session
 */
function makeLook(session) {
  const look = make("div", { class: "look" }, makeOverview(session), makeHead(session));
  session.store.follow(["analysis"], ({ analysis }) => look.classList.toggle("is-empty", analysis === null));
  return { element: look };
}

/**
 * After something went wrong, perhaps with another key.
 * @param {string} given
 */
function goOn(given) {
  key.current = given;
  void (isOpen ? session.again() : open());
}

async function open() {
  session.store.set({ problem: null });
  const notice = makeNotice(session, { onKey: goOn, onAgain: () => goOn(key.current) });
  fill(byId("main"), notice);
  const models = await api.models().catch((problem) => session.store.set({ problem }));
  if (!models) return;
  isOpen = true;
  const page = make("div", {});
  fill(byId("main"), makeAsk(session, models, EXAMPLE), notice, page);
  const turn = makePages(byId("pages"), page, [
    { id: "look", name: "Look", make: () => makeLook(session) },
    { id: "compare", name: "Compare", make: () => makeCompare(api, models, session) },
    { id: "steps", name: "Step by step", make: () => makeWorkshop(session) },
    { id: "generate", name: "Generate", make: () => makeGenerate(api, models, session) },
  ]);
  listenToKeys(session);
  fill(byId("strip"), makeLive(api));
  const follow = () => show(turn, models[0].id);
  addEventListener("hashchange", () => void follow());
  await follow();
}

/**
 * What the address says, or else the example.
 * @param {(page: string, state?: Record<string, unknown>) => void} turn
 * @param {string} model
 */
async function show(turn, model) {
  const example = { recipe: { model, text: EXAMPLE }, page: "look", view: {}, state: undefined };
  try {
    const { recipe, page, view, state } = (await fromFragment(location.hash)) ?? example;
    const answered = session.analyze(recipe, view); // known to the page that is turned to before there is an answer
    turn(page, state);
    await answered;
  } catch (error) {
    turn("look");
    await session.analyze(example.recipe);
    session.store.set({ problem: error });
  }
}

fill(byId("themes"), makeThemes());
void open();
