/**
 * Correcting the transcript in place: paragraphs that can be typed in, speakers that get names, and what became of the
 * changes.
 *
 * @typedef {import("./edits.js").SavedTranscript} SavedTranscript
 */
import { sentence } from "../api.js";
import { h, icon, iconButton, replace, toast } from "../dom.js";
import { notice } from "./actions.js";
import { Edits } from "./edits.js";
import { changeText, isLetter, speakerTitle, textOfSegment } from "./layout.js";

/** Corrections that are still being saved although their view was closed, by job. @type {Map<string, Edits>} */
const unfinished = new Map();

addEventListener("beforeunload", (event) => {
  if ([...unfinished.values()].some((edits) => !edits.isClean)) event.preventDefault();
});

/**
 * Return the corrections of a job as the API stores them.
 *
 * @param {import("../api.js").Api} api
 * @param {string} job_id
 * @returns {import("./edits.js").Server}
 */
function serverOf(api, job_id) {
  const path = `v1/jobs/${job_id}/transcript`;
  const read = async (/** @type {Response} */ response) => ({ etag: response.headers.get("ETag") ?? "", transcript: await response.json() });
  return {
    load: async () => read(await api.request(path)),
    save: async (corrections, etag) => {
      const segments = [...corrections].filter(([id]) => typeof id === "number").map(([id, text]) => ({ id, text }));
      const speakers = Object.fromEntries([...corrections].filter(([id]) => typeof id === "string"));
      return read(await api.request(path, { method: "PUT", json: { segments, speakers }, headers: { "If-Match": etag } }));
    },
  };
}

export class Editing {
  isOn = false;
  /** If the paragraph with the focus was changed: it must not be laid out again before it is left. */
  isTyping = false;
  #edits;
  #hasSaved = false;
  #shownProblem = "";

  /**
   * @param {{api: import("../api.js").Api, job_id: string, transcript: import("./transcript.js").Transcript,
   *   button: HTMLButtonElement, notice: HTMLElement,
   *   onSaved: (transcript: SavedTranscript, isAll: boolean) => void, onChanged: () => void, onPlay: () => void}} parts
   *   `button` starts and stops it, and `notice` shows what went wrong. `onChanged` is called when a paragraph was left or a
   *   speaker named, `onPlay` for the shortcut that works while typing.
   */
  constructor({ api, job_id, transcript, button, notice, onSaved, onChanged, onPlay }) {
    this.api = api;
    this.transcript = transcript;
    this.onChanged = onChanged;
    this.onPlay = onPlay;
    this.#edits = unfinished.get(job_id) ?? new Edits(serverOf(api, job_id));
    this.#edits.onState = () => this.#showState();
    this.#edits.onSaved = onSaved;
    unfinished.set(job_id, this.#edits);
    this.job_id = job_id;
    this.button = button;
    this.notice = notice;
    this.undo = iconButton("undo", "Undo the last correction", { onclick: () => this.#edits.undo() });
    this.redo = iconButton("undo", "Redo the correction", { class: "icon-button mirrored", onclick: () => this.#edits.redo() });
    this.state = h("span.saving");
    button.before(this.state, this.undo, this.redo);
    for (const [type, listener] of Object.entries({
      input: this.#onInput, focusout: this.#onFocusOut, keydown: this.#onKey, beforeinput: this.#onBeforeInput, paste: this.#onPaste,
    }))
      transcript.element.addEventListener(type, /** @type {EventListener} */ (listener));
    this.#showState();
  }

  /** Save at once what is not saved yet; this goes on after the view is closed. */
  close() {
    this.#leave(document.activeElement);
    const forget = () => this.#edits.isClean && unfinished.delete(this.job_id);
    this.#edits.onState = forget;
    this.#edits.onSaved = () => {};
    forget();
  }

  get isClean() {
    return this.#edits.isClean;
  }

  /** Texts that the server doesn't have yet, by segment. */
  get unsaved() {
    return this.#edits.unsaved();
  }

  /** Names of speakers that the server doesn't have yet, by those that it has. */
  get newNames() {
    return this.#edits.newNames;
  }

  /** Name speakers alike, or restore their letters with an empty name.
   * @param {string[]} labels @param {string} name */
  name(labels, name) {
    this.#edits.name(labels, name);
    this.onChanged();
  }

  /** Return the labels of all speakers that are shown as one. If there are none, say why.
   * @param {string} speaker The label or the name that they share. */
  async labelsOf(speaker) {
    try {
      await this.#edits.refresh();
      const labels = await this.#labelsOf(speaker);
      if (!labels.length) toast("Someone else has just renamed this speaker.");
      return labels;
    } catch (error) {
      toast(sentence(error), { isError: true });
      return [];
    }
  }

  /** @param {string} speaker */
  async #labelsOf(speaker) {
    const { names } = this.#edits;
    const named = [...names.keys()].filter((label) => names.get(label) === speaker);
    if (names.has(speaker)) return named;
    if (!names.size || (!named.length && isLetter(speaker))) return [speaker];
    // The name of one may be the label of another.
    const { segments } = await this.api.json(`v1/jobs/${this.job_id}/result?response_format=diarized_json&version=original`);
    const isLabel = segments.some((/** @type {{speaker: string}} */ segment) => segment.speaker === speaker);
    return isLabel ? [...named, speaker] : named;
  }

  /** Start or stop correcting. @param {number} [paragraph] The one to start with. */
  async toggle(paragraph = 0) {
    if (this.isOn) {
      this.#leave(document.activeElement);
      this.isOn = false;
    } else {
      if (!(await this.#isLoaded())) return;
      this.isOn = true;
    }
    this.makeEditable();
    this.#showState();
    if (this.isOn) this.transcript.textElement(paragraph)?.focus();
  }

  async restoreOriginal() {
    if (await this.#isLoaded()) this.#edits.restoreOriginal();
  }

  /** Make paragraphs editable, or plain text again. Call it after each layout. */
  makeEditable() {
    this.transcript.element.classList.toggle("is-editable", this.isOn);
    this.transcript.layout.paragraphs.forEach((_, number) => {
      const text = this.transcript.textElement(number);
      if (text && text.isContentEditable !== this.isOn) setEditable(text, this.isOn);
    });
  }

  async #isLoaded() {
    try {
      await this.#edits.load();
      return true;
    } catch (error) {
      toast(sentence(error), { isError: true });
      return false;
    }
  }

  #onInput = (/** @type {Event} */ event) => {
    const paragraph = this.transcript.layout.paragraphs[this.transcript.numberOf(event.target)];
    const text = event.target instanceof HTMLElement ? oneLine(event.target.textContent ?? "") : "";
    if (paragraph) this.#change(paragraph, text);
  };

  /** @param {import("./layout.js").Paragraph} paragraph @param {string} text */
  #change(paragraph, text) {
    const { paragraphs } = this.transcript.layout;
    const before = new Map(paragraph.pieces.map(({ segment }) => [segment.id, textOfSegment(paragraphs, segment)]));
    if (!this.isTyping) this.transcript.unmark(paragraph);
    this.isTyping = true;
    for (const segment of changeText(paragraph, text)) {
      this.#edits.set(segment.id, textOfSegment(paragraphs, segment), before.get(segment.id) ?? "");
    }
  }

  #onFocusOut = (/** @type {FocusEvent} */ event) => this.#leave(event.target);

  /** @param {EventTarget | null} target */
  #leave(target) {
    if (!(target instanceof HTMLElement) || !target.isContentEditable) return;
    const paragraph = this.transcript.layout.paragraphs[this.transcript.numberOf(target)];
    if (paragraph && this.isTyping) this.#change(paragraph, paragraph.text.trim());
    this.isTyping = false;
    this.#edits.commit();
    this.onChanged();
  }

  #onKey = (/** @type {KeyboardEvent} */ event) => {
    const { target, key } = event;
    if (!(target instanceof HTMLElement) || !target.isContentEditable || event.isComposing) return;
    if (key === "Escape") {
      this.toggle();
      this.transcript.element.focus({ preventScroll: true }); // where Space plays
    }
    else if (key === "Enter" && (event.ctrlKey || event.metaKey)) this.onPlay();
    else if (key === "Enter") this.transcript.textElement(this.transcript.numberOf(target) + (event.shiftKey ? -1 : 1))?.focus();
    else return;
    event.preventDefault();
  };

  /** A paragraph is one line of plain text, also in browsers without "plaintext-only". */
  #onBeforeInput = (/** @type {InputEvent} */ event) => {
    if (/^(insertParagraph|insertLineBreak|insertFromDrop|format)/.test(event.inputType)) event.preventDefault();
  };

  #onPaste = (/** @type {ClipboardEvent} */ event) => {
    if (!(event.target instanceof Element) || !event.target.closest("[contenteditable]")) return;
    event.preventDefault();
    const text = event.clipboardData?.getData("text/plain") ?? "";
    document.execCommand("insertText", false, oneLine(text)); // the only way that the browser can undo
  };

  #showState() {
    const { state } = this.#edits;
    replace(this.button, icon(this.isOn ? "check" : "edit", 18), this.isOn ? "Finish" : "Edit");
    this.undo.hidden = this.redo.hidden = !this.isOn && !this.#edits.canUndo && !this.#edits.canRedo;
    this.undo.disabled = !this.#edits.canUndo;
    this.redo.disabled = !this.#edits.canRedo;
    this.#hasSaved ||= state === "saving";
    const phrase = { saved: this.#hasSaved ? "Saved" : "", unsaved: "Saving…", saving: "Saving…" }[String(state)] ?? "Not saved";
    this.state.textContent = this.isOn || state !== "saved" ? phrase : "";
    this.#showNotice();
  }

  /** Say what went wrong, once. */
  #showNotice() {
    const { state, message, conflicts } = this.#edits;
    const problem = `${state} ${message} ${conflicts}`;
    const isProblem = ["retrying", "refused", "conflict"].includes(state);
    if (problem === this.#shownProblem || state === "saving") return;
    this.#shownProblem = problem;
    if (!isProblem) replace(this.notice);
    else if (state === "conflict") replace(this.notice, this.#conflictNotice());
    else {
      const [title, action] = state === "refused" ? ["The correction was not saved", "Try again"] : ["Not saved yet, trying again", "Try now"];
      const retry = h("button.button", { type: "button", onclick: () => this.#edits.retry() }, action);
      replace(this.notice, notice("warning", title, `${message} Your correction stays here.`, retry));
    }
  }

  #conflictNotice() {
    const { conflicts, theirs } = this.#edits;
    const texts = conflicts.map((id) => {
      if (typeof id === "string") return h("li", {}, `${speakerTitle(id)}: ${theirs.get(id) ?? "(no name)"}`);
      return h("li", {}, theirs.get(id) === undefined ? "(the original text)" : theirs.get(id)?.trim() || "(nothing)");
    });
    const choose = (/** @type {"mine" | "theirs"} */ version) => () => this.#edits.resolve(version);
    const title = conflicts.every((id) => typeof id === "string") ? "Someone else named the same speaker" : "Someone else corrected the same text";
    return notice("warning", title, "Yours is still on this page, but not saved. Theirs:", h("ul", {}, texts),
      h("button.button.primary", { type: "button", onclick: choose("mine") }, "Keep mine"),
      h("button.button", { type: "button", onclick: choose("theirs") }, "Use theirs"));
  }
}

/** @param {HTMLElement} text @param {boolean} isOn */
function setEditable(text, isOn) {
  if (!isOn) {
    for (const name of ["contenteditable", "role", "aria-label", "spellcheck"]) text.removeAttribute(name);
    return;
  }
  const time = text.closest(".paragraph")?.querySelector(".stamp")?.textContent;
  text.setAttribute("role", "textbox");
  text.setAttribute("aria-label", `Text from ${time}`);
  text.setAttribute("spellcheck", "true");
  try {
    text.contentEditable = "plaintext-only";
  } catch {
    text.contentEditable = "true";
  }
}

/** @param {string} text */
const oneLine = (text) => text.replace(/[\s\u00a0]+/gu, " ");
