import assert from "node:assert/strict";
import { test } from "node:test";
import * as format from "../../app/web/assets/js/format.js";

/** @returns {import("../../app/web/assets/js/store.js").Job} */
const job = (changes = {}) => ({
  ...{ job_id: "id", status: "processing", progress: "Transcribing audio", progress_percent: 40, start_time: 0 },
  ...{ elapsed_time: 1, model: "base", result_available: false, seen: 0 },
  ...changes,
});

test("a clock shows hours only if there are any", () => {
  assert.deepEqual([0, 59.9, 60, 3599, 3600, 36_061].map(format.clock), ["0:00", "0:59", "1:00", "59:59", "1:00:00", "10:01:01"]);
  assert.equal(format.clock(-1), "0:00");
});

test("a duration is rounded to what matters", () => {
  const durations = [0.2, 59.4, 59.6, 90, 3599, 3600, 7800, 43_200, 259_200].map(format.duration);
  assert.deepEqual(durations, ["1 s", "59 s", "1 min", "2 min", "1 h", "1 h", "2 h 10 min", "12 h", "3 days"]);
});

test("a size has a decimal unit", () => {
  assert.deepEqual([1, 1500, 2_500_000, 2_147_483_648].map(format.size), ["1 kB", "2 kB", "2.5 MB", "2.1 GB"]);
});

test("an ordinal has its ending", () => {
  assert.deepEqual([1, 2, 3, 4, 11, 12, 21, 101].map(format.ordinal), ["1st", "2nd", "3rd", "4th", "11th", "12th", "21st", "101st"]);
});

test("an age becomes a date after a day", () => {
  const now = 1_800_000_000_000;
  const ages = [0, 60, 3600, 7200].map((seconds) => format.ago(now / 1000 - seconds, now));
  assert.deepEqual(ages, ["just now", "1 minute ago", "1 hour ago", "2 hours ago"]);
  assert.equal(format.ago(now / 1000 - 90_000, now), format.dateTime(now / 1000 - 90_000));
});

test("a queued job says where it stands", () => {
  assert.equal(format.jobPhrase(job({ status: "queued", queue_position: 1 })), "Next in line");
  assert.equal(format.jobPhrase(job({ status: "queued", queue_position: 22 })), "22nd in line");
  assert.equal(format.jobPhrase(job({ status: "queued", progress: "Downloading audio" })), "Fetching the recording");
});

test("progress moves on between two reports, but never to the end", () => {
  const running = job({ eta_seconds: 10 });
  assert.equal(format.shownPercent(running, 0), 40);
  assert.equal(format.shownPercent(running, 5000), 70);
  assert.equal(format.shownPercent(running, 1e9), 91);
  assert.equal(format.shownPercent(job(), 5000), 40);
  assert.equal(format.timeLeft(running, 4000), "about 6 s left");
});

test("a job without a name has a title", () => {
  assert.equal(format.jobTitle(job({ name: "<b>" })), "<b>");
  assert.match(format.jobTitle(job()), /^Recording of /);
});

test("every language has a name", () => {
  for (const code of format.LANGUAGES) assert.notEqual(format.languageName(code).toLowerCase(), code);
});

test("a model is called by the last part of its name or path", () => {
  for (const name of ["base", "Systran/base", "/srv/models/base", "/srv/models/base/"]) assert.equal(format.modelName(name), "base");
});
