/** Work of which only the latest counts: what was begun before is given up. */
export class Latest {
  constructor() {
    this.controller = new AbortController();
    /** @type {unknown[]} */
    this.subject = [];
  }

  giveUp() {
    this.controller.abort();
    this.subject = [];
  }

  /**
   * Whether work on something would be another than what goes on or was done last.
   * @param {unknown[]} subject
   */
  begins(subject) {
    const isSame = subject.length === this.subject.length && subject.every((each, index) => each === this.subject[index]);
    if (!isSame) {
      this.giveUp();
      this.subject = subject;
    }
    return !isSame;
  }

  /**
   * @param {(signal: AbortSignal) => Promise<void>} work
   * @returns {Promise<void>}
   */
  async run(work) {
    this.controller.abort();
    const controller = new AbortController();
    this.controller = controller;
    try {
      await work(controller.signal);
    } catch (error) {
      if (this.controller === controller) this.subject = []; // it may be begun once more
      throw error;
    }
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
