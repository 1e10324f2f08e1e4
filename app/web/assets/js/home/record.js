/**
 * Recording with the microphone: a dialog with the level, the time, a pause, and the text of what is said.
 *
 * @typedef {{file: File, text: HTMLElement}} Recorded `text` is a preview that may change for some seconds.
 */
import { confirmed, h, icon, openDialog, toast } from "../dom.js";
import { clock, dateTime } from "../format.js";

const TYPES = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];
const BITS_PER_SECOND = 64000;
const SLICE_MS = 1000;
const PREVIEW = "a preview: the whole recording is transcribed once you send it.";

/**
 * Record until the user stops. Resolve to what was recorded, or to null if there is nothing; a message says why.
 *
 * @param {import("../main.js").Context} context
 * @param {[string, string][]} fields Form fields of the transcription.
 */
export async function openRecorder(context, fields) {
  const stream = await openMicrophone();
  return stream && new Recorder(stream, context, fields).recorded;
}

/** @returns {Promise<MediaStream | null>} */
async function openMicrophone() {
  if (!window.isSecureContext || !navigator.mediaDevices || !window.MediaRecorder) {
    const reason = window.isSecureContext
      ? "This browser can't record."
      : "Browsers allow the microphone on https:// pages and on localhost only. Ask whoever runs this server for an https:// address.";
    toast(reason, { isError: true });
    return null;
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    toast(refusal(error), { isError: true });
    return null;
  }
}

/** @param {unknown} error */
function refusal(error) {
  const name = error instanceof DOMException ? error.name : "";
  if (name === "NotFoundError") return "No microphone was found. Connect one and try again.";
  if (name === "NotReadableError") return "The microphone is in use by another program.";
  return "The browser did not allow the microphone. Allow it for this page, beside the address, and try again.";
}

class Recorder {
  /** @type {Promise<Recorded | null>} */
  recorded;
  #stream;
  #recorder;
  #parts = /** @type {Blob[]} */ ([]);
  #isDiscarded = false;
  #seconds = 0;
  #runningSince = performance.now();
  #context = new AudioContext();
  #source;
  #analyser = this.#context.createAnalyser();
  #meter = h("meter.level", { min: 0, max: 1, low: 0.02, high: 0.95, optimum: 0.3, "aria-label": "Level" });
  #time = h("div.time", { role: "timer" }, "0:00");
  #status = h("p.recording", { role: "status" }, "Recording");
  #pause = h("button.button", { type: "button", onclick: () => this.#togglePause() }, icon("pause"), "Pause");
  #hint = h("p.hint", {}, `Text appears here while you speak. It is ${PREVIEW}`);
  #text = h("div.live", { role: "log", "aria-label": "Live text", tabindex: 0 }, this.#hint);
  #live = /** @type {import("../live/view.js").LiveText | null} */ (null);
  #dialog;
  #askBeforeUnload = (/** @type {BeforeUnloadEvent} */ event) => event.preventDefault();

  /**
   * @param {MediaStream} stream
   * @param {import("../main.js").Context} context
   * @param {[string, string][]} fields
   */
  constructor(stream, context, fields) {
    this.#stream = stream;
    const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type)) ?? "";
    this.#recorder = new MediaRecorder(stream, { mimeType, audioBitsPerSecond: BITS_PER_SECOND });
    this.#recorder.addEventListener("dataavailable", ({ data }) => this.#parts.push(data));
    this.recorded = new Promise((resolve) => this.#recorder.addEventListener("stop", () => resolve(this.#finish())));
    this.#source = this.#context.createMediaStreamSource(stream);
    this.#source.connect(this.#analyser);
    stream.getAudioTracks()[0]?.addEventListener("ended", () => this.#onUnplugged());
    this.#dialog = this.#openDialog();
    addEventListener("beforeunload", this.#askBeforeUnload);
    this.#recorder.start(SLICE_MS);
    requestAnimationFrame(() => this.#draw());
    if (context.store.server?.features["realtime"] === false) this.#text.hidden = true;
    else this.#openLiveText(context, fields);
  }

  /**
   * @param {import("../main.js").Context} context
   * @param {[string, string][]} fields
   */
  async #openLiveText(context, fields) {
    const module = await import("../live/view.js").catch(() => null); // the server was updated, or is gone
    if (this.#recorder.state === "inactive") return;
    if (!module) return this.#text.append(h("p.note", {}, "The recording goes on without live text. This page could not load it."));
    this.#live = new module.LiveText({ context, fields, source: this.#source, element: this.#text });
    if (this.#recorder.state === "paused") this.#live.pause();
  }

  #openDialog() {
    const stop = h("button.button.primary", { type: "button", onclick: () => this.#recorder.stop() }, icon("stop"), "Stop and use");
    const dialog = openDialog(
      "Record",
      h("div.recorder", {}, this.#status, this.#meter, this.#time),
      h(
        "div.row.end",
        {},
        h("button.text-button", { type: "button", onclick: () => this.#discard() }, "Discard"),
        this.#pause,
        stop,
      ),
      this.#text,
    );
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.#discard();
    });
    stop.focus();
    return dialog;
  }

  #togglePause() {
    const isPausing = this.#recorder.state === "recording";
    if (isPausing) {
      this.#seconds = this.#elapsed();
      this.#recorder.pause();
      this.#live?.pause();
    } else {
      this.#runningSince = performance.now();
      this.#recorder.resume();
      this.#live?.resume();
    }
    this.#status.textContent = isPausing ? "Paused" : "Recording";
    this.#status.classList.toggle("paused", isPausing);
    this.#pause.replaceChildren(icon(isPausing ? "microphone" : "pause"), isPausing ? "Continue" : "Pause");
  }

  async #discard() {
    if (this.#elapsed() > 3 && !(await confirmed("Discard the recording?", `${clock(this.#elapsed())} would be lost.`, "Discard"))) return;
    this.#isDiscarded = true;
    if (this.#recorder.state !== "inactive") this.#recorder.stop();
  }

  #onUnplugged() {
    toast("The microphone is gone. What was recorded until now is kept.", { isError: true });
  }

  /** Return the seconds recorded so far. */
  #elapsed() {
    const isRunning = this.#recorder.state === "recording";
    return this.#seconds + (isRunning ? (performance.now() - this.#runningSince) / 1000 : 0);
  }

  #draw() {
    if (!this.#dialog.isConnected) return;
    const samples = new Float32Array(this.#analyser.fftSize);
    this.#analyser.getFloatTimeDomainData(samples);
    const peak = samples.reduce((highest, sample) => Math.max(highest, Math.abs(sample)), 0);
    this.#meter.value = this.#recorder.state === "recording" ? Math.sqrt(peak) : 0;
    this.#time.textContent = clock(this.#elapsed());
    requestAnimationFrame(() => this.#draw());
  }

  #finish() {
    for (const track of this.#stream.getTracks()) track.stop();
    this.#context.close();
    this.#dialog.close();
    removeEventListener("beforeunload", this.#askBeforeUnload);
    this.#hint.textContent = `This is ${PREVIEW}`;
    const hasRecorded = this.#parts.length > 0 && !this.#isDiscarded;
    if (hasRecorded) this.#live?.finish();
    else this.#live?.close();
    if (!hasRecorded) return null;
    const type = this.#recorder.mimeType;
    const suffix = type.includes("mp4") ? "m4a" : type.includes("ogg") ? "ogg" : "webm";
    const file = new File(this.#parts, `Recording of ${dateTime(Date.now() / 1000)}.${suffix}`, { type });
    return { file, text: this.#text };
  }
}
