/** Collects the samples of a microphone and posts them in pieces of about 100 ms. It runs in the browser's audio thread. */
const { AudioWorkletProcessor, registerProcessor, sampleRate } = /** @type {any} */ (globalThis);

const PIECE_SAMPLES = Math.round(sampleRate / 10);

class Pieces extends AudioWorkletProcessor {
  #piece = new Float32Array(PIECE_SAMPLES);
  #length = 0;

  /** @param {Float32Array[][]} inputs One input of one channel, which is missing if the microphone is. */
  process([input]) {
    const samples = input?.[0];
    if (!samples) return true;
    const head = samples.subarray(0, PIECE_SAMPLES - this.#length);
    this.#piece.set(head, this.#length);
    this.#length += head.length;
    if (this.#length < PIECE_SAMPLES) return true;
    this.port.postMessage(this.#piece); // a copy
    this.#piece.set(samples.subarray(head.length));
    this.#length = samples.length - head.length;
    return true;
  }
}

registerProcessor("pieces", Pieces);
