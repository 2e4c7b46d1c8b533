/** Keys that work all over the page: `[` and `]` for the head, `{` and `}` for the layer. */

const STEPS = /** @type {Record<string, [number, number]>} */ ({ "[": [0, -1], "]": [0, 1], "{": [-1, 0], "}": [1, 0] });

/** @param {import("./session.js").Session} session */
export function listenToKeys(session) {
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
    if (isTyping || !(event.key in STEPS)) return;
    const { layer, head } = session.store.state;
    session.open({ layer: layer + STEPS[event.key][0], head: head + STEPS[event.key][1] });
  });
}
