/**
 * The state that views share: jobs, the server, its health, and if the page is connected; and the stream of changes, which
 * keeps it up to date.
 *
 * @typedef {object} JobObject A job as the API returns it; what does not apply is absent.
 * @property {string} job_id
 * @property {"queued" | "processing" | "completed" | "failed" | "cancelled"} status
 * @property {string} progress
 * @property {number} progress_percent
 * @property {number} start_time
 * @property {number} elapsed_time
 * @property {number} [end_time]
 * @property {string} [name]
 * @property {"transcribe" | "translate"} [task]
 * @property {string[]} [timestamp_granularities]
 * @property {boolean} [multichannel]
 * @property {number} [queue_position]
 * @property {number} [eta_seconds]
 * @property {number} [audio_duration]
 * @property {number} [processing_time]
 * @property {string} [language]
 * @property {string} model
 * @property {number} [attempts]
 * @property {any} [delivery]
 * @property {any} [webhook]
 * @property {string} [error]
 * @property {string} [error_type]
 * @property {boolean} result_available
 * @property {number} [result_expires_at]
 * @property {boolean} [audio_available]
 * @property {number} [edited_at]
 * @property {string[]} [warnings]
 * @property {Record<string, string>} [metadata]
 *
 * @typedef {JobObject & {seen: number}} Job `seen` is when it arrived, in milliseconds of `performance.now()`.
 *
 * @typedef {object} ModelDescription What is not known before the model is loaded is absent.
 * @property {string} id
 * @property {boolean} is_default
 * @property {boolean} [can_translate]
 * @property {string[]} [languages]
 *
 * @typedef {object} ServerDescription `GET /v1/server`.
 * @property {string} version
 * @property {boolean} requires_key
 * @property {number} max_upload_bytes
 * @property {number} max_audio_seconds
 * @property {{default: number, max: number}} retention_seconds
 * @property {ModelDescription[]} models
 * @property {string[]} result_formats
 * @property {Record<string, boolean>} features
 *
 * @typedef {object} Health The `health` event.
 * @property {string} status
 * @property {string} device
 * @property {{name: string, loaded: boolean}} model
 * @property {{max_concurrent_requests: number, active_transcriptions: number, queued: number}} concurrency
 */

import { ApiError, EventParser } from "./api.js";

/** @typedef {"jobs" | "health" | "server" | "connection"} Topic */

export class Store {
  /** Jobs by id. Change them through the methods below. @type {Map<string, Job>} */
  jobs = new Map();
  /** True if the server has older jobs that were not fetched. */
  hasOlderJobs = false;
  /** @type {ServerDescription | null} */
  server = null;
  /** @type {Health | null} */
  health = null;
  isConnected = false;
  /** Files that were sent from this tab, by job: they can be played without fetching them. @type {Map<string, File>} */
  files = new Map();
  #listeners = /** @type {Map<string, Set<(detail: any) => void>>} */ (new Map());
  #changed = /** @type {Set<string>} */ (new Set());

  /**
   * Call a listener on every change of a topic until the signal is aborted. Changes of jobs are collected until the current
   * task has ended, and come as a set of ids.
   *
   * @param {Topic} topic
   * @param {(detail: any) => void} listener
   * @param {AbortSignal} [signal]
   */
  on(topic, listener, signal) {
    this.#listen(topic, listener, signal);
  }

  /**
   * Call a listener with a job whenever it changes, and with null when it is gone.
   *
   * @param {string} id
   * @param {(job: Job | null) => void} listener
   * @param {AbortSignal} [signal]
   */
  onJob(id, listener, signal) {
    this.#listen(`job ${id}`, listener, signal);
  }

  /**
   * Add or update jobs.
   *
   * @param {JobObject[]} jobs
   */
  putJobs(jobs) {
    for (const job of jobs) {
      this.jobs.set(job.job_id, { ...job, seen: performance.now() });
      this.#jobChanged(job.job_id);
    }
  }

  /** @param {string} id */
  removeJob(id) {
    this.files.delete(id);
    if (this.jobs.delete(id)) this.#jobChanged(id);
  }

  /** Forget all jobs, as after a change of the key. */
  clearJobs() {
    for (const id of [...this.jobs.keys()]) this.removeJob(id);
    this.hasOlderJobs = false;
  }

  /** @param {ServerDescription} server */
  setServer(server) {
    if (JSON.stringify(server) === JSON.stringify(this.server)) return;
    this.server = server;
    this.#notify("server", server);
  }

  /** @param {Health | null} health */
  setHealth(health) {
    this.health = health;
    this.#notify("health", health);
  }

  /** @param {boolean} isConnected */
  setConnected(isConnected) {
    if (isConnected === this.isConnected) return;
    this.isConnected = isConnected;
    this.#notify("connection", isConnected);
  }

  /** @param {string} id */
  #jobChanged(id) {
    if (!this.#changed.size) queueMicrotask(() => this.#notifyJobs());
    this.#changed.add(id);
  }

  #notifyJobs() {
    const changed = this.#changed;
    this.#changed = new Set();
    for (const id of changed) this.#notify(`job ${id}`, this.jobs.get(id) ?? null);
    this.#notify("jobs", changed);
  }

  /**
   * @param {string} topic
   * @param {(detail: any) => void} listener
   * @param {AbortSignal | undefined} signal
   */
  #listen(topic, listener, signal) {
    const listeners = this.#listeners.get(topic) ?? new Set();
    this.#listeners.set(topic, listeners.add(listener));
    signal?.addEventListener("abort", () => {
      listeners.delete(listener);
      if (!listeners.size && this.#listeners.get(topic) === listeners) this.#listeners.delete(topic);
    });
  }

  /**
   * @param {string} topic
   * @param {unknown} detail
   */
  #notify(topic, detail) {
    for (const listener of [...(this.#listeners.get(topic) ?? [])]) listener(detail);
  }
}

/** The server sends something at least every 15 s. After this many milliseconds without it, the connection is dead. */
const SILENCE_MS = 40_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
const PAGE_SIZE = 1000;

/**
 * The stream of changes. A tab has one while it is visible, and none while it is hidden: browsers allow six connections to a
 * server over HTTP/1.1, and a stream takes one for as long as it lasts.
 */
export class EventStream {
  /** Called when the stream can't continue, as after a restart of the server. */
  onReset = () => {};
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
   * @param {Store} store
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
      let asked = 0;
      try {
        await this.#read(signal, () => (wait = FIRST_WAIT_MS));
      } catch (error) {
        if (error instanceof ApiError && error.status === 401) this.close(); // the dialog for the key opens it again
        asked = waitOf(error);
      }
      if (signal.aborted) return;
      this.#store.setConnected(false);
      await sleep(Math.max(wait, asked) * (1 + Math.random() / 4), signal);
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

  /** @param {import("./api.js").ServerEvent} event */
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
      if (type === "reset") this.onReset();
    }
  }

  async #listAll() {
    this.#isListed = true;
    this.#newer = new Set();
    try {
      const listed = await this.#list("");
      for (const id of this.#store.jobs.keys()) if (!listed.has(id) && !this.#newer.has(id)) this.#store.removeJob(id);
    } catch (error) {
      setTimeout(() => this.#control && this.restart(), Math.max(LONGEST_WAIT_MS, waitOf(error)));
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
 * Return the milliseconds for which the server asks to wait, or 0.
 *
 * @param {unknown} error
 */
function waitOf(error) {
  return 1000 * ((error instanceof ApiError && error.retryAfter) || 0);
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
