/**
 * The state that views share: jobs, the server, its health, and if the page is connected.
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
