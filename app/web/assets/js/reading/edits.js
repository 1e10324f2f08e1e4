/**
 * The corrections of one transcript: what the user typed, what the server has, and the way from one to the other.
 *
 * The server keeps a complete set of corrected segments and named speakers, with an ETag. A change is saved after a pause in typing, retried
 * while the server can't be reached, and merged when someone else saved in between. No DOM here.
 *
 * @typedef {import("./layout.js").Segment} Segment
 * @typedef {import("./layout.js").Word} Word
 * @typedef {Map<number | string, string>} Corrections Texts by the id of their segment, a number, and names of speakers by
 *   their label, a string.
 * @typedef {{edited_at?: number, segments: Segment[], words?: Word[], speakers?: Record<string, string>}} SavedTranscript
 * @typedef {"saved" | "unsaved" | "saving" | "retrying" | "refused" | "conflict"} State
 * @typedef {{status: number, message: string, retryAfter?: number | null}} Failure
 * @typedef {{load: () => Promise<{etag: string, transcript: SavedTranscript}>,
 *   save: (corrections: Corrections, etag: string) => Promise<{etag: string, transcript: SavedTranscript}>}} Server
 *   Both reject with a {@link Failure}.
 */

const PAUSE_IN_TYPING = 800; // milliseconds
const LONGEST_WAIT = 30_000; // milliseconds between attempts

/**
 * Merge two sets of corrections that started from the same one.
 *
 * @param {Corrections} base
 * @param {Corrections} theirs
 * @param {Corrections} mine
 * @returns {{merged: Corrections, conflicts: (number | string)[]}} Where both changed the same differently, mine is in the result.
 */
export function merge(base, theirs, mine) {
  const merged = new Map(theirs), conflicts = [];
  for (const id of new Set([...base.keys(), ...mine.keys()])) {
    const own = mine.get(id), before = base.get(id), other = theirs.get(id);
    if (own === before) continue;
    if (other !== before && other !== own) conflicts.push(id);
    if (own === undefined) merged.delete(id);
    else merged.set(id, own);
  }
  return { merged, conflicts };
}

/** @param {Corrections} corrections */
const namesIn = (corrections) => new Map(/** @type {[string, string][]} */ ([...corrections].filter(([id]) => typeof id === "string")));

/** @param {Corrections} a @param {Corrections} b */
const same = (a, b) => a.size === b.size && [...a].every(([id, text]) => b.get(id) === text);

/** @param {SavedTranscript} transcript @returns {Corrections} */
const correctionsOf = ({ segments, speakers }) =>
  new Map(/** @type {[number | string, string][]} */ ([...segments.map(({ id, text }) => [id, text]), ...Object.entries(speakers ?? {})]));

export class Edits {
  /** @type {State} */ state = "saved";
  /** The reason why the server refused a change. */
  message = "";
  /** Segments and speakers that someone else also changed. @type {(number | string)[]} */ conflicts = [];
  /** @type {Corrections} */ theirs = new Map();
  /** @type {Corrections} */ #saved = new Map();
  /** @type {Corrections} */ #current = new Map();
  /** Texts before the first correction, to recognise that one was taken back. @type {Corrections} */ #originals = new Map();
  /** @type {Corrections[]} */ #undo = [];
  /** @type {Corrections[]} */ #redo = [];
  #etag = "";
  #isTyping = false;
  #isBusy = false;
  /** If someone else changed segments that the page doesn't show yet. */
  #isOutdated = false;
  #failures = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;

  onState = () => {};
  /**
   * Called with the corrected segments. They are not all that changed if a segment has its original text again, a speaker
   * another name, or if someone else changed one: then the whole transcript must be loaded.
   * @type {(transcript: SavedTranscript, isAll: boolean) => void}
   */
  onSaved = () => {};

  /** @param {Server} server */
  constructor(server) {
    this.server = server;
  }

  get isClean() {
    return same(this.#current, this.#saved) && !this.#isBusy;
  }
  get canUndo() {
    return this.#undo.length > 0;
  }
  get canRedo() {
    return this.#redo.length > 0;
  }
  get hasCorrections() {
    return this.#current.size > 0;
  }

  /** Load the corrections made so far, once. Wait for it before the first change. */
  async load() {
    if (!this.#etag) await this.refresh();
  }

  /** Load the corrections again, which someone else may have changed, unless some are not saved yet. */
  async refresh() {
    if (!this.isClean) return;
    const { etag, transcript } = await this.server.load();
    if (etag === this.#etag || !this.isClean) return;
    this.#etag = etag;
    this.#saved = correctionsOf(transcript);
    this.#current = new Map(this.#saved);
    this.#undo = [];
    this.#redo = [];
    this.onState();
  }

  /** Return the texts and names that the server doesn't have yet, also texts that are as they were before all corrections.
   * @returns {Corrections} */
  unsaved() {
    const texts = new Map([...this.#current].filter(([id, text]) => this.#saved.get(id) !== text));
    for (const id of this.#saved.keys()) {
      const original = this.#current.has(id) ? undefined : this.#originals.get(id);
      if (original !== undefined) texts.set(id, original);
    }
    return texts;
  }

  /** The names of speakers, by their labels.
   * @returns {Map<string, string>} */
  get names() {
    return namesIn(this.#current);
  }

  /** Names that the server doesn't have yet, by the names or labels that it has.
   * @returns {Map<string, string>} */
  get newNames() {
    const saved = namesIn(this.#saved), names = this.names;
    const labels = [...new Set([...saved.keys(), ...names.keys()])];
    const changes = labels.map((label) => /** @type {[string, string]} */ ([saved.get(label) ?? label, names.get(label) ?? label]));
    return new Map(changes.filter(([before, name]) => before !== name));
  }

  /** Name speakers, all of them alike, or restore their labels with an empty name.
   * @param {Iterable<string>} labels @param {string} name */
  name(labels, name) {
    const renamed = new Map(this.#current);
    for (const label of labels) {
      if (name && name !== label) renamed.set(label, name);
      else renamed.delete(label);
    }
    if (same(renamed, this.#current)) return;
    this.#remember();
    this.#current = renamed;
    this.#isTyping = false;
    this.#changed(0);
  }

  /** Correct a segment. `before` is its text until now.
   * @param {number} id @param {string} text @param {string} before */
  set(id, text, before) {
    if (text === before) return;
    if (!this.#isTyping) this.#remember();
    this.#isTyping = true;
    if (!this.#current.has(id) && !this.#originals.has(id)) this.#originals.set(id, before);
    if (this.#originals.get(id) === text) this.#current.delete(id);
    else this.#current.set(id, text);
    this.#changed(PAUSE_IN_TYPING);
  }

  /** End a step of the history, and save now. */
  commit() {
    this.#isTyping = false;
    if (this.state === "unsaved") this.#schedule(0);
  }

  undo() {
    this.#step(this.#undo, this.#redo);
  }
  redo() {
    this.#step(this.#redo, this.#undo);
  }
  /** Take all corrections back; undo brings them again. */
  restoreOriginal() {
    this.#remember();
    this.#current = new Map();
    this.#changed(0);
  }
  /** Try again after a refusal, or earlier than planned. */
  retry() {
    this.#failures = 0;
    this.#schedule(0);
  }
  /** Settle a conflict. @param {"mine" | "theirs"} version */
  resolve(version) {
    for (const id of version === "theirs" ? this.conflicts : []) {
      const text = this.theirs.get(id);
      if (text === undefined) this.#current.delete(id);
      else this.#current.set(id, text);
    }
    this.conflicts = [];
    this.#schedule(0);
  }

  #remember() {
    this.#undo.push(new Map(this.#current));
    this.#redo = [];
  }

  /** @param {Corrections[]} from @param {Corrections[]} to */
  #step(from, to) {
    const corrections = from.pop();
    if (!corrections) return;
    to.push(this.#current);
    this.#current = corrections;
    this.#isTyping = false;
    this.#changed(0);
  }

  /** @param {number} delay Milliseconds. */
  #changed(delay) {
    if (this.state !== "conflict" && !this.#isBusy && this.state !== "retrying") this.#become("unsaved");
    if (this.state === "unsaved") this.#schedule(delay);
  }

  /** @param {State} state */
  #become(state, message = "") {
    this.state = state;
    this.message = message;
    this.onState();
  }

  /** @param {number} delay Milliseconds. */
  #schedule(delay) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#save(), delay);
  }

  async #save() {
    if (this.#isBusy || this.conflicts.length) return;
    if (this.isClean && !this.#isOutdated) return this.#become("saved");
    this.#isBusy = true;
    this.#isTyping = false;
    this.#become("saving");
    const sent = new Map(this.#current);
    try {
      const { etag, transcript } = await this.server.save(sent, this.#etag);
      const isAll = !this.#isOutdated && !this.newNames.size && [...this.#saved.keys()].every((id) => sent.has(id));
      this.#isOutdated = false;
      this.#etag = etag;
      this.#saved = sent;
      this.#failures = 0;
      this.#isBusy = false;
      if (same(this.#current, sent)) this.#become("saved");
      else this.#changed(PAUSE_IN_TYPING);
      this.onSaved(transcript, isAll);
    } catch (failure) {
      this.#isBusy = false;
      await this.#failed(/** @type {Failure} */ (failure));
    }
  }

  /** @param {Failure} failure @returns {Promise<void>} */
  async #failed(failure) {
    if (failure.status === 412) return this.#mergeTheirs();
    const passes = !failure.status || failure.status === 429 || failure.status >= 500;
    if (!passes) return this.#become("refused", failure.message);
    this.#become("retrying", failure.message);
    const wait = failure.retryAfter ? failure.retryAfter * 1000 : 1000 * 2 ** this.#failures++;
    this.#schedule(Math.min(wait, LONGEST_WAIT));
  }

  async #mergeTheirs() {
    try {
      const { etag, transcript } = await this.server.load();
      this.theirs = correctionsOf(transcript);
      const { merged, conflicts } = merge(this.#saved, this.theirs, this.#current);
      this.#etag = etag;
      this.#saved = this.theirs;
      this.#current = merged;
      this.#undo = [];
      this.#redo = [];
      this.conflicts = conflicts;
      this.#isOutdated = true;
    } catch (failure) {
      return this.#failed(/** @type {Failure} */ (failure));
    }
    if (this.conflicts.length) this.#become("conflict");
    else this.#schedule(0);
  }
}
