/** The recording: a media element that gets its address from a ticket, and the bar to control it, with the waveform. */
import { h, icon, iconButton, replace, styled } from "../dom.js";
import { clock } from "../format.js";
import { VOICES } from "./layout.js";

const SPEEDS = [0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3];
const STEP = 5; // seconds
/** Milliseconds before another attempt to load the recording, by the number of failures in a row. */
const WAITS = [0, 1000, 4000, 10_000];
/** Milliseconds without a failure after which the next one is the first again. */
const CALM = 20_000;
const BAR = 4; // pixels, with the gap
const LARGE_STEP = 30;

/**
 * @typedef {{played: string, rest: string, ink: string, voices: string[]}} Colours
 * @typedef {{url: string, expires_at: number}} Ticket An address that a media element can load without the key.
 * @typedef {{newTicket: () => Promise<Ticket>, onTime: (seconds: number) => void, onVideo: () => void,
 *   onSeek: () => void}} Listeners
 */

export class Player {
  #ticket = /** @type {Ticket | null} */ (null);
  #failures = 0;
  #failedAt = -Infinity;
  #retry = /** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined);
  #frame = 0;
  #shownTime = "";
  hasPlayed = false;

  /**
   * @param {string} title For the keyboard and the lock screen of the system.
   * @param {number} duration Seconds, of the job: a file that was recorded by a browser doesn't know its own.
   * @param {Listeners} listeners
   */
  constructor(title, duration, listeners) {
    this.title = title;
    this.listeners = listeners;
    this.media = h("video", {
      preload: "metadata", playsinline: true, onplay: this.#onPlay, onpause: this.#onPause, onseeking: this.#onTime,
      ontimeupdate: this.#onTime, onloadedmetadata: this.#onMetadata, onerror: this.#onError,
    });
    this.waveform = new Waveform({ onSeek: (seconds) => this.seek(seconds) });
    this.waveform.duration = duration;
    this.button = h("button.play", { type: "button", "aria-label": "Play", "aria-keyshortcuts": "Space", onclick: () => this.toggle() }, icon("play", 26));
    this.time = h("span.clock");
    this.problem = h("p.player-problem", { role: "alert", hidden: true });
    this.speed = h("select.speed", { "aria-label": "Speed", title: "Speed (< and >)", onchange: this.#onSpeed },
      SPEEDS.map((speed) => h("option", { value: String(speed) }, `${speed}×`)));
    this.speed.value = storedSpeed();
    this.element = h("section.player", { "aria-label": "Player" },
      h("div.transport", {},
        iconButton("back5", "Back 5 seconds", { onclick: () => this.skip(-STEP), "aria-keyshortcuts": "ArrowLeft" }), this.button,
        iconButton("forward5", "Forward 5 seconds", { onclick: () => this.skip(STEP), "aria-keyshortcuts": "ArrowRight" })),
      this.time, this.waveform.element, this.speed, this.problem);
    this.waveform.setTime(0);
    this.#showTime(0);
    this.#useMediaKeys();
  }

  close() {
    clearTimeout(this.#retry);
    cancelAnimationFrame(this.#frame);
    this.media.pause();
    this.media.removeAttribute("src");
    this.media.load();
    this.waveform.close();
    if (!("mediaSession" in navigator)) return;
    navigator.mediaSession.metadata = null;
    for (const action of /** @type {MediaSessionAction[]} */ (["seekbackward", "seekforward"])) navigator.mediaSession.setActionHandler(action, null);
  }

  get currentTime() {
    return this.media.currentTime;
  }
  get isPlaying() {
    return !this.media.paused;
  }

  /** Load the recording, where it was before if it had been loaded. */
  async load() {
    clearTimeout(this.#retry);
    const { currentTime, paused } = this.media;
    try {
      this.#ticket = await this.listeners.newTicket();
    } catch (error) {
      return this.#loadAgain(error instanceof Error ? error.message : String(error));
    }
    this.media.src = this.#ticket.url;
    if (currentTime) this.media.currentTime = currentTime;
    if (!paused) this.media.play().catch(() => {});
  }

  async toggle() {
    if (this.isPlaying) return this.media.pause();
    if (this.#ticket && this.#ticket.expires_at * 1000 < Date.now()) await this.load();
    if (this.media.error || !this.media.src) {
      this.#failures = 0;
      await this.load();
    }
    this.media.play().catch(() => {}); // an error event says why
  }

  /** @param {number} seconds */
  seek(seconds) {
    this.media.currentTime = Math.min(Math.max(0, seconds), this.waveform.duration || seconds);
    this.listeners.onSeek();
  }

  /** @param {number} seconds */
  skip(seconds) {
    this.seek(this.media.currentTime + seconds);
  }

  /** @param {1 | -1} step */
  changeSpeed(step) {
    const at = SPEEDS.indexOf(Number(this.speed.value)) + step;
    this.speed.selectedIndex = Math.min(Math.max(0, at), SPEEDS.length - 1);
    this.#onSpeed();
  }

  /** Show captions over a video, in place of those shown before.
   * @param {string} url @param {string} [language] */
  setCaptions(url, language) {
    this.media.querySelector("track")?.remove();
    this.media.append(h("track", { kind: "captions", label: "Transcript", srclang: language, src: url, default: true }));
    const track = this.media.textTracks[0];
    if (track) track.mode = "showing";
  }

  #onPlay = () => {
    this.hasPlayed = true;
    this.#showPlaying(true);
    const step = () => {
      this.#onTime();
      this.#frame = requestAnimationFrame(step);
    };
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(step);
  };

  #onPause = () => {
    cancelAnimationFrame(this.#frame);
    this.#showPlaying(false);
  };

  /** @param {boolean} isPlaying */
  #showPlaying(isPlaying) {
    replace(this.button, icon(isPlaying ? "pause" : "play", 26));
    this.button.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
  }

  #onTime = () => {
    const seconds = this.media.currentTime;
    this.waveform.setTime(seconds);
    this.#showTime(seconds);
    this.listeners.onTime(seconds);
  };

  /** @param {number} seconds */
  #showTime(seconds) {
    const time = `${clock(seconds)} / ${clock(this.waveform.duration)}`;
    if (time !== this.#shownTime) this.time.textContent = this.#shownTime = time;
  }

  #onMetadata = () => {
    this.problem.hidden = true;
    if (!this.waveform.duration && Number.isFinite(this.media.duration)) this.waveform.duration = this.media.duration;
    this.media.playbackRate = Number(this.speed.value);
    if (this.media.videoWidth) this.listeners.onVideo();
    this.#onTime();
    this.waveform.draw();
  };

  /** Tickets end, and a server that was restarted knows none: try with a new one. */
  #onError = () => {
    if (!this.media.hasAttribute("src")) return;
    const isDamaged = this.media.error?.code === MediaError.MEDIA_ERR_DECODE;
    this.#loadAgain(isDamaged ? "This browser can't play this part of the recording." : "The recording can't be loaded, or this browser can't play its format.");
  };

  /** @param {string} message Shown if it still fails. */
  #loadAgain(message) {
    if (performance.now() - this.#failedAt > CALM) this.#failures = 0;
    this.#failedAt = performance.now();
    const wait = WAITS[this.#failures++];
    if (wait !== undefined) this.#retry = setTimeout(() => this.load(), wait);
    if (this.#failures < 2) return;
    this.problem.hidden = false;
    this.problem.textContent = wait === undefined ? `${message} Press Play to try again.` : message;
  }

  #onSpeed = () => {
    this.media.defaultPlaybackRate = this.media.playbackRate = Number(this.speed.value);
    try {
      localStorage.setItem("speed", this.speed.value);
    } catch {} // storage can be switched off
  };

  #useMediaKeys() {
    if (!("mediaSession" in navigator)) return;
    navigator.mediaSession.metadata = new MediaMetadata({ title: this.title });
    navigator.mediaSession.setActionHandler("seekbackward", () => this.skip(-STEP));
    navigator.mediaSession.setActionHandler("seekforward", () => this.skip(STEP));
  }
}

function storedSpeed() {
  try {
    const speed = localStorage.getItem("speed");
    if (SPEEDS.includes(Number(speed))) return String(Number(speed));
  } catch {} // storage can be switched off
  return "1";
}

/**
 * Reduce peaks to bars.
 *
 * @param {number[][]} channels Peaks from 0 to 255, as many for each channel.
 * @param {number} count
 * @returns {{level: number, channel: number}[]} The loudest peak of each bar, from 0 to 1, and its channel.
 */
export function bars(channels, count) {
  const points = channels[0]?.length ?? 0;
  return Array.from({ length: count }, (_, i) => {
    const from = Math.floor((i * points) / count), to = Math.max(from + 1, Math.floor(((i + 1) * points) / count));
    let peak = 0, channel = 0;
    channels.forEach((peaks, number) => {
      const own = Math.max(0, ...peaks.slice(from, to));
      if (own > peak) [peak, channel] = [own, number];
    });
    return { level: peak / 255, channel };
  });
}

/** The position in a recording: a slider drawn as its waveform, in the colours of the speakers. */
export class Waveform {
  duration = 0;
  #time = 0;
  #channels = /** @type {number[][]} */ ([]);
  #colours = /** @type {Colours | null} */ (null);
  #voiceAt = /** @type {((seconds: number) => number) | null} */ (null);
  #bars = /** @type {{level: number, channel: number}[]} */ ([]);
  #drawn = "";
  #observer;

  /** @param {{onSeek: (seconds: number) => void}} listeners */
  constructor({ onSeek }) {
    this.onSeek = onSeek;
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.tip = h("output.tip", { "aria-hidden": "true", hidden: true });
    this.element = h("div.waveform", {
      role: "slider", tabindex: "0", "aria-label": "Position", "aria-valuemin": "0",
      onpointerdown: this.#onPress, onpointermove: this.#onMove, onpointerleave: () => (this.tip.hidden = true),
      onkeydown: this.#onKey,
    }, this.canvas, this.tip);
    this.#observer = new ResizeObserver(() => this.draw());
    this.#observer.observe(this.element);
  }

  close() {
    this.#observer.disconnect();
  }

  /** @param {number[][]} channels */
  setPeaks(channels) {
    this.#channels = channels;
    this.draw();
  }

  /** Colour the bars by who speaks. Channels have their own colours.
   * @param {(seconds: number) => number} voiceAt Returns the number of a voice. */
  setVoices(voiceAt) {
    this.#voiceAt = voiceAt;
    this.draw();
  }

  /** @param {number} seconds */
  setTime(seconds) {
    const isOtherSecond = Math.floor(seconds) !== Math.floor(this.#time) || !this.element.hasAttribute("aria-valuenow");
    this.#time = seconds;
    if (isOtherSecond) {
      this.element.setAttribute("aria-valuemax", String(Math.round(this.duration)));
      this.element.setAttribute("aria-valuenow", String(Math.floor(seconds)));
      this.element.setAttribute("aria-valuetext", `${clock(seconds)} of ${clock(this.duration)}`);
    }
    this.#drawIfMoved();
  }

  /** Draw again, also after a change of colours. */
  draw() {
    this.#drawn = "";
    this.#drawIfMoved();
  }

  #drawIfMoved() {
    const { clientWidth: width, clientHeight: height } = this.element;
    const scale = devicePixelRatio || 1;
    const x = this.duration ? Math.round((this.#time / this.duration) * width * scale) / scale : 0;
    const drawn = `${width} ${height} ${scale} ${x} ${this.duration}`;
    if (!width || drawn === this.#drawn) return;
    const isResized = !this.#drawn || this.canvas.width !== Math.round(width * scale);
    this.#drawn = drawn;
    if (isResized) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
      this.#bars = bars(this.#channels, Math.floor(width / BAR));
      const voiceAt = this.#channels.length === 1 && this.#voiceAt;
      if (voiceAt) this.#bars.forEach((bar, i) => (bar.channel = voiceAt(((i * BAR) / width) * this.duration)));
      this.#colours = this.#readColours();
    }
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    this.#paint(context, x, height);
  }

  /** @param {CanvasRenderingContext2D} context @param {number} x Of the position. @param {number} height */
  #paint(context, x, height) {
    const { played, rest, ink, voices } = /** @type {Colours} */ (this.#colours);
    const hasVoices = this.#channels.length > 1 || this.#voiceAt;
    this.#bars.forEach(({ level, channel }, i) => {
      const left = i * BAR, isPlayed = left <= x, tall = Math.max(2, level ** 0.8 * (height - 6));
      context.globalAlpha = hasVoices && !isPlayed ? 0.38 : 1;
      context.fillStyle = (hasVoices ? voices[channel % VOICES] : isPlayed ? played : rest) ?? ink;
      context.fillRect(left, (height - tall) / 2, 2.5, tall);
    });
    context.globalAlpha = 1;
    context.fillStyle = ink;
    context.fillRect(Math.max(0, x - 1), 0, 2, height);
  }

  /** Colours are computed by an element: custom properties alone are not resolved. */
  #readColours() {
    const probe = this.element.appendChild(h("i", { hidden: true }));
    const read = /** @param {string} name */ (name) => getComputedStyle(styled(probe, { color: `var(--${name})` })).color;
    const voices = Array.from({ length: VOICES }, (_, i) => read(`voice-${i}`));
    const colours = { played: read("accent"), rest: read("wave"), ink: read("ink"), voices };
    probe.remove();
    return colours;
  }

  /** @param {PointerEvent} event @returns {number} Seconds. */
  #secondsAt({ clientX }) {
    const { left, width } = this.element.getBoundingClientRect();
    return Math.min(1, Math.max(0, (clientX - left) / width)) * this.duration;
  }

  #onPress = (/** @type {PointerEvent} */ event) => {
    if (event.button !== 0) return;
    this.element.setPointerCapture(event.pointerId);
    this.onSeek(this.#secondsAt(event));
  };

  #onMove = (/** @type {PointerEvent} */ event) => {
    const seconds = this.#secondsAt(event);
    if (event.buttons & 1) this.onSeek(seconds);
    this.tip.hidden = event.pointerType === "touch";
    this.tip.textContent = clock(seconds);
    styled(this.tip, { left: `${(seconds / (this.duration || 1)) * 100}%` });
  };

  #onKey = (/** @type {KeyboardEvent} */ event) => {
    const time = this.#time;
    const targets = /** @type {Record<string, number>} */ ({
      Home: 0, End: this.duration, PageUp: time + LARGE_STEP, PageDown: time - LARGE_STEP,
      ArrowUp: time + STEP, ArrowRight: time + STEP, ArrowDown: time - STEP, ArrowLeft: time - STEP,
    });
    const target = targets[event.key];
    if (target === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.onSeek(target);
  };
}
