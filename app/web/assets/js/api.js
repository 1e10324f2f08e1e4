/**
 * The server's API and its streams of events. Errors are sentences of the server, and the key stays in this tab.
 *
 * @typedef {object} RequestOptions
 * @property {string} [method]
 * @property {BodyInit} [body]
 * @property {unknown} [json] A body, sent as JSON.
 * @property {AbortSignal} [signal]
 * @property {Record<string, string>} [headers]
 * @property {string} [key] Instead of the stored key, without asking for another one if it is refused.
 */

/** A response that is an error, or none at all. `message` is the server's sentence. */
export class ApiError extends Error {
  /**
   * @param {number} status 0 if there was no response.
   * @param {string} message
   * @param {{code?: string | undefined, param?: string | undefined, retryAfter?: number | undefined}} details `retryAfter` in seconds.
   */
  constructor(status, message, { code, param, retryAfter } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

const KEY = "api-key";

/** Sentences for people in place of the server's own, which are for programs, by code. @type {Record<string, (error: ApiError) => string>} */
const SENTENCES = {
  invalid_api_key: () => "The API key is missing or wrong: enter one that whoever runs this server gave you.",
  rate_limit_exceeded: ({ message, retryAfter }) => `${message} Wait ${retryAfter ?? 60} s, then try again.`,
};

/**
 * Return the sentence that says what went wrong.
 *
 * @param {unknown} error
 */
export function sentence(error) {
  if (!(error instanceof ApiError)) return error instanceof Error ? error.message : String(error);
  return SENTENCES[error.code ?? ""]?.(error) ?? error.message;
}

export class Api {
  /** Called when the server refuses the stored key, or the lack of one. */
  onUnauthorized = /** @type {(message: string) => void} */ (() => {});
  #base;
  #storage;

  /**
   * @param {string | URL} base The address of the page: the API is below it, also behind a proxy with a path prefix.
   * @param {Pick<Storage, "getItem" | "setItem" | "removeItem">} storage Forgotten with the tab: sessionStorage.
   */
  constructor(base, storage) {
    this.#base = new URL(".", base);
    this.#storage = storage;
  }

  /** The stored API key, or "". */
  get key() {
    return this.#storage.getItem(KEY) ?? "";
  }

  set key(value) {
    if (value) this.#storage.setItem(KEY, value);
    else this.#storage.removeItem(KEY);
  }

  /**
   * Return an absolute URL. The key is never in it.
   *
   * @param {string} path Such as `v1/jobs`, with or without a slash at the start.
   */
  url(path) {
    return new URL(path.replace(/^\//, ""), this.#base).href;
  }

  /**
   * Send a request and return its response, if that has a 2xx status.
   *
   * @param {string} path
   * @param {RequestOptions} options
   * @returns {Promise<Response>}
   * @throws {ApiError} For any other status, and with status 0 if the server can't be reached.
   */
  async request(path, { method = "GET", body, json, signal, headers = {}, key } = {}) {
    const all = { ...this.#authorization(key ?? this.key), ...headers };
    if (json !== undefined) all["Content-Type"] = "application/json";
    /** @type {RequestInit} */
    const init = { method, headers: all, cache: "no-store", credentials: "same-origin" };
    if (json !== undefined) init.body = JSON.stringify(json);
    else if (body !== undefined) init.body = body;
    if (signal) init.signal = signal;
    const response = await fetch(this.url(path), init).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The server can't be reached.");
    });
    if (response.ok) return response;
    const error = errorOf(response.status, await response.text(), response.headers.get("Retry-After"));
    if (response.status === 401 && key === undefined) this.onUnauthorized(sentence(error));
    throw error;
  }

  /**
   * @param {string} path
   * @param {RequestOptions} [options]
   * @returns {Promise<any>}
   */
  async json(path, options) {
    return (await this.request(path, options)).json();
  }

  /**
   * @param {string} path
   * @param {RequestOptions} [options]
   */
  async text(path, options) {
    return (await this.request(path, options)).text();
  }

  /**
   * Post a form and return the response's JSON. XMLHttpRequest, because fetch doesn't report the progress of an upload.
   *
   * @param {string} path
   * @param {FormData} form
   * @param {{idempotencyKey: string, onProgress: (share: number) => void, signal: AbortSignal}} options `share` is from 0 to 1.
   * @returns {Promise<any>}
   * @throws {ApiError | DOMException} An AbortError if the signal was aborted.
   */
  upload(path, form, { idempotencyKey, onProgress, signal }) {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const request = new XMLHttpRequest();
      request.open("POST", this.url(path));
      const headers = { ...this.#authorization(this.key), "Idempotency-Key": idempotencyKey };
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => event.total && onProgress(event.loaded / event.total);
      request.onerror = () => reject(new ApiError(0, "The connection was lost during the upload, or the file can't be read."));
      request.onabort = () => reject(signal.reason);
      request.onload = () => {
        if (request.status >= 200 && request.status < 300) return resolve(JSON.parse(request.responseText));
        const error = errorOf(request.status, request.responseText, request.getResponseHeader("Retry-After"));
        if (request.status === 401) this.onUnauthorized(sentence(error));
        reject(error);
      };
      signal.addEventListener("abort", () => request.abort());
      request.send(form);
    });
  }

  /** @param {string} key */
  #authorization(key) {
    return /** @type {Record<string, string>} */ (key ? { Authorization: `Bearer ${key}` } : {});
  }
}

/**
 * @param {number} status
 * @param {string} body
 * @param {string | null} retryAfter
 */
function errorOf(status, body, retryAfter) {
  let error;
  try {
    error = JSON.parse(body).error;
  } catch {} // a proxy's page
  const message = error?.message ?? `The server answered with status ${status}.`;
  return new ApiError(status, message, {
    code: error?.code ?? undefined,
    param: error?.param ?? undefined,
    retryAfter: Number(retryAfter) || undefined,
  });
}

/** Return a random UUID. `crypto.randomUUID` is missing on pages without TLS. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/**
 * @typedef {object} ServerEvent
 * @property {string} type The `event` field, or "message".
 * @property {string} data The `data` lines, joined by line feeds.
 * @property {string} id The last `id` so far, or "".
 */

/**
 * A parser of server-sent events, as the HTML standard defines them. `EventSource` can't send a key, so events are read with
 * fetch and parsed here.
 */
export class EventParser {
  #buffer = "";
  #data = /** @type {string[]} */ ([]);
  #type = "";
  #id = "";

  /**
   * Return the events that are complete with this piece of text. Pieces may end anywhere.
   *
   * @param {string} text
   * @returns {ServerEvent[]}
   */
  push(text) {
    const lines = (this.#buffer + text).split(/\r\n|\n|\r(?!$)/); // a CR at the end may be half of a CRLF
    this.#buffer = lines.pop() ?? "";
    const events = [];
    for (const line of lines) {
      if (line) this.#field(line);
      else if (this.#data.length) events.push({ type: this.#type || "message", data: this.#data.join("\n"), id: this.#id });
      if (!line) this.#reset();
    }
    return events;
  }

  #reset() {
    this.#data = [];
    this.#type = "";
  }

  /** @param {string} line */
  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
  }
}
