import assert from "node:assert/strict";
import { test } from "node:test";
import { DEFAULTS, formFields, loadOptions, routeOf } from "../../app/web/assets/js/home/options.js";
import { Staging } from "../../app/web/assets/js/home/uploads.js";
import { problemOf } from "../../app/web/assets/js/home/view.js";

/** @returns {import("../../app/web/assets/js/store.js").ServerDescription} */
const server = (features = {}) => ({
  ...{ version: "1", requires_key: false, max_upload_bytes: 1000, max_audio_seconds: 60, result_formats: [] },
  ...{ retention_seconds: { default: 60, max: 60 }, features },
  models: [
    { id: "base", is_default: true },
    { id: "tiny.en", is_default: false, can_translate: false, languages: ["en"] },
  ],
});

test("options of another version or type are left out", () => {
  const load = (/** @type {string | null} */ text) => loadOptions({ getItem: () => text });
  assert.deepEqual(load(null), DEFAULTS);
  assert.deepEqual(load("{"), DEFAULTS);
  assert.deepEqual(load('{"words": "yes", "language": "de", "colour": 1}'), { ...DEFAULTS, language: "de" });
});

test("the form asks for a stored result, the recording and word times", () => {
  const fields = formFields(DEFAULTS, server({ keep_audio: true }), { name: " A talk " });
  assert.deepEqual(Object.fromEntries(fields), {
    ...{ stored_output: "true", response_format: "verbose_json", name: "A talk", keep_audio: "true" },
    word_timestamps: "true",
  });
});

test("speakers are told apart by their voices, or by channels, or not at all", () => {
  const fieldsOf = (/** @type {object} */ options, features = { diarization: true }) => {
    const fields = Object.fromEntries(formFields({ ...DEFAULTS, words: false, ...options }, server(features), { name: "a" }));
    const names = ["diarize", "num_speakers", "multichannel", "word_timestamps"];
    return Object.fromEntries(names.filter((name) => name in fields).map((name) => [name, fields[name]]));
  };
  assert.deepEqual(fieldsOf({ speakerCount: "3" }), {});
  assert.deepEqual(fieldsOf({ speakers: "voices" }), { diarize: "true", word_timestamps: "true" });
  assert.deepEqual(fieldsOf({ speakers: "voices", speakerCount: "3" }), { diarize: "true", num_speakers: "3", word_timestamps: "true" });
  assert.deepEqual(fieldsOf({ speakers: "channels", speakerCount: "3" }), { multichannel: "true" });
  assert.deepEqual(fieldsOf({ speakers: "voices", speakerCount: "3" }, { diarization: false }), {});
});

test("keywords are sent one by one", () => {
  const fields = formFields({ ...DEFAULTS, keywords: "etcd, Grüneberg,, " }, server(), { name: "a" });
  assert.deepEqual(fields.filter(([name]) => name === "keywords[]").map(([, value]) => value), ["etcd", "Grüneberg"]);
});

test("a result is not kept for longer than the server allows", () => {
  const retentionOf = (/** @type {string} */ retention) =>
    Object.fromEntries(formFields({ ...DEFAULTS, retention }, server(), { name: "a" }))["retention_seconds"];
  assert.deepEqual(["", "30", "60", "3600"].map(retentionOf), [undefined, "30", undefined, undefined]);
});

test("a result is kept for a day unless another time is chosen or the server keeps it longer anyway", () => {
  const retentionOf = (/** @type {string} */ retention, /** @type {number} */ usual, /** @type {number} */ max) =>
    Object.fromEntries(
      formFields({ ...DEFAULTS, retention }, { ...server(), retention_seconds: { default: usual, max } }, { name: "a" }),
    )["retention_seconds"];
  assert.equal(retentionOf("", 3600, 604_800), "86400");
  assert.equal(retentionOf("604800", 3600, 604_800), "604800");
  assert.equal(retentionOf("3600", 3600, 604_800), undefined);
  assert.equal(retentionOf("", 604_800, 2_592_000), undefined);
  assert.equal(retentionOf("", 3600, 7200), undefined);
});

test("a model gets only what it can do", () => {
  const options = { ...DEFAULTS, model: "tiny.en", language: "de", task: /** @type {const} */ ("translate") };
  const fields = Object.fromEntries(formFields(options, server(), { name: "a" }));
  assert.deepEqual([fields["model"], fields["language"]], ["tiny.en", undefined]);
  assert.equal(routeOf(options, server()), "v1/audio/transcriptions");
  assert.equal(routeOf({ ...options, model: "" }, server()), "v1/audio/translations");
});

test("a model that is no longer served is replaced by the default one", () => {
  const fields = Object.fromEntries(formFields({ ...DEFAULTS, model: "gone", language: "de" }, server(), { name: "a" }));
  assert.deepEqual([fields["model"], fields["language"]], [undefined, "de"]);
});

test("only links are taken as links, and named after their file", () => {
  const staging = new Staging();
  for (const text of ["", "a talk", "ftp://a.example/b", "https://", "javascript:alert(1)", "https://a.example/b c"])
    assert.equal(staging.addLink(text), false, text);
  for (const text of [" https://a.example/x/Gr%C3%BC%C3%9Fe.mp3?sig=1 ", "http://a.example/", "https://a.example/%FF"])
    assert.equal(staging.addLink(text), true, text);
  assert.deepEqual(staging.items.map((item) => item.name), ["Grüße.mp3", "a.example", "%FF"]);
  assert.equal(staging.items[0]?.url, "https://a.example/x/Gr%C3%BC%C3%9Fe.mp3?sig=1");
});

test("a name can't look like another one", () => {
  const staging = new Staging();
  staging.addFiles([/** @type {File} */ ({ name: `<img src=x>\u202egnp.exe\u0007${"a".repeat(300)}` })]);
  assert.match(staging.items[0]?.name ?? "", /^<img src=x>gnp\.exea{237}$/);
});

test("files that the server would refuse are not sent", () => {
  const file = (/** @type {number} */ size) => ({ id: 1, name: "a", file: /** @type {File} */ ({ size }) });
  assert.equal(problemOf(file(1000), server()), "");
  assert.match(problemOf(file(2000), server()), /is more than the 1 kB/);
  assert.equal(problemOf(file(0), server()), "The file is empty.");
});
