/** The service, asked: JSON in, JSON out, problems as the service tells them. */

/**
 * @typedef {object} ModelCard
 * @property {string} id
 * @property {"encoder" | "decoder" | "encoder-decoder"} architecture
 * @property {number} layers
 * @property {Record<string, number>} groups
 * @property {number} heads
 * @property {number} d_model
 * @property {number} context
 * @property {number} parameters
 * @property {string} dtype
 */

/** @typedef {{queue?: number, forward?: number, tokenize?: number, encode?: number, total: number}} Timing in milliseconds */

/** What the service, or the way to it, has against a request. */
export class Problem extends Error {
  /**
   * @param {{title: string, detail?: string, status?: number, request_id?: string, errors?: {loc: (string | number)[], msg: string}[]}} told
   * @param {number | null} retryAfter seconds
   */
  constructor(told, retryAfter = null) {
    super(told.detail || told.title);
    this.title = told.title;
    this.status = told.status ?? 0;
    this.requestId = told.request_id;
    this.errors = told.errors ?? [];
    this.retryAfter = retryAfter;
  }
}

const AWAY = "Nothing answers at this address. Is the server still running?";

export class Api {
  /**
   * @param {string} base where the service is; "" for where this page is from
   * @param {(() => string | null | undefined | Promise<string | null | undefined>)} token the key or embed token to show, if any
   */
  constructor(base = "", token = () => null) {
    this.base = base.replace(/\/$/, "");
    this.token = token;
    /** @type {(timing: Timing) => void} told of every answer's times */
    this.onTiming = () => {};
  }

  /** @returns {Promise<ModelCard[]>} the default one first */
  async models() {
    return (await this.ask("/v1/models")).data;
  }

  /**
   * The JSON that a path answers.
   * @param {string} path
   * @param {object} [body] sent by POST
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  async ask(path, body, signal) {
    const response = await this.send(path, body, signal);
    try {
      return await response.json();
    } catch (error) {
      throw isAbort(error) ? error : new Problem({ title: "Broken answer", detail: "The answer was cut off, or is no JSON." });
    }
  }

  /**
   * The answer to a request, which went well.
   * @param {string} path
   * @param {object} [body]
   * @param {AbortSignal} [signal]
   * @returns {Promise<Response>}
   */
  async send(path, body, signal) {
    const token = await this.token();
    /** @type {Record<string, string>} */
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    const started = performance.now();
    const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    const response = await fetch(this.base + path, { ...sent, headers, signal }).catch((error) => {
      throw isAbort(error) ? error : new Problem({ title: "No answer", detail: AWAY });
    });
    if (!response.ok) throw await problemOf(response);
    if (path.startsWith("/v1/") && body) this.onTiming(timingOf(response, performance.now() - started));
    return response;
  }

  /**
   * The server-sent events of an answer.
   * @param {string} path
   * @param {object} body
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<{name: string, data: any}>}
   */
  async *stream(path, body, signal) {
    const response = await this.send(path, body, signal);
    const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
    const decoder = new TextDecoder();
    let waiting = "";
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw isAbort(error)
          ? error
          : new Problem({ title: "Broken off", detail: "The connection broke while the text was written." });
      });
      if (done) return;
      const parts = (waiting + decoder.decode(value, { stream: true })).split("\n\n");
      waiting = /** @type {string} */ (parts.pop());
      for (const part of parts) {
        const event = eventOf(part);
        if (event.name === "error") throw new Problem(event.data);
        yield event;
      }
    }
  }
}

/** @param {unknown} error */
export const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";

/**
 * @param {string} text
 * @returns {{name: string, data: any}}
 */
function eventOf(text) {
  const fields = Object.fromEntries(
    text.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]),
  );
  return { name: fields.event, data: JSON.parse(fields.data) };
}

/**
 * What an answer that went wrong tells; a proxy's has another form.
 * @param {Response} response
 * @returns {Promise<Problem>}
 */
async function problemOf(response) {
  const seconds = Number(response.headers.get("Retry-After"));
  const retryAfter = seconds > 0 ? seconds : null;
  const told = await response.json().catch(() => null);
  const status = response.status;
  return new Problem(told?.title ? told : { title: `Status ${status}`, status, detail: response.statusText }, retryAfter);
}

/**
 * Where the time of an answer went.
 * @param {Response} response
 * @param {number} total
 * @returns {Timing}
 */
function timingOf(response, total) {
  const parts = (response.headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g);
  return { total, ...Object.fromEntries([...parts].map(([, name, value]) => [name, Number(value)])) };
}
