/** `<kqv-tokens>`: a text as its tokens, each as dark as the weight on it. */

import { SCALES } from "./color.js";
import { fill, make, onceAFrame } from "./dom.js";
import { visible } from "./number.js";

/** Most tokens that are shown at once; of a longer text, those around the one that is looked at. */
const MOST = 512;

/** Tells of `look` (a token's index, or null) and `lock` (an index). */
export class TokensElement extends HTMLElement {
  constructor() {
    super();
    /** @type {string[]} */
    this.tokens = [];
    /** @type {HTMLElement[]} */
    this.spans = [];
    this.start = 0;
    this.tellLook = onceAFrame((/** @type {number | null} */ index) => this.tell("look", index));
    this.addEventListener("pointermove", (event) => this.tellLook(this.indexOf(event)));
    this.addEventListener("pointerleave", () => this.tellLook(null));
    this.addEventListener("click", (event) => this.tell("lock", this.indexOf(event)));
  }

  /** @param {string[]} tokens */
  show(tokens) {
    this.tokens = tokens;
    this.draw(0);
  }

  /** @param {number} start */
  draw(start) {
    this.start = Math.max(0, Math.min(start, this.tokens.length - MOST));
    const shown = this.tokens.slice(this.start, this.start + MOST);
    this.spans = shown.map((token, index) => make("span", { class: "token", "data-index": this.start + index }, visible(token)));
    const gap = (/** @type {number} */ count) => count > 0 && make("span", { class: "token-gap" }, `… ${count} more`);
    fill(this, gap(this.start), this.spans, gap(this.tokens.length - this.start - shown.length));
  }

  /**
   * Shade each token, and mark the one that looks.
   * @param {Float32Array | null} weights of all tokens
   * @param {number | null} from
   * @param {import("./color.js").Scale} scale
   */
  shade(weights, from, scale) {
    const looking = from ?? this.start;
    if (looking < this.start || looking >= this.start + MOST) this.draw(looking - MOST / 2);
    for (const [index, span] of this.spans.entries()) {
      const weight = weights ? Math.max(weights[this.start + index], 0) : 0;
      span.style.setProperty("--weight", `${(100 * SCALES[scale](Math.min(weight, 1))).toFixed(1)}%`);
      span.classList.toggle("is-from", this.start + index === from);
    }
    if (from !== null && !this.matches(":hover")) this.reveal(this.spans[from - this.start]);
  }

  /**
   * Scroll a token into the strip's view, and nothing else.
   * @param {HTMLElement | undefined} span
   */
  reveal(span) {
    if (!span || this.scrollHeight <= this.clientHeight) return;
    const { scrollTop, clientHeight } = /** @type {HTMLElement} */ (this);
    const isSeen = span.offsetTop >= scrollTop && span.offsetTop + span.offsetHeight <= scrollTop + clientHeight;
    if (!isSeen) this.scrollTo({ top: span.offsetTop - clientHeight / 2 });
  }

  /**
   * @param {Event} event
   * @returns {number | null}
   */
  indexOf(event) {
    const index = /** @type {HTMLElement} */ (event.target).dataset?.index;
    return index === undefined ? null : Number(index);
  }

  /**
   * @param {string} name
   * @param {number | null} detail
   */
  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

customElements.define("kqv-tokens", TokensElement);
