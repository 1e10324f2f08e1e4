/**
 * The transcript on the page: paragraphs of plain text, with highlights laid over them.
 *
 * A word is no element. Highlights are ranges (CSS Custom Highlight API) and paragraphs that nobody sees are not laid
 * out, so ten hours stay fast, the browser's own search works, and what is copied is text. A browser without
 * `Highlight` shows the paragraph that plays, but not the word.
 *
 * @typedef {import("./layout.js").Layout} Layout
 * @typedef {import("./layout.js").Paragraph} Paragraph
 * @typedef {{section: HTMLElement, stamp: HTMLElement, speaker: HTMLButtonElement | null, text: HTMLElement}} Shown
 * @typedef {"spoken" | "match" | "found" | "doubt"} Mark
 */
import { h, setText, styled } from "../dom.js";
import { clock } from "../format.js";
import { VOICES, isLetter, layOut, speakerTitle } from "./layout.js";

/** Later ones are painted above earlier ones. @type {Mark[]} */
const MARKS = ["doubt", "match", "spoken", "found"];
const CAN_HIGHLIGHT = typeof Highlight === "function" && "highlights" in CSS;
/** What the arrow keys move between: buttons of one kind. */
const BUTTONS = [".stamp", ".speaker"];

export class Transcript {
  /** @type {Layout} */ layout = layOut([], []);
  canSeek = false;
  /** If speakers can get names: the transcript is finished. */
  canName = false;
  isFollowing = true;
  #shown = /** @type {Map<string, Shown>} */ (new Map());
  #marks = /** @type {Map<Mark, Highlight>} */ (new Map());
  #word = /** @type {import("./layout.js").IndexedWord | null} */ (null);
  #current = /** @type {HTMLElement | null} */ (null);

  /**
   * @param {HTMLElement} scroller What the transcript scrolls in.
   * @param {{onSeek: (seconds: number, plays: boolean) => void, onSpeaker: (button: HTMLButtonElement, speaker: string) => void}}
   *   listeners `plays` is true for an order to play from there. `onSpeaker` is called when a speaker was chosen.
   */
  constructor(scroller, { onSeek, onSpeaker }) {
    this.scroller = scroller;
    this.onSeek = onSeek;
    this.onSpeaker = onSpeaker;
    this.element = h("div.transcript", { tabindex: "-1", onclick: this.#onClick, ondblclick: this.#onClick, onkeydown: this.#onKey });
    for (const [priority, name] of CAN_HIGHLIGHT ? MARKS.entries() : []) {
      const highlight = new Highlight();
      highlight.priority = priority;
      this.#marks.set(name, highlight);
      CSS.highlights.set(name, highlight);
    }
  }

  close() {
    for (const name of this.#marks.keys()) CSS.highlights.delete(name);
  }

  /** Show another layout. Paragraphs that stay keep their elements, and with them the focus and the place on the screen.
   * @param {Layout} layout */
  show(layout) {
    this.layout = layout;
    const before = this.#shown;
    this.#shown = new Map();
    let next = this.element.firstElementChild;
    layout.paragraphs.forEach((paragraph, number) => {
      const shown = before.get(paragraph.key) ?? newParagraph();
      before.delete(paragraph.key);
      this.#shown.set(paragraph.key, shown);
      fill(shown, paragraph, number, this.canName);
      if (shown.section === next) next = next.nextElementSibling;
      else this.element.insertBefore(shown.section, next);
    });
    for (const { section } of before.values()) section.remove();
    this.#word = null;
    this.#keepOneTabStop();
  }

  /** Return the element with a paragraph's text.
   * @param {number} number */
  textElement(number) {
    const paragraph = this.layout.paragraphs[number];
    return paragraph ? this.#shown.get(paragraph.key)?.text ?? null : null;
  }

  /** Return the number of the paragraph that an element belongs to, or -1.
   * @param {EventTarget | null} target */
  numberOf(target) {
    const section = target instanceof Element ? target.closest(".paragraph") : null;
    return section ? Number(section.getAttribute("data-number")) : -1;
  }

  /** Mark the word that is spoken, and keep it in view while following.
   * @param {number} seconds */
  speak(seconds) {
    const word = this.layout.words.atTime(seconds);
    if (word === this.#word) return;
    this.#word = word;
    const range = word && this.range(word);
    this.mark("spoken", this.canSeek ? [range] : []);
    this.#setCurrent(word && this.textElement(word.paragraph));
    if (range && this.isFollowing && this.canSeek) this.reveal(range);
  }

  /** @param {HTMLElement | null} text */
  #setCurrent(text) {
    const section = text?.closest(".paragraph") ?? null;
    if (section === this.#current) return;
    this.#current?.removeAttribute("aria-current");
    section?.setAttribute("aria-current", "true");
    this.#current = /** @type {HTMLElement | null} */ (section);
    if (!this.element.contains(document.activeElement)) this.#keepOneTabStop();
  }

  /** Thousands of times are one stop of the Tab key, and so are speakers; the arrow keys move between them. */
  #keepOneTabStop(section = /** @type {Element | null} */ (this.#current)) {
    for (const kind of BUTTONS) {
      const button = section?.querySelector(kind) ?? this.element.querySelector(kind);
      this.element.querySelector(`${kind}[tabindex="0"]`)?.setAttribute("tabindex", "-1");
      button?.setAttribute("tabindex", "0");
    }
  }

  /** Return the range of a place in the text or in the name of a speaker, or null if its paragraph is empty.
   * @param {import("./finding.js").Place} place */
  range({ paragraph, from, to, isName }) {
    const text = this.textElement(paragraph), node = (isName ? text?.previousElementSibling?.lastChild : text)?.firstChild;
    if (!(node instanceof Text)) return null;
    const limit = /** @param {number} offset */ (offset) => Math.min(offset, node.length);
    return new StaticRange({ startContainer: node, startOffset: limit(from), endContainer: node, endOffset: limit(to) });
  }

  /** Highlight ranges, in place of those highlighted before.
   * @param {Mark} name @param {(StaticRange | null)[]} ranges */
  mark(name, ranges) {
    const highlight = this.#marks.get(name);
    if (!highlight) return;
    highlight.clear();
    for (const range of ranges) if (range) highlight.add(range);
  }

  /** Remove all highlights from a paragraph: its text is about to change.
   * @param {Paragraph} paragraph */
  unmark({ key }) {
    const text = this.#shown.get(key)?.text ?? null;
    for (const highlight of this.#marks.values())
      for (const range of highlight) if (text?.contains(range.startContainer)) highlight.delete(range);
  }

  /** Scroll a range into view; with `isFar`, also if it can be seen already.
   * @param {StaticRange} range */
  reveal(range, isFar = false) {
    const frame = this.scroller.getBoundingClientRect();
    const { top } = boxesOf(range)[0] ?? frame;
    const place = (top - frame.top) / frame.height;
    if (!isFar && place > 0.15 && place < 0.65) return;
    const isNear = Math.abs(place) < 2 && !matchMedia("(prefers-reduced-motion: reduce)").matches;
    const distance = top - frame.top - frame.height * 0.32;
    this.scroller.scrollBy({ top: distance, behavior: isNear ? "smooth" : "instant" });
  }

  #onClick = (/** @type {MouseEvent} */ event) => {
    const number = this.numberOf(event.target);
    const paragraph = this.layout.paragraphs[number];
    const speaker = event.target instanceof Element && event.target.closest("button.speaker");
    if (paragraph && speaker instanceof HTMLButtonElement) return void (event.type === "click" && this.onSpeaker(speaker, paragraph.speaker));
    if (!paragraph || !this.canSeek) return;
    if (/** @type {Element} */ (event.target).closest(".stamp")) return this.onSeek(paragraph.start, true);
    const isDouble = event.type === "dblclick"; // its first click has selected the word
    if (/** @type {Element} */ (event.target).closest("[contenteditable]") || (!isDouble && getSelection()?.type === "Range")) return;
    const word = this.#wordAt(number, event);
    if (word) this.onSeek(word.start, isDouble);
  };

  /** Return the word under the pointer. Beside the text there is none.
   * @param {number} number @param {{clientX: number, clientY: number}} point */
  #wordAt(number, { clientX, clientY }) {
    const offset = caretOffset(clientX, clientY);
    const near = offset === null ? [] : this.layout.words.fromOffset(number, offset, 2);
    return near.find((word) => {
      const range = this.range(word);
      return range && boxesOf(range).some(({ left, right, top, bottom }) =>
        clientX >= left - 3 && clientX <= right + 3 && clientY >= top && clientY <= bottom);
    });
  }

  #onKey = (/** @type {KeyboardEvent} */ event) => {
    const { target } = event, step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const kind = target instanceof Element && BUTTONS.find((selector) => target.closest(selector));
    if (!kind || !step) return;
    event.preventDefault();
    const buttons = /** @type {HTMLElement[]} */ ([...this.element.querySelectorAll(kind)]);
    const next = buttons[buttons.findIndex((button) => button.contains(/** @type {Node} */ (target))) + step];
    if (!next) return;
    this.#keepOneTabStop(next.closest(".paragraph"));
    next.focus();
  };
}

/** @returns {Shown} */
function newParagraph() {
  const stamp = h("button.stamp", { type: "button", tabindex: "-1" });
  const text = h("p", { dir: "auto" });
  return { section: h("section.paragraph", {}, stamp, h("div.said", {}, text)), stamp, speaker: null, text };
}

/** @param {Shown} shown @param {Paragraph} paragraph @param {number} number @param {boolean} canName */
function fill(shown, { start, text, voice, newSpeaker }, number, canName) {
  shown.section.setAttribute("data-number", String(number));
  const time = clock(start);
  if (shown.stamp.textContent !== time) {
    shown.stamp.textContent = time;
    shown.stamp.setAttribute("aria-label", `Play from ${time}`);
  }
  if (shown.text.textContent !== text || shown.text.childNodes.length > 1) shown.text.textContent = text;
  if (!newSpeaker) return shown.speaker?.remove();
  const button = (shown.speaker ??= h("button.speaker", { type: "button", tabindex: "-1", "aria-haspopup": "dialog" }, h("i", { "aria-hidden": "true" }), h("span", { dir: "auto" })));
  if (!button.parentNode) shown.text.before(button);
  styled(button, { "--voice": `var(--voice-${voice % VOICES})` });
  button.disabled = !canName;
  button.title = canName ? "Name this speaker" : "";
  setText(/** @type {Element} */ (button.firstChild), isLetter(newSpeaker) ? newSpeaker : [...newSpeaker][0] ?? "");
  setText(/** @type {Element} */ (button.lastChild), speakerTitle(newSpeaker));
}

/** Return the boxes of a static range, one per line.
 * @param {StaticRange} range */
function boxesOf({ startContainer, startOffset, endContainer, endOffset }) {
  const range = document.createRange();
  range.setStart(startContainer, startOffset);
  range.setEnd(endContainer, endOffset);
  return [...range.getClientRects()];
}

/** Return the offset in the text under a point, or null if there is no text.
 * @param {number} x @param {number} y */
function caretOffset(x, y) {
  if (document.caretPositionFromPoint) return document.caretPositionFromPoint(x, y)?.offset ?? null;
  return document.caretRangeFromPoint?.(x, y)?.startOffset ?? null; // Safari
}
