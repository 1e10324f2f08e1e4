/** Audio of a microphone as live transcription takes it: mono, 24 kHz, s16, in base64. */

/** In Hz. */
export const RATE = 24_000;
/** How many zeros of the sinc function the filter has on each side. */
const ZEROS = 16;

/**
 * Changes the rate of audio that arrives in pieces. Browsers can do it too, but Firefox doesn't connect a microphone to an
 * `AudioContext` of another rate.
 *
 * Each sample is a sum of the samples around it, weighted with a sinc function under a Hann window. The weights repeat
 * themselves after as many samples as the rates have in common.
 */
export class Resampler {
  #up;
  #down;
  #reach;
  /** Weights by the phase of a sample between two of the input. @type {Float32Array[]} */
  #weights;
  /** The input that is still needed. */
  #input;
  /** Where the next sample is in that input, in parts of a sample. */
  #position;

  /** @param {number} rate Of the input, in Hz. */
  constructor(rate) {
    const common = commonDivisor(rate, RATE);
    this.#up = RATE / common;
    this.#down = rate / common;
    const bandwidth = Math.min(1, RATE / rate);
    this.#reach = Math.ceil(ZEROS / bandwidth);
    this.#weights = Array.from({ length: this.#up }, (_, phase) => weightsOf(phase / this.#up, this.#reach, bandwidth));
    this.#input = new Float32Array(this.#reach - 1);
    this.#position = (this.#reach - 1) * this.#up;
  }

  /**
   * Return the samples that can be computed with this piece. The sound comes a fraction of a millisecond late.
   *
   * @param {Float32Array} samples From -1 to 1. What is louder is clipped.
   */
  push(samples) {
    const input = new Float32Array(this.#input.length + samples.length);
    input.set(this.#input);
    input.set(samples, this.#input.length);
    const last = (input.length - this.#reach) * this.#up;
    const output = new Int16Array(Math.max(0, Math.ceil((last - this.#position) / this.#down)));
    for (let i = 0; i < output.length; i++) {
      output[i] = Math.round(32767 * Math.max(-1, Math.min(1, this.#sample(input))));
      this.#position += this.#down;
    }
    const start = Math.floor(this.#position / this.#up) - this.#reach + 1;
    this.#input = input.slice(start);
    this.#position -= start * this.#up;
    return output;
  }

  /** @param {Float32Array} input */
  #sample(input) {
    const first = Math.floor(this.#position / this.#up) - this.#reach + 1;
    const weights = /** @type {Float32Array} */ (this.#weights[this.#position % this.#up]);
    return weights.reduce((sum, weight, i) => sum + weight * /** @type {number} */ (input[first + i]), 0);
  }
}

/**
 * Return the weights of the 2 * `reach` samples around a place, whose sum is 1.
 *
 * @param {number} fraction Where the place is between the two samples in the middle.
 * @param {number} reach
 * @param {number} bandwidth What is kept, as a share of that of the input.
 */
function weightsOf(fraction, reach, bandwidth) {
  const weights = Float32Array.from({ length: 2 * reach }, (_, i) => {
    const distance = i - reach + 1 - fraction;
    const x = Math.PI * bandwidth * distance;
    return (x ? Math.sin(x) / x : 1) * Math.cos((Math.PI * distance) / (2 * reach)) ** 2;
  });
  const sum = weights.reduce((total, weight) => total + weight);
  return weights.map((weight) => weight / sum);
}

/**
 * @param {number} a
 * @param {number} b
 * @returns {number}
 */
function commonDivisor(a, b) {
  return b ? commonDivisor(b, a % b) : a;
}

/**
 * Return samples as base64. Browsers run on little-endian machines only.
 *
 * @param {Int16Array} samples
 */
export function base64(samples) {
  return btoa(String.fromCharCode(...new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength)));
}

/**
 * Call a function with the samples of a microphone, about 100 ms at a time, until the context is closed.
 *
 * @param {AudioNode} source
 * @param {(samples: Float32Array) => void} onSamples At the rate of the source's context.
 */
export async function capture(source, onSamples) {
  const { context } = source;
  await context.audioWorklet.addModule(new URL("./worklet.js", import.meta.url));
  const node = new AudioWorkletNode(context, "pieces", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  node.port.onmessage = ({ data }) => onSamples(data);
  source.connect(node);
}
