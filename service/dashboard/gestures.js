/** What a pointer does over a picture: it points, clicks, drags, pinches; and what a wheel does. */

/**
 * @typedef {object} Told
 * @property {() => boolean} moves whether the picture can be dragged and zoomed
 * @property {(event: MouseEvent) => void} point
 * @property {(event: MouseEvent) => void} click
 * @property {(event: MouseEvent) => void} step a double click
 * @property {(down: number, right: number) => void} drag by pixels
 * @property {(event: {clientX: number, clientY: number}, ratio: number) => void} zoom around a place; of what is seen then to what is seen now
 */

/** Pixels that a pressed pointer goes before it drags. */
const SLACK = 4;
/** How fast a wheel zooms: by e for so many pixels. */
const WHEEL = 240;

/** @typedef {{clientX: number, clientY: number}} Point */

/**
 * @param {HTMLElement} stage
 * @param {Told} told
 */
export function follow(stage, told) {
  /** @type {Map<number, Point>} pressed pointers, and where they were last */
  const pressed = new Map();
  let isDragging = false;
  stage.onpointerdown = (event) => {
    if (event.button !== 0 || !told.moves()) return;
    if (pressed.size === 0) isDragging = false;
    pressed.set(event.pointerId, event);
  };
  stage.onpointermove = (event) => {
    const before = pressed.get(event.pointerId);
    if (!before) return told.point(event);
    const [down, right] = [event.clientY - before.clientY, event.clientX - before.clientX];
    if (!isDragging && pressed.size === 1 && Math.hypot(down, right) < SLACK) return;
    isDragging = true;
    stage.setPointerCapture(event.pointerId);
    const other = [...pressed].find(([id]) => id !== event.pointerId)?.[1];
    if (other) pinch(told, other, before, event);
    else told.drag(down, right);
    pressed.set(event.pointerId, event);
  };
  stage.onpointerup = stage.onpointercancel = (event) => pressed.delete(event.pointerId);
  stage.onclick = (event) => {
    if (!isDragging) told.click(event);
    isDragging = false;
  };
  stage.ondblclick = told.step;
  stage.addEventListener("wheel", (event) => turn(told, event), { passive: false });
  const keepFromPage = (/** @type {TouchEvent} */ event) => event.touches.length > 1 && told.moves() && event.preventDefault();
  stage.addEventListener("touchstart", keepFromPage, { passive: false });
}

/**
 * @param {Told} told
 * @param {Point} still
 * @param {Point} before
 * @param {Point} now
 */
function pinch(told, still, before, now) {
  const apart = (/** @type {Point} */ point) => Math.hypot(point.clientX - still.clientX, point.clientY - still.clientY);
  const middle = { clientX: (still.clientX + now.clientX) / 2, clientY: (still.clientY + now.clientY) / 2 };
  told.zoom(middle, apart(before) / Math.max(apart(now), 1));
}

/**
 * With Ctrl or ⌘, which is also how a pinch on a touchpad comes; without, the wheel is the page's.
 * @param {Told} told
 * @param {WheelEvent} event
 */
function turn(told, event) {
  if (!told.moves() || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  const pixels = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 * event.deltaY : event.deltaY;
  told.zoom(event, Math.exp(pixels / WHEEL));
}
