/** The live text under the controls of a recording: a preview, without which the recording goes on. */
import { h } from "../dom.js";
import { Resampler, base64, capture } from "./audio.js";
import { LiveSession, configuration, connect, refusal } from "./session.js";

/** How long the last text may take after the end of a recording. */
const FINISH_MS = 20_000;
/** When it is certain that no audio comes: Firefox has none without a device that plays it. */
const DEAF_MS = 15_000;
const DEAF = "This browser lets the page hear nothing while it records.";
const WITHOUT = "The recording goes on without live text.";
/** How far from its end a text may be scrolled and still follow what is added, in pixels. */
const END_PIXELS = 16;

export class LiveText {
  #element;
  #session;
  #resampler;
  #hasHeard = false;
  #isPaused = false;
  /** Paragraphs by item. @type {Map<string, HTMLElement>} */
  #paragraphs = new Map();

  /**
   * @param {object} options
   * @param {import("../main.js").Context} options.context
   * @param {[string, string][]} options.fields Form fields of the transcription.
   * @param {AudioNode} options.source
   * @param {HTMLElement} options.element A log, to which texts are added.
   */
  constructor({ context: { api, store }, fields, source, element }) {
    this.#element = element;
    this.#resampler = new Resampler(source.context.sampleRate);
    this.#session = new LiveSession({
      connect: () => connect(api),
      refusal: () => refusal(api, store.health?.status),
      config: configuration(fields),
      onText: (id, text, isFinal) => this.#show(id, text, isFinal),
      onLeftOut: () => this.#note("The connection is slow, so parts of the live text are missing. The recording is complete."),
      onEnd: (reason) => reason && this.#note(`${WITHOUT} ${reason}`),
    });
    capture(source, (samples) => this.#hear(samples)).catch(() => this.#session.end(DEAF));
    setTimeout(() => this.#hasHeard || this.#session.end(DEAF), DEAF_MS);
  }

  /** @param {Float32Array} samples */
  #hear(samples) {
    this.#hasHeard = true;
    if (!this.#isPaused) this.#session.append(base64(this.#resampler.push(samples)));
  }

  pause() {
    this.#isPaused = true;
    this.#session.commit();
  }

  resume() {
    this.#isPaused = false;
  }

  /** Show the text of what was said until now, then end. */
  finish() {
    this.#session.finish();
    setTimeout(() => this.#session.end(), FINISH_MS);
  }

  close() {
    this.#session.end();
  }

  /**
   * Show what was said between two pauses. Screen readers say it once, when it is final, because only then it is added to the log.
   *
   * @param {string} id
   * @param {string} text
   * @param {boolean} isFinal
   */
  #show(id, text, isFinal) {
    const shown = this.#paragraphs.get(id);
    if (!isFinal && shown) return this.#scrolled(() => (shown.textContent = text));
    const paragraph = h(isFinal ? "p.text" : "p.text.unfinished", { dir: "auto", "aria-live": isFinal ? null : "off" }, text);
    this.#paragraphs.set(id, paragraph);
    this.#scrolled(() => (shown ? shown.replaceWith(paragraph) : this.#element.append(paragraph)));
  }

  /** @param {string} text */
  #note(text) {
    this.#scrolled(() => this.#element.append(h("p.note", {}, text)));
  }

  /**
   * Change the text, and keep its end in view for those who were there.
   *
   * @param {() => void} change
   */
  #scrolled(change) {
    const element = this.#element;
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight <= END_PIXELS;
    change();
    if (isAtEnd) element.scrollTop = element.scrollHeight;
  }
}
