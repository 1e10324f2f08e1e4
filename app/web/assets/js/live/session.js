/**
 * A session of live transcription: OpenAI's realtime protocol over a WebSocket.
 *
 * @typedef {object} Connection What a session needs of a WebSocket.
 * @property {number} bufferedAmount
 * @property {(text: string) => void} send
 * @property {(code?: number) => void} close
 * @property {(type: any, listener: (event: any) => void) => void} addEventListener
 */
import { ApiError, sentence } from "../api.js";

const TRANSCRIPTION = "conversation.item.input_audio_transcription";
/** Characters that wait to be sent, about 8 s of audio: what comes after them is left out. */
const MOST_WAITING = 512 * 1024;
/** A secret only has to open one session. */
const SECRET_SECONDS = 60;
/** Reasons of the server for which another session is opened once there is audio for it. */
const CONTINUED = new Set(["session_expired", "session_idle"]);
/** Sentences for people in place of the server's own, which are for programs, by code. @type {Record<string, string>} */
const SENTENCES = {
  draining: "The server is shutting down.",
  internal_error: "The server failed: its log has the reason.",
  slow_reader: "The connection is too slow.",
  too_fast: "The server is too busy.",
};
const REFUSED =
  "The server runs as many live transcriptions as it allows, or a proxy in between passes on no WebSockets.";

/**
 * Return the configuration of a session for the form fields of a transcription.
 *
 * @param {[string, string][]} fields
 */
export function configuration(fields) {
  const { language, model, prompt } = Object.fromEntries(fields);
  const keywords = fields.filter(([name]) => name === "keywords[]").map(([, value]) => value);
  const transcription = { language, model, prompt, keywords: keywords.length ? keywords : undefined }; // JSON leaves out what is undefined
  return { type: "transcription", audio: { input: { transcription } } };
}

/**
 * Open a WebSocket, with a client secret if there is an API key.
 *
 * @param {import("../api.js").Api} api
 * @returns {Promise<Connection>}
 */
export async function connect(api) {
  const url = api.url("v1/realtime?intent=transcription").replace(/^http/, "ws");
  if (!api.key) return new WebSocket(url);
  return new WebSocket(url, ["realtime", `openai-insecure-api-key.${await clientSecret(api)}`]);
}

/**
 * Return why a session did not begin. Browsers don't show the response that refuses a WebSocket, but a request for a secret is
 * refused for most of the same reasons.
 *
 * @param {import("../api.js").Api} api
 * @param {string | undefined} status That of the server's health.
 * @returns {Promise<string>} A sentence.
 */
export async function refusal(api, status) {
  if (status === "loading") return "The server still loads its model.";
  if (status === "draining") return "The server is shutting down.";
  return clientSecret(api).then(() => REFUSED, sentence);
}

/** @param {import("../api.js").Api} api */
async function clientSecret(api) {
  const json = { session: { type: "transcription" }, expires_after: { anchor: "created_at", seconds: SECRET_SECONDS } };
  const { value } = await api.json("v1/realtime/client_secrets", { method: "POST", json, key: api.key });
  return value;
}

export class LiveSession {
  #connect;
  #refusal;
  #config;
  #listeners;
  /** @type {"closed" | "opening" | "open" | "ended"} */
  #state = "closed";
  #connection = /** @type {Connection | null} */ (null);
  #isFinishing = false;
  #hasLeftOut = false;
  /** Messages for a session that is opening. @type {string[]} */
  #waiting = [];
  /** How many updates of the configuration the server has not answered. */
  #updates = 0;
  /** Texts that are not final, by item. @type {Map<string, string>} */
  #texts = new Map();
  /** Items that are committed and have no final text yet. @type {Set<string>} */
  #unfinished = new Set();
  /** The error that comes before the server closes the session. @type {{code?: string | null, message?: string}} */
  #error = {};

  /**
   * Create a session that is opened with the first audio.
   *
   * @param {object} options
   * @param {() => Promise<Connection>} options.connect
   * @param {() => Promise<string>} options.refusal Resolves to the sentence that says why a session did not begin.
   * @param {object} options.config
   * @param {(id: string, text: string, isFinal: boolean) => void} options.onText Called with the text of an item so far.
   * @param {() => void} options.onLeftOut Called once, if audio is left out because the connection is too slow.
   * @param {(reason: string) => void} options.onEnd Called once, with a sentence, or "" if that was intended.
   */
  constructor({ connect, refusal, config, ...listeners }) {
    this.#connect = connect;
    this.#refusal = refusal;
    this.#config = config;
    this.#listeners = listeners;
  }

  /**
   * Send audio, unless the connection is too slow for it.
   *
   * @param {string} audio s16 at 24 kHz, in base64.
   */
  append(audio) {
    if (this.#state === "ended" || this.#isFinishing) return;
    if (this.#state === "closed") this.#open();
    if (this.#backlog < MOST_WAITING) this.#post({ type: "input_audio_buffer.append", audio });
    else if (!this.#hasLeftOut) {
      this.#hasLeftOut = true;
      this.#listeners.onLeftOut();
    }
  }

  /** End the utterance, if there is one, so that its text becomes final. */
  commit() {
    if (this.#isRunning) this.#post({ type: "input_audio_buffer.commit", event_id: "commit" });
  }

  /** End the utterance, and the session once all texts are final. */
  finish() {
    this.commit();
    this.#isFinishing = true;
    if (this.#isRunning) this.#update(); // its answer comes after what the commit causes
    else this.end();
  }

  get #isRunning() {
    return this.#state === "opening" || this.#state === "open";
  }

  /** Characters that wait to be sent. */
  get #backlog() {
    return this.#waiting.reduce((sum, text) => sum + text.length, this.#connection?.bufferedAmount ?? 0);
  }

  async #open() {
    this.#state = "opening";
    this.#update();
    try {
      const connection = await this.#connect();
      connection.addEventListener("message", ({ data }) => this.#receive(JSON.parse(data)));
      connection.addEventListener("close", () => this.#closed());
      this.#connection = connection;
      if (this.#state !== "opening") connection.close(); // it has ended meanwhile
    } catch (error) {
      this.end(error instanceof ApiError ? sentence(error) : "This browser can't open a WebSocket.");
    }
  }

  async #closed() {
    const hasBegun = this.#state === "open";
    const { code, message } = this.#error;
    if (hasBegun && CONTINUED.has(code ?? "") && !this.#isFinishing) return this.#reset();
    if (!hasBegun && this.#isRunning) return this.end(await this.#refusal());
    this.end(this.#isFinishing ? "" : (SENTENCES[code ?? ""] ?? message ?? "The connection was lost."));
  }

  /** Be ready for another session. */
  #reset() {
    this.#state = "closed";
    this.#connection = null;
    this.#updates = 0;
    this.#leaveTexts();
    this.#error = {};
  }

  /** Leave texts as they are that no event will finish. */
  #leaveTexts() {
    for (const [id, text] of [...this.#texts]) this.#set(id, text, true);
    this.#unfinished.clear();
  }

  /**
   * End the session now, for a reason of the page.
   *
   * @param {string} reason
   */
  end(reason = "") {
    if (this.#state === "ended") return;
    this.#state = "ended";
    this.#waiting = [];
    this.#connection?.close();
    this.#leaveTexts();
    this.#listeners.onEnd(reason);
  }

  #update() {
    this.#updates += 1;
    this.#post({ type: "session.update", event_id: "update", session: this.#config });
  }

  /** @param {object} message */
  #post(message) {
    const text = JSON.stringify(message);
    if (this.#state === "open") this.#connection?.send(text);
    else this.#waiting.push(text);
  }

  #begin() {
    this.#state = "open";
    for (const text of this.#waiting.splice(0)) this.#connection?.send(text);
  }

  /** @param {any} event */
  #receive({ type, item_id: id, delta, transcript, error }) {
    if (!this.#isRunning) return;
    const shown = this.#texts.get(id) ?? "";
    if (type === "session.created") this.#begin();
    else if (type === "session.updated") this.#updates -= 1;
    else if (type === "input_audio_buffer.committed") this.#unfinished.add(id);
    else if (type === `${TRANSCRIPTION}.delta`) this.#set(id, shown + delta, false);
    else if (type === `${TRANSCRIPTION}.completed`) this.#set(id, transcript, true);
    else if (type === `${TRANSCRIPTION}.failed`) this.#set(id, shown, true);
    else if (type === "error") this.#failed(error);
    if (this.#isFinishing && this.#state === "open" && !this.#updates && !this.#unfinished.size) this.end();
  }

  /**
   * @param {string} id
   * @param {string} text
   * @param {boolean} isFinal
   */
  #set(id, text, isFinal) {
    if (isFinal) {
      this.#unfinished.delete(id);
      this.#texts.delete(id);
    } else this.#texts.set(id, text);
    this.#listeners.onText(id, text.trim(), isFinal);
  }

  /**
   * End a session whose configuration is rejected, because it would transcribe in another way. Of an error that answers nothing,
   * keep the reason for the close that follows. What remains answers a commit of too little audio.
   *
   * @param {{code?: string | null, message: string, event_id?: string | null}} error
   */
  #failed(error) {
    if (error.event_id === "update") this.end(error.message);
    else if (!error.event_id) this.#error = error;
  }
}
