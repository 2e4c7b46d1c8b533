/** How the service is doing: its queue, its batches, how long it takes; and how long this page's last answer took. */

import { fill, make } from "./dom.js";
import { duration, short } from "./number.js";

/** @typedef {{waiting: number, running: number, batches: number, sequences: number, answers: Map<number, number>}} Figures `answers`: cumulative, by the bound in seconds */

const PERIOD_MS = 5000;
/** Over how long the batches and times are told. */
const WINDOW_MS = 60_000;
/** How long after the last sign of a reader the service is left alone. */
const AWAKE_MS = 60_000;
/** What a reader does. */
const SIGNS = ["pointermove", "keydown", "wheel", "visibilitychange"];

/**
 * @param {import("./api.js").Api} api
 * @returns {HTMLElement}
 */
export function makeLive(api) {
  const [service, own] = [make("span", {}), make("span", {})];
  api.onTiming = (timing) =>
    fill(
      own,
      "last answer ",
      make("b", {}, duration(timing.total)),
      timing.forward !== undefined && ` (model ${duration(timing.forward)}, queue ${duration(timing.queue ?? 0)})`,
    );
  /** @type {{at: number, figures: Figures}[]} */
  let seen = [];
  let signed = performance.now();
  const look = async () => {
    if (document.hidden || performance.now() - signed > AWAKE_MS) return;
    const figures = await readFigures(api);
    if (figures === null) return stop();
    const at = performance.now();
    seen = [...seen.filter((each) => at - each.at < WINDOW_MS), { at, figures }];
    fill(service, describe(seen[0].figures, figures));
  };
  const wake = () => {
    const wasAsleep = performance.now() - signed > AWAKE_MS;
    signed = performance.now();
    if (wasAsleep) void look();
  };
  const clock = setInterval(() => void look(), PERIOD_MS);
  const stop = () => {
    clearInterval(clock);
    for (const sign of SIGNS) document.removeEventListener(sign, wake);
  };
  for (const sign of SIGNS) document.addEventListener(sign, wake, { passive: true });
  void look();
  return make("p", { class: "live-line" }, service, own);
}

/**
 * The service's own figures, where they may be seen: they are the operator's.
 * @param {import("./api.js").Api} api
 * @returns {Promise<Figures | null>}
 */
async function readFigures(api) {
  try {
    return parse(await (await api.send("/metrics")).text());
  } catch {
    return null;
  }
}

/**
 * @param {string} text in Prometheus' format
 * @returns {Figures}
 */
export function parse(text) {
  const sum = (/** @type {string} */ name) =>
    [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, "gm"))].reduce((total, [, value]) => total + Number(value), 0);
  const answers = new Map();
  for (const [, bound, value] of text.matchAll(
    /^kqv_http_request_duration_seconds_bucket\{le="([^"]+)",method="POST",route="\/v1\/[^"]*"\} (\S+)$/gm,
  )) {
    const seconds = bound === "+Inf" ? Number.POSITIVE_INFINITY : Number(bound);
    answers.set(seconds, (answers.get(seconds) ?? 0) + Number(value));
  }
  return {
    waiting: sum("kqv_requests_waiting"),
    running: sum("kqv_requests_running"),
    batches: sum("kqv_batch_size_count"),
    sequences: sum("kqv_batch_size_sum"),
    answers,
  };
}

/**
 * @param {Figures} before
 * @param {Figures} now
 * @returns {(Node | string)[]}
 */
function describe(before, now) {
  const batch = (now.sequences - before.sequences) / (now.batches - before.batches);
  const [median, most] = [0.5, 0.99].map((share) => quantile(before, now, share));
  const parts = [`queue `, make("b", {}, now.waiting), ` · running `, make("b", {}, now.running)];
  if (Number.isFinite(batch)) parts.push(" · batch ", make("b", {}, short(batch)));
  if (median !== null && most !== null)
    parts.push(" · p50 ", make("b", {}, `≤ ${duration(1000 * median)}`), " · p99 ", make("b", {}, `≤ ${duration(1000 * most)}`));
  return [...parts, " · "];
}

/**
 * The bound under which a share of the answers since then took.
 * @param {Figures} before
 * @param {Figures} now
 * @param {number} share
 * @returns {number | null} seconds
 */
export function quantile(before, now, share) {
  const counts = [...now.answers].map(
    ([bound, count]) => /** @type {[number, number]} */ ([bound, count - (before.answers.get(bound) ?? 0)]),
  );
  counts.sort(([one], [other]) => one - other);
  const all = counts.at(-1)?.[1] ?? 0;
  const found = counts.find(([, count]) => count >= share * all);
  return all > 0 && found && Number.isFinite(found[0]) ? found[0] : null;
}
