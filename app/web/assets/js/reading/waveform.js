/** The position in a recording: a slider drawn as its waveform, in the colours of the speakers. */
/** @typedef {{played: string, rest: string, ink: string, voices: string[]}} Colours */
import { h, styled } from "../dom.js";
import { clock } from "../format.js";

const BAR = 4; // pixels, with the gap
const VOICES = 6;
const STEP = 5; // seconds
const LARGE_STEP = 30;

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

export class Waveform {
  duration = 0;
  #time = 0;
  #channels = /** @type {number[][]} */ ([]);
  #colours = /** @type {Colours | null} */ (null);
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
    const hasVoices = this.#channels.length > 1;
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
