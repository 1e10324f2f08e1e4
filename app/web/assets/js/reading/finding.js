/** Finding one's way in the text: search with a count, and the words that are worth a second look. */
import { announce, h, icon, iconButton, replace } from "../dom.js";
import { isLetter } from "./layout.js";

/** A single letter occurs tens of thousands of times in ten hours; this many are highlighted. */
const MOST_HIGHLIGHTS = 3000;
const PAUSE_BEFORE_ANNOUNCEMENT = 700; // milliseconds

/**
 * @typedef {{paragraph: number, from: number, to: number, isName?: boolean}} Place Offsets in the text of a paragraph, or in
 *   the name of its speaker.
 * @typedef {import("./layout.js").IndexedWord} IndexedWord
 */

/**
 * Return where a text occurs, also in the names of speakers, regardless of case and accents.
 *
 * @param {{text: string, newSpeaker?: string}[]} paragraphs
 * @param {string} sought
 * @returns {Place[]}
 */
export function occurrences(paragraphs, sought) {
  const needle = folded({ text: sought.trim().replace(/\s+/gu, " ") }).text;
  if (!needle) return [];
  return paragraphs.flatMap((paragraph, number) => {
    const { text, offsets } = folded(paragraph);
    const { newSpeaker = "" } = paragraph, places = /** @type {Place[]} */ ([]);
    if (!isLetter(newSpeaker) && folded({ text: newSpeaker }).text.includes(needle))
      places.push({ paragraph: number, from: 0, to: newSpeaker.length, isName: true });
    for (let at = text.indexOf(needle); at >= 0; at = text.indexOf(needle, at + needle.length)) {
      const to = at + needle.length;
      places.push({ paragraph: number, from: offsets?.[at] ?? at, to: offsets?.[to] ?? to });
    }
    return places;
  });
}

/** A text without case and accents; `offsets` maps positions back, null if nothing moved.
 * @typedef {{source: string, text: string, offsets: number[] | null}} Folded */
const foldedTexts = /** @type {WeakMap<object, Folded>} */ (new WeakMap());
const foldedCharacters = /** @type {Map<string, string>} */ (new Map());

/** @param {{text: string}} paragraph @returns {Folded} */
function folded(paragraph) {
  const source = paragraph.text, known = foldedTexts.get(paragraph);
  if (known?.source === source) return known;
  const result = /^[\x20-\x7e]*$/.test(source) ? { source, text: source.toLowerCase(), offsets: null } : { source, ...foldedByCharacter(source) };
  foldedTexts.set(paragraph, result);
  return result;
}

/** @param {string} source */
function foldedByCharacter(source) {
  const offsets = [];
  let text = "", at = 0;
  for (const character of source) {
    let plain = foldedCharacters.get(character);
    if (plain === undefined) {
      plain = character.toLowerCase().normalize("NFD").replace(/\p{M}/gu, "");
      foldedCharacters.set(character, plain);
    }
    for (let i = 0; i < plain.length; i++) offsets.push(at);
    text += plain;
    at += character.length;
  }
  return { text, offsets: [...offsets, at] };
}

export class Finding {
  #places = /** @type {Place[]} */ ([]);
  #at = -1;
  #doubts = /** @type {IndexedWord[]} */ ([]);
  #doubt = -1;
  #isDoubtShown = false;
  #timer = /** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined);

  /**
   * @param {import("./transcript.js").Transcript} transcript
   * @param {{onFound: (word: IndexedWord) => void}} listeners Called with the word at the found place.
   */
  constructor(transcript, { onFound }) {
    this.transcript = transcript;
    this.onFound = onFound;
    this.input = h("input", { type: "search", placeholder: "Search in the text", "aria-label": "Search in the text", "aria-keyshortcuts": "/", oninput: () => this.#search(), onkeydown: this.#onKey });
    this.count = h("span.count");
    this.previous = iconButton("back", "Previous occurrence", { onclick: () => this.step(-1), hidden: true });
    this.next = iconButton("send", "Next occurrence", { onclick: () => this.step(1), hidden: true });
    this.doubtButton = h("button.chip", { type: "button", "aria-pressed": "false", "aria-keyshortcuts": "d", title: "Words of which the model is least sure (D: the next one)", onclick: () => this.#showDoubts(!this.#isDoubtShown) });
    this.element = h("div.finding", {}, h("div.search", {}, icon("search", 18), this.input, this.count, this.previous, this.next), this.doubtButton);
    this.refresh();
  }

  close() {
    clearTimeout(this.#timer);
  }

  /** Find everything again in another layout, at the same place if possible. */
  refresh() {
    this.#places = occurrences(this.transcript.layout.paragraphs, this.input.value);
    this.#at = Math.min(this.#at, this.#places.length - 1);
    this.#doubts = this.transcript.layout.words.doubtful();
    this.doubtButton.hidden = !this.#doubts.length;
    replace(this.doubtButton, icon("doubt", 18), `${this.#doubts.length} doubtful`);
    this.#highlight();
  }

  focus() {
    this.input.focus();
    this.input.select();
  }

  /** Go to another occurrence. @param {1 | -1} direction */
  step(direction) {
    const count = this.#places.length;
    if (!count) return;
    this.#at = (Math.max(this.#at, direction > 0 ? -1 : 0) + direction + count) % count;
    const place = /** @type {Place} */ (this.#places[this.#at]);
    this.#showCount();
    this.#reveal(this.transcript.range(place));
    const [word] = this.transcript.layout.words.fromOffset(place.paragraph, place.from + 1);
    if (word) this.onFound(word);
  }

  /** Go to another doubtful word, from a time on at first. @param {1 | -1} direction @param {number} seconds */
  stepDoubt(direction, seconds) {
    const count = this.#doubts.length;
    if (!count) return announce("No doubtful words.");
    this.#showDoubts(true);
    const last = this.#doubts[this.#doubt];
    const isThere = last && Math.abs(last.start - seconds) < 0.1;
    if (!isThere) this.#doubt = this.#doubts.filter((word) => word.start < seconds + 0.05).length - (direction > 0 ? 1 : 0);
    this.#doubt = (this.#doubt + direction + count) % count;
    const word = /** @type {IndexedWord} */ (this.#doubts[this.#doubt]);
    const text = this.transcript.layout.paragraphs[word.paragraph]?.text.slice(word.from, word.to);
    this.#reveal(this.transcript.range(word));
    this.onFound(word);
    announce(`Doubtful word ${this.#doubt + 1} of ${count}: ${text}`);
  }

  #search() {
    this.#at = -1;
    this.refresh();
    this.transcript.mark("found", []);
    if (this.#places.length) this.step(1);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.input.value.trim() && announce(this.count.textContent || ""), PAUSE_BEFORE_ANNOUNCEMENT);
  }

  #highlight() {
    const first = Math.max(0, this.#at - MOST_HIGHLIGHTS / 2);
    const places = this.#places.slice(first, first + MOST_HIGHLIGHTS);
    this.transcript.mark("match", places.map((place) => this.transcript.range(place)));
    this.transcript.mark("doubt", this.#isDoubtShown ? this.#doubts.map((word) => this.transcript.range(word)) : []);
    this.#showCount();
  }

  #showCount() {
    const { length } = this.#places;
    this.count.textContent = this.input.value.trim() ? (length ? `${this.#at + 1} of ${length}` : "Not found") : "";
    this.previous.hidden = this.next.hidden = !length;
  }

  /** @param {StaticRange | null} range */
  #reveal(range) {
    if (!range) return;
    this.transcript.mark("found", [range]);
    this.transcript.isFollowing = false;
    this.transcript.reveal(range, true);
  }

  /** @param {boolean} isShown */
  #showDoubts(isShown) {
    this.#isDoubtShown = isShown;
    this.doubtButton.setAttribute("aria-pressed", String(isShown));
    if (!isShown) this.transcript.mark("found", []);
    this.#highlight();
  }

  #onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter") this.step(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape" && this.input.value) {
      this.input.value = "";
      this.#search();
    } else return;
    event.preventDefault();
  };
}
