/** What all parts of a view agree on, and who wants to hear of it. */

/**
 * @template {object} State
 */
export class Store {
  /** @param {State} state */
  constructor(state) {
    this.state = state;
    /** @type {{names: (keyof State)[], listener: (state: State) => void}[]} */
    this.listeners = [];
  }

  /**
   * Change some of it; those who follow one of the names whose value is another now are told.
   * @param {Partial<State>} patch
   */
  set(patch) {
    const before = this.state;
    this.state = { ...before, ...patch };
    const changed = Object.keys(patch).filter(
      (name) => before[/** @type {keyof State} */ (name)] !== this.state[/** @type {keyof State} */ (name)],
    );
    for (const { names, listener } of [...this.listeners])
      if (names.some((name) => changed.includes(String(name)))) listener(this.state);
  }

  /**
   * Be told now, and of every change of the names.
   * @param {(keyof State)[]} names
   * @param {(state: State) => void} listener
   */
  follow(names, listener) {
    this.listeners.push({ names, listener });
    listener(this.state);
  }
}
