import assert from "node:assert/strict";
import { test } from "node:test";

import { curlCommand, factsOf, fileName, workPhrases } from "../../app/web/assets/js/reading/actions.js";
import { bars } from "../../app/web/assets/js/reading/player.js";
import { continued } from "../../app/web/assets/js/reading/view.js";

test("a download is named after the job, on every system", () => {
  assert.equal(fileName("Interview 12.opus", "srt"), "Interview 12.srt");
  assert.equal(fileName("v1.2 of 3 May", "txt"), "v1.2 of 3 May.txt");
  assert.equal(fileName("../../etc/passwd", "txt"), "_.._etc_passwd.txt");
  assert.equal(fileName('a/b\\c:d*e?f"g<h>i|j\u0000k\u202el', "txt"), "a_b_c_d_e_f_g_h_i_j_k_l.txt");
  assert.equal(fileName("...", "txt"), "transcript.txt");
  assert.equal([...fileName("👋".repeat(300), "txt")].length, 124);
});

test("a command is quoted for the shell and holds no key", () => {
  const command = curlCommand("https://server.example/v1/jobs/1/result?response_format=srt", "it's; rm -rf.srt", true);
  assert.equal(
    command,
    "curl --fail -H \"Authorization: Bearer $API_KEY\" -o 'it'\\''s; rm -rf.srt' 'https://server.example/v1/jobs/1/result?response_format=srt'",
  );
  assert.doesNotMatch(curlCommand("https://server.example/", "a.srt", false), /Authorization/);
});

test("bars keep the loudest peak, and the channel that has it", () => {
  assert.deepEqual(bars([[0, 255, 0, 51], [102, 0, 0, 204]], 2), [{ level: 1, channel: 0 }, { level: 0.8, channel: 1 }]);
  assert.deepEqual(bars([[255]], 3).map(({ level }) => level), [1, 1, 1]);
  assert.deepEqual(bars([], 2), [{ level: 0, channel: 0 }, { level: 0, channel: 0 }]);
});

test("the facts of a job leave out what is not known", () => {
  const job = { start_time: 0, model: "openai/whisper-base", audio_duration: 100, processing_time: 20, language: "german", task: "translate" };
  assert.match(factsOf(job), /^1:40 · German · in English · whisper-base · 5\.0× real time · /);
  assert.match(factsOf({ start_time: 0, model: "tiny" }), /^tiny · /);
});

test("a job says what is being done with it", () => {
  const job = { status: "processing", progress: "Transcribing", progress_percent: 10 };
  assert.deepEqual(workPhrases(job), ["Transcribing", "the text appears here while it is written"]);
  assert.deepEqual(workPhrases({ ...job, progress: "Telling speakers apart" }), ["Telling speakers apart", ""]);
  const left = { eta_seconds: 540, seen: performance.now() };
  assert.deepEqual(workPhrases({ ...job, ...left, progress: "Telling speakers apart" }), ["Telling speakers apart", "about 9 min left"]);
  assert.deepEqual(workPhrases({ status: "queued", queue_position: 1 }), ["Next in line", ""]);
});

/** A running job: responses of `/partial`, and from where they were asked for. */
function running(attempt, texts) {
  const job = { attempt, texts, starts: [] };
  job.fetchFrom = async (start) => {
    job.starts.push(start);
    const segments = job.texts.slice(start).map((text, i) => ({ id: start + i, text }));
    return { attempt: job.attempt, next: job.texts.length, is_final: false, segments };
  };
  return job;
}
const nothing = { attempt: 0, segments: [], words: [] };
const textsOf = ({ segments }) => segments.map(({ text }) => text);

test("live text grows by what is new", async () => {
  const job = running(1, ["a"]);
  const first = await continued(nothing, job.fetchFrom);
  assert.equal(await continued(first, job.fetchFrom), first);
  job.texts.push("b", "c");
  assert.deepEqual(textsOf(await continued(first, job.fetchFrom)), ["a", "b", "c"]);
  assert.deepEqual(job.starts, [0, 1, 1]);
});

for (const [reason, attempt] of [["another attempt", 2], ["fewer segments than before", 1]]) {
  test(`live text begins again with ${reason}`, async () => {
    const first = await continued(nothing, running(1, ["a", "b"]).fetchFrom);
    const again = running(attempt, ["A"]);
    const text = await continued(first, again.fetchFrom);
    assert.deepEqual([textsOf(text), text.attempt, again.starts], [["A"], attempt, [2, 0]]);
  });
}

test("live text that begins again is empty at first", async () => {
  const first = await continued(nothing, running(1, ["a"]).fetchFrom);
  const text = await continued(first, running(1, []).fetchFrom);
  assert.deepEqual(textsOf(text), []);
});

test("live text stays until the result has been loaded", async () => {
  const known = { attempt: 1, segments: [{ id: 0, text: "a" }], words: [] };
  assert.equal(await continued(known, async () => ({ attempt: 1, next: 3, is_final: true, segments: [{}, {}] })), known);
});
