import assert from "node:assert/strict";
import { test } from "node:test";
import { RATE, Resampler, base64 } from "../../app/web/assets/js/live/audio.js";

/** Return a second of a tone. */
const tone = (/** @type {number} */ hertz, /** @type {number} */ rate, loudness = 0.5) =>
  Float32Array.from({ length: rate }, (_, i) => loudness * Math.sin((2 * Math.PI * hertz * i) / rate));

/** Return what comes out of a resampler for pieces of a length. */
function resampled(/** @type {Float32Array} */ samples, /** @type {number} */ rate, length = rate / 10) {
  const resampler = new Resampler(rate);
  const output = [];
  for (let start = 0; start < samples.length; start += length) output.push(...resampler.push(samples.subarray(start, start + length)));
  return output;
}

/** Return the loudest sample after the beginning, from 0 to 1. */
const peak = (/** @type {number[]} */ samples) => Math.max(...samples.slice(1000).map(Math.abs)) / 32767;

for (const rate of [8000, 16000, 22050, 24000, 44100, 48000, 96000]) {
  test(`speech at ${rate} Hz keeps its frequency, loudness and length`, () => {
    const output = resampled(tone(1000, rate), rate);
    assert.ok(Math.abs(output.length - RATE) < RATE / 100, `${output.length} samples`);
    const expected = tone(1000, RATE);
    const errors = output.slice(100).map((sample, i) => Math.abs(sample / 32767 - /** @type {number} */ (expected[i + 100])));
    assert.ok(Math.max(...errors) < 0.005, `error ${Math.max(...errors)}`);
  });
}

test("what 24 kHz can't hold is left out", () => {
  assert.ok(peak(resampled(tone(15_000, 48_000), 48_000)) < 0.005);
  assert.ok(peak(resampled(tone(13_500, 44_100), 44_100)) < 0.02);
});

test("pieces of any length are the same sound", () => {
  const samples = tone(440, 44_100);
  const whole = resampled(samples, 44_100, 44_100);
  for (const length of [1, 128, 4410]) assert.deepEqual(resampled(samples, 44_100, length), whole);
});

test("what is too loud is clipped", () => {
  assert.equal(peak(resampled(tone(440, 48_000, 3), 48_000)), 1);
});

test("samples are little-endian in base64", () => {
  assert.equal(base64(Int16Array.of(1, -1, 256)), Buffer.from([1, 0, 255, 255, 0, 1]).toString("base64"));
  const pieces = new Int16Array([7, 8, 9]).subarray(1, 2);
  assert.equal(base64(pieces), Buffer.from([8, 0]).toString("base64"));
});
