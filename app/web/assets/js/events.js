/**
 * The stream of changes, which keeps the store up to date.
 *
 * A tab has one stream while it is visible, and none while it is hidden: browsers allow six connections to a server over
 * HTTP/1.1, and a stream takes one for as long as it lasts.
 */
import { ApiError } from "./api.js";
import { EventParser } from "./sse.js";

/** The server sends something at least every 15 s. After this many milliseconds without it, the connection is dead. */
const SILENCE_MS = 40_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
const PAGE_SIZE = 1000;

export class EventStream {
  #api;
  #store;
  #cursor = "";
  #isListed = false;
  #lastListed = "";
  /** Jobs that changed while they were being listed: what the list says of them may be older. */
  #newer = /** @type {Set<string> | null} */ (null);
  #control = /** @type {AbortController | null} */ (null);

  /**
   * @param {import("./api.js").Api} api
   * @param {import("./store.js").Store} store
   */
  constructor(api, store) {
    this.#api = api;
    this.#store = store;
  }

  /** Open the stream, and open it again whenever it ends, until `close` is called. */
  open() {
    if (this.#control) return;
    this.#control = new AbortController();
    this.#run(this.#control.signal);
  }

  close() {
    this.#control?.abort();
    this.#control = null;
  }

  /** Begin again, as after a change of the key. */
  restart() {
    this.close();
    this.#cursor = "";
    this.#isListed = false;
    this.open();
  }

  /** Fetch the jobs that follow the last ones that were listed. */
  async listOlder() {
    await this.#list(`&after=${this.#lastListed}`).catch(() => this.#listAll()); // the last one may be gone
  }

  /**
   * Fetch jobs whose name has a text in it, also older ones.
   *
   * @param {string} text
   */
  async find(text) {
    const { jobs } = await this.#api.json(`v1/jobs?limit=100&q=${encodeURIComponent(text)}`);
    this.#store.putJobs(Object.values(jobs));
  }

  /** @param {AbortSignal} signal */
  async #run(signal) {
    let wait = FIRST_WAIT_MS;
    while (!signal.aborted) {
      try {
        await this.#read(signal, () => (wait = FIRST_WAIT_MS));
      } catch (error) {
        if (error instanceof ApiError && error.status === 401) this.close(); // the dialog for the key opens it again
      }
      if (signal.aborted) return;
      this.#store.setConnected(false);
      await sleep(wait * (1 + Math.random() / 4), signal);
      wait = Math.min(2 * wait, LONGEST_WAIT_MS);
    }
  }

  /**
   * Read one response to its end.
   *
   * @param {AbortSignal} signal
   * @param {() => void} onConnected
   */
  async #read(signal, onConnected) {
    const silence = new AbortController();
    const headers = { Accept: "text/event-stream", ...(this.#cursor && { "Last-Event-ID": this.#cursor }) };
    let timer = setTimeout(() => silence.abort(), SILENCE_MS);
    try {
      const response = await this.#api.request("v1/events", { headers, signal: AbortSignal.any([signal, silence.signal]) });
      if (!response.body) return;
      const parser = new EventParser();
      const decoder = new TextDecoder();
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENCE_MS);
        onConnected();
        this.#store.setConnected(true);
        for (const event of parser.push(decoder.decode(value, { stream: true }))) this.#apply(event);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /** @param {import("./sse.js").ServerEvent} event */
  #apply({ type, data, id }) {
    const body = JSON.parse(data);
    if (id) this.#cursor = id;
    if (type === "job") {
      this.#newer?.add(body.job_id);
      this.#store.putJobs([body]);
    } else if (type === "removed") {
      this.#newer?.add(body.job_id);
      this.#store.removeJob(body.job_id);
    } else if (type === "health") {
      this.#store.setHealth(body);
    } else if (type === "reset" || (type === "hello" && !this.#isListed)) {
      this.#listAll();
    }
  }

  async #listAll() {
    this.#isListed = true;
    this.#newer = new Set();
    try {
      const listed = await this.#list("");
      for (const id of this.#store.jobs.keys()) if (!listed.has(id) && !this.#newer.has(id)) this.#store.removeJob(id);
    } catch {
      setTimeout(() => this.#control && this.restart(), LONGEST_WAIT_MS);
    } finally {
      this.#newer = null;
    }
  }

  /**
   * @param {string} query
   * @returns {Promise<Set<string>>} The ids.
   */
  async #list(query) {
    const { jobs } = await this.#api.json(`v1/jobs?limit=${PAGE_SIZE}${query}`);
    const ids = Object.keys(jobs); // newest first
    this.#lastListed = ids.at(-1) ?? this.#lastListed;
    this.#store.hasOlderJobs = ids.length === PAGE_SIZE;
    this.#store.putJobs(ids.filter((id) => !this.#newer?.has(id)).map((id) => jobs[id]));
    return new Set(ids);
  }
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} signal Ends the sleep early.
 */
function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve(undefined);
    });
  });
}
