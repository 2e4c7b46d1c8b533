/**
 * `<kqv-attention src model text>`: the same views on a page of another origin, or in the frame that /embed is.
 *
 * <script type="module" src="https://kqv.example/dashboard/kqv-attention.js"></script>
 * <kqv-attention src="https://kqv.example" model="minilm" text="The cat sat on the mat." parts="heads,head"></kqv-attention>
 */

import { Api } from "./api.js";
import { fill, make } from "./dom.js";
import { makeHead, makeStrips } from "./head.js";
import { makeMapView } from "./mapview.js";
import { makeNotice } from "./notice.js";
import { makeOverview } from "./overview.js";
import { makeRow } from "./row.js";
import { Session } from "./session.js";

/** @typedef {string | null | (() => string | null | Promise<string | null>)} Token a token, or who to ask for one before each request */

/** Where this module is from, which is where the service is unless `src` says otherwise. */
const HOME = new URL("..", import.meta.url).href;

/** @type {Record<string, (session: Session) => HTMLElement>} what `parts` may name */
const PARTS = {
  heads: makeOverview,
  head: makeHead,
  map: makeMapView,
  tokens: (session) => make("div", { class: "panel" }, makeStrips(session), makeRow(session)),
};

/** @type {Promise<CSSStyleSheet[]> | null} shared by all elements of a page */
let styles = null;

/** The styles of the views, one for each name in the list, made without an element that a page's policy might refuse. */
async function fetchStyles() {
  const names = [...(await read("parts.css")).matchAll(/@import "([\w-]+\.css)"/g)].map(([, name]) => name);
  return Promise.all(names.map(async (name) => new CSSStyleSheet().replace(await read(name))));
}

/**
 * A file beside this one.
 * @param {string} name
 * @returns {Promise<string>}
 */
async function read(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  return answer.text();
}

export class AttentionElement extends HTMLElement {
  static observedAttributes = ["src", "model", "text", "target", "parts", "group", "layer", "head", "measure", "scale"];

  constructor() {
    super();
    /** @type {Token} */
    this.shownToken = null;
    /** @type {Session | null} */
    this.session = null;
    this.isWaiting = false;
    this.attachShadow({ mode: "open" });
  }

  /** @returns {Token} */
  get token() {
    return this.shownToken;
  }

  set token(token) {
    this.shownToken = token;
    this.update();
  }

  connectedCallback() {
    if (Object.hasOwn(this, "token")) {
      const { token } = this; // which the page set before this module came
      Reflect.deleteProperty(this, "token");
      this.token = token;
    }
    this.update();
  }

  /** @param {string} name */
  attributeChangedCallback(name) {
    if (name === "src" || name === "parts") this.session = null;
    this.update();
  }

  /** Show what the attributes say, once for all that change together. */
  update() {
    if (this.isWaiting || !this.isConnected) return;
    this.isWaiting = true;
    queueMicrotask(async () => {
      this.isWaiting = false;
      await this.show();
    });
  }

  async show() {
    this.session ??= await this.build();
    const text = this.getAttribute("text");
    if (text === null) return;
    const model = this.getAttribute("model") ?? (await this.defaultModel());
    const target = this.getAttribute("target");
    if (model) await this.session.analyze({ model, text, ...(target ? { target } : {}) }, this.view);
  }

  /** @returns {Promise<Session>} with its views in place */
  async build() {
    const session = new Session(
      new Api(this.getAttribute("src") ?? HOME, () => (typeof this.token === "function" ? this.token() : this.token)),
    );
    const root = /** @type {ShadowRoot} */ (this.shadowRoot);
    styles ??= fetchStyles();
    root.adoptedStyleSheets = await styles;
    const names = (this.getAttribute("parts") ?? "heads,head").split(",").map((name) => name.trim());
    const parts = names.flatMap((name) => (Object.hasOwn(PARTS, name) ? [PARTS[name](session)] : []));
    const notice = makeNotice(session);
    fill(root, make("div", { class: "embedded" }, notice, make("div", { class: "embedded-parts" }, parts)));
    return session;
  }

  /** @returns {Promise<string | null>} */
  async defaultModel() {
    const session = /** @type {Session} */ (this.session);
    try {
      return (await session.api.models())[0].id;
    } catch (problem) {
      session.store.set({ problem });
      return null;
    }
  }

  /** @returns {Partial<import("./session.js").State>} where the attributes want one to look */
  get view() {
    const words = ["group", "measure", "scale"].map((name) => [name, this.getAttribute(name)]);
    const numbers = ["layer", "head"].map((name) => [name, this.hasAttribute(name) ? Number(this.getAttribute(name)) : null]);
    return Object.fromEntries([...words, ...numbers].filter(([, value]) => value !== null));
  }
}

customElements.define("kqv-attention", AttentionElement);
