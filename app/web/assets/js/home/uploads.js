/**
 * Recordings that were chosen, and those on their way to the server: two at a time, each with a key that makes sending it
 * again harmless.
 *
 * @typedef {object} Staged
 * @property {number} id
 * @property {string} name Editable.
 * @property {File} [file]
 * @property {string} [url] Instead of a file.
 * @property {boolean} [isRecorded] It exists in this tab only.
 * @property {HTMLElement} [text] Shows what was understood while it was recorded.
 *
 * @typedef {object} Recording
 * @property {string} name
 * @property {string} path The route.
 * @property {[string, string][]} fields
 * @property {File} [file]
 *
 * @typedef {object} Upload
 * @property {string} id Its Idempotency-Key.
 * @property {Recording} recording
 * @property {"waiting" | "sending" | "failed"} state
 * @property {number} share What has been sent, from 0 to 1.
 * @property {string} problem The server's sentence, if it refused the upload, for good or for now.
 * @property {boolean} isInterrupted It failed for want of a connection or a key.
 * @property {AbortController} control
 * @property {(jobId: string | null) => void} resolve
 */
import { ApiError, randomId, sentence } from "../api.js";

const LONGEST_NAME = 255;

export class Staging {
  /** @type {Staged[]} */
  items = [];
  /** Called after every change of the list. */
  onChange = () => {};
  #count = 0;

  /** @param {File[]} files */
  addFiles(files) {
    for (const file of files) this.items.push({ id: ++this.#count, name: cleanName(file.name), file });
    this.onChange();
  }

  /**
   * Add what was recorded in this tab.
   *
   * @param {File} file
   * @param {HTMLElement} text
   */
  addRecording(file, text) {
    this.items.push({ id: ++this.#count, name: file.name.replace(/\.\w+$/, ""), file, isRecorded: true, text });
    this.onChange();
  }

  get hasRecording() {
    return this.items.some((item) => item.isRecorded);
  }

  /**
   * Add a link and return true, if the text is one.
   *
   * @param {string} text
   */
  addLink(text) {
    const url = text.trim();
    if (!/^https?:\/\/\S+$/i.test(url) || !URL.canParse(url)) return false;
    this.items.push({ id: ++this.#count, name: cleanName(nameOfLink(new URL(url))), url });
    this.onChange();
    return true;
  }

  /** @param {Staged} item */
  remove(item) {
    this.items = this.items.filter((other) => other !== item);
    this.onChange();
  }
}

/**
 * Return a name without what could make it look like another one: control characters, and those that turn text around.
 *
 * @param {string} name
 */
export function cleanName(name) {
  return [...name.replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, "")].slice(0, LONGEST_NAME).join("");
}

/**
 * Return the last part of a link's path, or its host.
 *
 * @param {URL} url
 */
function nameOfLink(url) {
  const last = url.pathname.split("/").pop() ?? "";
  try {
    return decodeURIComponent(last) || url.hostname;
  } catch {
    return last; // not UTF-8
  }
}

const CONCURRENT = 2;
const DEFAULT_PAUSE_SECONDS = 10;

export class UploadQueue {
  /** In the order in which they were added. @type {readonly Upload[]} */
  uploads = [];
  /** When a busy server is asked again, in milliseconds of `Date.now()`; 0 if it is not busy. */
  resumesAt = 0;
  #api;
  #store;
  #listeners = /** @type {Set<() => void>} */ (new Set());

  /**
   * @param {Pick<import("../api.js").Api, "upload" | "json">} api
   * @param {Pick<import("../store.js").Store, "putJobs" | "files">} store
   */
  constructor(api, store) {
    this.#api = api;
    this.#store = store;
  }

  /**
   * Call a listener after every change.
   *
   * @param {() => void} listener
   */
  onChange(listener) {
    this.#listeners.add(listener);
  }

  /**
   * Send a recording when it is its turn. Resolve to the job's id, or to null if the upload was cancelled.
   *
   * @param {Recording} recording
   * @returns {Promise<string | null>}
   */
  add(recording) {
    return new Promise((resolve) => {
      const control = new AbortController();
      /** @type {Upload} */
      const upload = { id: randomId(), recording, state: "waiting", share: 0, problem: "", isInterrupted: false, control, resolve };
      this.uploads = [...this.uploads, upload];
      this.#sendNext();
    });
  }

  /** @param {Upload} upload */
  cancel(upload) {
    upload.control.abort();
    this.#finish(upload, null);
  }

  /**
   * Send a failed upload again.
   *
   * @param {Upload} upload
   */
  retry(upload) {
    Object.assign(upload, { state: "waiting", share: 0, problem: "" });
    this.#sendNext();
  }

  /** Send again what failed for want of a connection or a key. */
  resume() {
    for (const upload of this.uploads) if (upload.state === "failed" && upload.isInterrupted) this.retry(upload);
  }

  #sendNext() {
    const sending = this.uploads.filter((upload) => upload.state === "sending").length;
    const free = this.resumesAt ? 0 : Math.max(0, CONCURRENT - sending);
    const waiting = this.uploads.filter((upload) => upload.state === "waiting");
    for (const upload of waiting.slice(0, free)) this.#send(upload);
    this.#changed();
  }

  /** @param {Upload} upload */
  async #send(upload) {
    const { path, fields, file } = upload.recording;
    Object.assign(upload, { state: "sending", share: 0, problem: "" });
    const form = new FormData();
    for (const [name, value] of fields) form.append(name, value);
    if (file) form.append("file", file, file.name);
    const onProgress = (/** @type {number} */ share) => {
      upload.share = share;
      this.#changed();
    };
    try {
      const options = { idempotencyKey: upload.id, signal: upload.control.signal, onProgress };
      const { job_id: id } = await this.#api.upload(path, form, options);
      if (file) this.#store.files.set(id, file);
      const show = (/** @type {import("../store.js").Job} */ job) => this.#store.putJobs([job]);
      await this.#api.json(`v1/jobs/${id}`).then(show, () => {}); // the stream of events has it too
      this.#finish(upload, id);
    } catch (error) {
      if (!upload.control.signal.aborted) this.#failed(upload, error);
    }
  }

  /**
   * Wait if the server is busy, else leave it to the user to try again.
   *
   * @param {Upload} upload
   * @param {unknown} error
   */
  #failed(upload, error) {
    const isBusy = error instanceof ApiError && (error.status === 429 || error.status === 503);
    const isInterrupted = error instanceof ApiError && (error.status === 0 || error.status === 401);
    const problem = isBusy ? error.message : sentence(error);
    Object.assign(upload, { state: isBusy ? "waiting" : "failed", share: 0, problem, isInterrupted });
    if (isBusy) this.#pause(error.retryAfter ?? DEFAULT_PAUSE_SECONDS);
    this.#sendNext();
  }

  /** @param {number} seconds */
  #pause(seconds) {
    if (this.resumesAt) return;
    this.resumesAt = Date.now() + 1000 * seconds;
    setTimeout(() => {
      this.resumesAt = 0;
      this.#sendNext();
    }, 1000 * seconds);
  }

  /**
   * @param {Upload} upload
   * @param {string | null} jobId
   */
  #finish(upload, jobId) {
    this.uploads = this.uploads.filter((other) => other !== upload);
    upload.resolve(jobId);
    this.#sendNext();
  }

  #changed() {
    for (const listener of this.#listeners) listener();
  }
}
