/** Work of which only the latest counts: what was begun before is given up. */
export class Latest {
  constructor() {
    this.controller = new AbortController();
  }

  giveUp() {
    this.controller.abort();
  }

  /**
   * @param {(signal: AbortSignal) => Promise<void>} work
   * @returns {Promise<void>}
   */
  async run(work) {
    this.giveUp();
    this.controller = new AbortController();
    await work(this.controller.signal);
  }
}

/**
 * A pause that can be given up.
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export const rest = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const clock = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(clock);
      reject(signal.reason);
    });
  });
