/** The view of one job: its text while it grows, the finished transcript, the recording, corrections and downloads. */
import { ApiError, sentence } from "../api.js";
import { h, icon, redraw, replace } from "../dom.js";
import { isActive, jobTitle } from "../format.js";
import { Actions, Progress, factsOf, notice, outcomeOf } from "./actions.js";
import { Finding } from "./finding.js";
import { layOut, plainText } from "./layout.js";
import { Player } from "./player.js";
import { Transcript } from "./transcript.js";

const PROGRESS_INTERVAL = 500; // milliseconds
const WAVEFORM_POINTS = 2000;
const OUTDATED = -1;
const SCROLLING_KEYS = new Set(["ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End"]);
/**
 * @typedef {import("./layout.js").Segment} Segment
 * @typedef {import("./layout.js").Word} Word
 * @typedef {import("../store.js").Job} Job
 * @typedef {{attempt: number, segments: Segment[], words: Word[]}} LiveText Of a running job, as far as it is known.
 * @typedef {{api: import("../api.js").Api, store: import("../store.js").Store, go: (hash: string) => void, job_id: string}} Context
 */

/** Jobs that were corrected in this tab: some corrections may still be on their way. */
const corrected = /** @type {Set<string>} */ (new Set());

/**
 * Open the view of a job.
 *
 * @param {Context} context
 * @returns {Promise<import("../main.js").View>}
 */
export async function openReading(context) {
  const { api, store, job_id } = context;
  if (!store.jobs.has(job_id)) {
    try {
      store.putJobs([await api.json(`v1/jobs/${job_id}`)]);
    } catch (error) {
      return missing(sentence(error));
    }
  }
  const reading = new Reading(context);
  if (corrected.has(job_id)) await reading.loadEditing();
  return reading;
}

/** @param {string} message @returns {import("../main.js").View} */
function missing(message) {
  const back = h("a.button", { href: "#/" }, "Back to the start");
  return { element: h("div.reading", {}, h("div.missing", {}, notice("warning", "", h("h1", {}, "This transcript can't be shown"), message, back))), close() {} };
}

/**
 * Return the text of a running job with what was transcribed after `known`, or `known` if that is nothing.
 *
 * A transcription begins again after a restart of the server, which is another attempt, and when it could not go on, as with
 * a full disk: then there are fewer segments than are known.
 *
 * @param {LiveText} known
 * @param {(start: number) => Promise<any>} fetchFrom The job's `/partial` from a segment on.
 * @returns {Promise<LiveText>}
 */
export async function continued(known, fetchFrom) {
  const start = known.segments.length;
  const { attempt, next, is_final: isFinal, segments, words = [] } = await fetchFrom(start);
  if (isFinal) return known; // with corrections, in the result
  if (start && (attempt !== known.attempt || next < start)) return continued({ attempt, segments: [], words: [] }, fetchFrom);
  if (!segments.length) return known;
  return { attempt, segments: [...known.segments, ...segments], words: [...known.words, ...words] };
}

class Reading {
  #control = new AbortController();
  #segments = /** @type {Segment[]} */ ([]);
  #words = /** @type {Word[]} */ ([]);
  #live = /** @type {LiveText} */ ({ attempt: 0, segments: [], words: [] });
  #editing = /** @type {import("./editing.js").Editing | null} */ (null);
  #editingLoaded = /** @type {Promise<import("./editing.js").Editing> | null} */ (null);
  #isLoading = false;
  /** The `edited_at` of the finished transcript that is shown; null before there is one. */
  #shownEdit = /** @type {number | null} */ (null);
  #player = /** @type {Player | null} */ (null);
  #hasAskedForWaveform = false;
  #foundAt = -1;
  #captionsUrl = "";
  #fileUrl = "";

  /** @param {Context} context */
  constructor({ api, store, go, job_id }) {
    this.api = api;
    this.store = store;
    this.go = go;
    this.job = /** @type {Job} */ (store.jobs.get(job_id));
    this.scroller = h("div.scroller");
    this.transcript = new Transcript(this.scroller, { onSeek: (seconds, plays) => this.#seek(seconds, plays), onSpeaker: (button, speaker) => this.#name(button, speaker) });
    this.finding = new Finding(this.transcript, { onFound: (word) => this.#onFound(word) });
    this.actions = new Actions({ api, store, go, plainText: () => plainText(this.transcript.layout.paragraphs), hasSpeakers: () => this.#hasSpeakers, restoreOriginal: async () => (await this.loadEditing()).restoreOriginal() });
    this.facts = h("p.about");
    this.progress = new Progress();
    this.editButton = h("button.chip", { type: "button", "aria-keyshortcuts": "e", title: "Correct the text (E)", onclick: () => this.#edit() }, icon("edit", 18), "Edit");
    this.problems = h("div", { role: "alert" });
    this.tools = h("div.reading-tools", { hidden: true }, this.finding.element, h("div.corrections", {}, this.editButton));
    this.strip = h("div.strip", {}, this.progress.element, this.tools, this.problems);
    this.notices = h("div.notices");
    this.screen = h("div.screen", { hidden: true });
    this.followButton = h("button.follow", { type: "button", hidden: true, onclick: () => this.#follow() }, icon("follow", 18), "Back to what is spoken");
    this.foot = h("div.foot");
    this.scroller.append(
      h("header.head", {}, h("a.icon-button.back", { href: "#/", "aria-label": "Back to the start" }, icon("back")), this.actions.titleLine, this.actions.element, this.facts),
      this.screen, this.strip, this.notices, this.transcript.element);
    this.element = h("div.reading", {}, this.scroller, this.followButton, this.foot);
    const { signal } = this.#control;
    for (const type of ["wheel", "touchmove"]) this.scroller.addEventListener(type, () => this.#unfollow(), { passive: true, signal });
    this.scroller.addEventListener("pointerdown", (event) => event.target === this.scroller && this.#unfollow(), { signal }); // its scroll bar
    for (const target of [window, matchMedia("(prefers-color-scheme: dark)")])
      for (const type of ["theme", "change", "storage"]) target.addEventListener(type, () => requestAnimationFrame(() => this.#player?.waveform.draw()), { signal });
    this.timer = setInterval(() => document.hidden || this.progress.update(this.job), PROGRESS_INTERVAL);
    store.onJob(job_id, (job) => (job ? this.#onJob(job) : this.#onGone()), signal);
    this.#onJob(this.job);
  }

  close() {
    this.#control.abort();
    clearInterval(this.timer);
    this.#editing?.close();
    this.finding.close();
    this.transcript.close();
    this.#player?.close();
    for (const url of [this.#captionsUrl, this.#fileUrl]) if (url) URL.revokeObjectURL(url);
  }

  /** @param {KeyboardEvent} event @returns {boolean} */
  onKey(event) {
    const player = this.#player;
    const shortcuts = /** @type {Record<string, (() => unknown) | null | undefined>} */ ({
      " ": player && (() => player.toggle()), k: player && (() => player.toggle()),
      ArrowLeft: player && (() => player.skip(-5)), ArrowRight: player && (() => player.skip(5)),
      j: player && (() => player.skip(-10)), l: player && (() => player.skip(10)),
      "<": player && (() => player.changeSpeed(-1)), ">": player && (() => player.changeSpeed(1)),
      f: player && (() => this.#follow()),
      "/": !this.tools.hidden && (() => this.finding.focus()),
      d: () => this.finding.stepDoubt(1, this.#position), D: () => this.finding.stepDoubt(-1, this.#position),
      e: !this.tools.hidden && (() => this.#edit(this.#paragraphToEdit(event.target))),
    });
    const run = shortcuts[event.key];
    if (SCROLLING_KEYS.has(event.key)) this.#unfollow();
    if (!run) return false;
    run();
    return true;
  }

  /** @param {Job} job */
  #onJob(job) {
    this.job = job;
    this.actions.update(job);
    this.progress.update(job);
    this.strip.hidden = !isActive(job) && !job.result_available;
    redraw(this.facts, `${factsOf(job)} ${job.edited_at}`, () => [factsOf(job), job.edited_at && h("span.badge", {}, "Corrected")]);
    this.#showOutcome();
    this.#openPlayer();
    this.#loadWaveform();
    this.#load();
  }

  /** The job is no longer in the list: it was deleted, or the list is being loaded with another key. */
  async #onGone() {
    if (this.actions.isDeleting) return;
    try {
      this.store.putJobs([await this.api.json(`v1/jobs/${this.job.job_id}`, { signal: this.#control.signal })]);
    } catch (error) {
      if (this.#control.signal.aborted || !(error instanceof ApiError) || error.status !== 404) return;
      if (this.#isClean) return this.go("#/");
      replace(this.notices, notice("warning", "This transcript was deleted on the server", "Your last correction could not be saved. Copy the text if you need it."));
    }
  }

  #showOutcome() {
    const isSilent = this.#shownEdit !== null && !this.#segments.length;
    const { status, result_available, warnings, error, error_type, delivery } = this.job;
    redraw(this.notices, JSON.stringify([status, result_available, warnings, error, error_type, delivery, isSilent]), () => [
      outcomeOf(this.job),
      isSilent && notice("microphone", "No speech was found", "If somebody speaks in this recording, check that it is loud enough, and choose its language."),
    ]);
  }

  /** Load what there is of the text, unless it is being loaded. Jobs change while it is: then it is loaded again. */
  async #load() {
    if (this.#isLoading) return;
    this.#isLoading = true;
    try {
      for (let seen = null; seen !== this.job; ) {
        seen = this.job;
        if (seen.result_available) await this.#loadResult(seen);
        else if (seen.status === "processing") await this.#loadPartial(seen.job_id);
      }
    } catch (error) {
      if (!this.#control.signal.aborted) this.#showLoadingProblem(sentence(error));
    } finally {
      this.#isLoading = false;
    }
  }

  /** @param {string} message */
  #showLoadingProblem(message) {
    const retry = h("button.button", { type: "button", onclick: () => this.#onJob(this.job) }, "Try again");
    replace(this.notices, notice("warning", "The text could not be loaded", message, retry));
  }

  /** @param {string} id */
  async #loadPartial(id) {
    const { signal } = this.#control;
    const live = await continued(this.#live, (start) => this.api.json(`v1/jobs/${id}/partial?start=${start}`, { signal }));
    if (live === this.#live) return;
    this.#live = live;
    this.#segments = live.segments;
    this.#words = live.words;
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < 80;
    this.#layOut();
    if (isAtEnd && scrollTop > 0) this.scroller.scrollTo({ top: this.scroller.scrollHeight });
  }

  /** @param {Job} job */
  async #loadResult(job) {
    const edit = job.edited_at ?? 0;
    if (this.#shownEdit !== null && (this.#shownEdit === edit || !this.#isClean)) return;
    const result = await this.api.json(`v1/jobs/${job.job_id}/result?response_format=document`, { signal: this.#control.signal });
    const isFirst = this.#shownEdit === null;
    this.#shownEdit = edit;
    this.#segments = result.segments;
    this.#words = result.words ?? [];
    this.transcript.canName = true;
    this.#layOut(!isFirst);
    this.tools.hidden = false;
    this.#showOutcome();
    this.#loadCaptions();
  }

  /** Load what corrections need, unless it is there. */
  loadEditing() {
    corrected.add(this.job.job_id);
    return (this.#editingLoaded ??= this.#openEditing());
  }

  async #openEditing() {
    const { Editing } = await import("./editing.js");
    const { job_id } = this.job;
    const editing = new Editing({
      api: this.api, job_id, transcript: this.transcript, button: this.editButton, notice: this.problems,
      onSaved: this.#onSaved, onChanged: () => this.#layOut(), onPlay: () => this.#player?.toggle(),
    });
    if (this.#control.signal.aborted) editing.close();
    return (this.#editing = editing);
  }

  /** Start or stop correcting. @param {number} [paragraph] The one to start with. */
  async #edit(paragraph = this.#paragraphToEdit(null)) {
    await (await this.loadEditing()).toggle(paragraph);
  }

  /** Let the user name a speaker.
   * @param {HTMLButtonElement} button @param {string} speaker */
  async #name(button, speaker) {
    const [editing, { openNaming }] = await Promise.all([this.loadEditing(), import("./naming.js")]);
    const labels = await editing.labelsOf(speaker);
    if (labels.length) openNaming(button, speaker, this.transcript.layout.paragraphs, (name) => editing.name(labels, name));
  }

  get #hasSpeakers() {
    return this.transcript.layout.paragraphs.some(({ speaker }) => speaker);
  }

  get #isClean() {
    return this.#editing?.isClean ?? true;
  }

  /** The server has corrections that this page sent, or that someone else made.
   * @param {import("./edits.js").SavedTranscript} transcript @param {boolean} isAll */
  #onSaved = (transcript, isAll) => {
    if (!isAll || this.#shownEdit === OUTDATED) {
      this.#shownEdit = OUTDATED;
      return void this.#load();
    }
    const changed = new Map(transcript.segments.map((segment) => [segment.id, segment]));
    this.#shownEdit = transcript.edited_at ?? 0;
    this.#segments = this.#segments.map((segment) => changed.get(segment.id) ?? segment);
    this.#words = [...this.#words.filter((word) => !changed.has(word.segment)), ...(transcript.words ?? [])];
    this.#layOut();
    this.#loadCaptions();
  };

  /** Lay out the text, with what the server doesn't have yet, unless a paragraph is being typed in. */
  #layOut(keepsParagraphs = this.#shownEdit !== null) {
    if (this.#editing?.isTyping) return; // again when the paragraph is left
    const unsaved = this.#editing?.unsaved ?? new Map();
    const segments = unsaved.size ? this.#segments.map((segment) => ({ ...segment, text: unsaved.get(segment.id) ?? segment.text })) : this.#segments;
    const words = unsaved.size ? this.#words.filter((word) => !unsaved.has(word.segment)) : this.#words;
    const isEmpty = !this.transcript.layout.paragraphs.length; // a correction may be saved before there is any text
    const layout = layOut(segments, words, keepsParagraphs && !isEmpty ? this.transcript.layout : null, this.#editing?.newNames);
    this.transcript.show(layout);
    if (this.#hasSpeakers) this.#player?.waveform.setVoices((seconds) => layout.paragraphs[layout.words.atTime(seconds)?.paragraph ?? 0]?.voice ?? 0);
    if (this.#editing?.isOn) this.#editing.makeEditable();
    this.finding.refresh();
    if (this.#player) this.transcript.speak(this.#player.currentTime);
  }

  #openPlayer() {
    const { job } = this;
    const file = this.store.files.get(job.job_id);
    if (this.#player) {
      if (!this.#player.waveform.duration && job.audio_duration) this.#player.waveform.duration = job.audio_duration;
      return;
    }
    if (!job.audio_available && !file) {
      const isOver = job.status === "failed" || job.status === "cancelled";
      const sentence = "The recording was not kept on the server, so it can't be played here. Choose to keep it when you send the next one.";
      replace(this.foot, isOver && !job.result_available ? "" : sentence);
      return;
    }
    const newTicket = async () => {
      if (file) return { url: (this.#fileUrl ||= URL.createObjectURL(file)), expires_at: Infinity };
      const { url, expires_at } = await this.api.json(`v1/jobs/${job.job_id}/audio/ticket`, { method: "POST" });
      return { url: this.api.url(url), expires_at };
    };
    const player = new Player(jobTitle(job), job.audio_duration ?? 0, {
      newTicket, onTime: (seconds) => this.transcript.speak(seconds), onVideo: () => this.#showVideo(), onSeek: () => this.#setFollowing(true),
    });
    this.#player = player;
    this.transcript.canSeek = true;
    this.transcript.element.classList.add("can-seek");
    this.screen.append(player.media);
    replace(this.foot, player.element);
    player.load();
  }

  /** The peaks are known when the recording has been decoded to its end. */
  async #loadWaveform() {
    const { audio_available, result_available } = this.job;
    if (this.#hasAskedForWaveform || !audio_available || !result_available) return;
    this.#hasAskedForWaveform = true;
    try {
      const { channels } = await this.api.json(`v1/jobs/${this.job.job_id}/waveform?points=${WAVEFORM_POINTS}`, { signal: this.#control.signal });
      this.#player?.waveform.setPeaks(channels);
    } catch {} // a recording without one has a plain line
  }

  #showVideo() {
    if (!this.screen.hidden) return;
    this.screen.hidden = false;
    this.element.classList.add("has-video");
    this.#loadCaptions();
  }

  async #loadCaptions() {
    if (this.screen.hidden || this.#shownEdit === null) return;
    const text = await this.api.text(`v1/jobs/${this.job.job_id}/result?response_format=vtt`, { signal: this.#control.signal }).catch(() => "");
    if (!text || this.#control.signal.aborted) return;
    if (this.#captionsUrl) URL.revokeObjectURL(this.#captionsUrl);
    this.#captionsUrl = URL.createObjectURL(new Blob([text], { type: "text/vtt" }));
    this.#player?.setCaptions(this.#captionsUrl);
  }

  get #position() {
    return this.#player?.currentTime ?? this.#foundAt;
  }

  /** @param {import("./layout.js").IndexedWord} word */
  #onFound(word) {
    this.#foundAt = word.start;
    if (!this.#player) return;
    if (this.#player.isPlaying) this.#setFollowing(false);
    else {
      this.#player.seek(this.#foundAt);
      this.#setFollowing(true);
    }
  }

  /** Go to a time, and play from there if that is the order, or nobody has paused yet. @param {number} seconds @param {boolean} plays */
  #seek(seconds, plays) {
    const player = this.#player;
    player?.seek(seconds);
    if (player && !player.isPlaying && (plays || !player.hasPlayed)) player.toggle();
  }

  #follow() {
    this.#setFollowing(true);
    const word = this.transcript.layout.words.atTime(this.#position);
    const range = word && this.transcript.range(word);
    if (range) this.transcript.reveal(range, true);
  }

  #unfollow() {
    if (this.#player?.isPlaying) this.#setFollowing(false);
  }

  /** @param {boolean} isFollowing */
  #setFollowing(isFollowing) {
    this.transcript.isFollowing = isFollowing;
    this.followButton.hidden = isFollowing;
  }

  /** The paragraph with the focus, or the one that plays. @param {EventTarget | null} target */
  #paragraphToEdit(target) {
    const focused = this.transcript.numberOf(target);
    if (focused >= 0) return focused;
    return this.transcript.layout.words.atTime(this.#position)?.paragraph ?? 0;
  }
}
