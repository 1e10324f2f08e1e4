import assert from "node:assert/strict";
import { test } from "node:test";

import { occurrences } from "../../app/web/assets/js/reading/finding.js";
import * as layout from "../../app/web/assets/js/reading/layout.js";

/** A segment with its words, a third of a second each. */
function spoken(id, start, text, more = {}) {
  const words = [...text.matchAll(/\S+/gu)].map((match, i) => ({
    word: match[0], segment: id, offset: [...text.slice(0, match.index)].length,
    start: start + i / 3, end: start + (i + 1) / 3, probability: 0.9, ...more.word,
  }));
  const end = words.at(-1)?.end ?? start + 1;
  return { segment: { id, start, end, text, ...more.segment }, words };
}
function laidOut(...all) {
  return layout.layOut(all.map((one) => one.segment), all.flatMap((one) => one.words));
}
const texts = ({ paragraphs }) => paragraphs.map((paragraph) => paragraph.text);
const wordOf = ({ paragraphs }, word) => word && paragraphs[word.paragraph].text.slice(word.from, word.to);

test("segments that follow each other share a paragraph", () => {
  const result = laidOut(spoken(0, 0, " Hello there."), spoken(1, 1, " Good morning."), spoken(2, 9, " Later."));
  assert.deepEqual(texts(result), ["Hello there. Good morning.", "Later."]);
  assert.deepEqual(result.paragraphs.map((one) => one.start), [0, 9]);
});

test("a long paragraph ends with a sentence", () => {
  const all = Array.from({ length: 9 }, (_, i) => spoken(i, i * 4, ` ${"word ".repeat(18)}end${i % 2 ? "." : ","}`));
  for (const one of all) Object.assign(one.segment, { end: one.segment.start + 4 });
  const ends = texts(laidOut(...all)).map((text) => text.at(-1));
  assert.deepEqual(ends, [".", ","]);
});

test("turns of two channels alternate at pauses", () => {
  const a = spoken(0, 0, " One two three four", { segment: { channel: 0 } });
  a.words[2].start = 5; a.words[2].end = 5.5; a.words[3].start = 5.5; a.words[3].end = 6;
  const b = spoken(1, 2, " Yes indeed.", { segment: { channel: 1 } });
  const result = laidOut(a, b);
  assert.deepEqual(texts(result), ["One two", "Yes indeed.", "three four"]);
  assert.equal(layout.textOfSegment(result.paragraphs, a.segment), " One two three four");
  assert.equal(layout.plainText(result.paragraphs), "Speaker A: One two\n\nSpeaker B: Yes indeed.\n\nSpeaker A: three four");
});

/** Give words speakers: `A2 B1` for two words of A and one of B. */
function voiced(one, pattern) {
  const speakers = pattern.split(" ").flatMap((run) => Array(Number(run.slice(1))).fill(run[0]));
  one.words.forEach((word, i) => Object.assign(word, speakers[i] && speakers[i] !== "-" && { speaker: speakers[i] }));
  one.segment.speaker = speakers[0];
  return one;
}
const turns = ({ paragraphs }) => paragraphs.map(({ newSpeaker, text }) => `${newSpeaker}: ${text}`);

test("a paragraph begins where another voice does, also inside a segment", () => {
  const result = laidOut(voiced(spoken(0, 0, " Is it ready? Yes. Good."), "A3 B1 A1"), voiced(spoken(1, 2, " Send it. Bye."), "A2 B1"));
  assert.deepEqual(turns(result), ["A: Is it ready?", "B: Yes.", "A: Good. Send it.", "B: Bye."]);
  assert.deepEqual(result.paragraphs.map(({ voice }) => voice), [0, 1, 0, 1]);
  assert.deepEqual(result.words.words.map((word) => wordOf(result, word)), "Is it ready? Yes. Good. Send it. Bye.".split(" "));
  assert.equal(layout.textOfSegment(result.paragraphs, result.paragraphs[0].pieces[0].segment), " Is it ready? Yes. Good.");
});

test("a word without a speaker is the last one's, and text without words its segment's", () => {
  const silent = { id: 1, start: 9, end: 10, text: " Without words.", speaker: "B" };
  const { segment, words } = voiced(spoken(0, 0, " One two three"), "A1 -1 A1");
  assert.deepEqual(turns(layout.layOut([segment, silent], words)), ["A: One two three", "B: Without words."]);
});

test("a speaker has no badge again after a long paragraph", () => {
  const result = laidOut(voiced(spoken(0, 0, " One."), "A1"), voiced(spoken(1, 9, " Two."), "A1"));
  assert.deepEqual(turns(result), ["A: One.", ": Two."]);
});

test("speakers with one name are one, and names are shown before the server has them", () => {
  const all = [voiced(spoken(0, 0, " One two three"), "A1 B1 C1")];
  const words = all[0].words, before = layout.layOut([all[0].segment], words);
  const named = layout.layOut([all[0].segment], words, before, new Map([["B", "A"], ["C", "Zoë"]]));
  assert.deepEqual(turns(named), ["A: One", ": two", "Zoë: three"]);
  assert.deepEqual(named.paragraphs.map(({ voice }) => voice), [0, 0, 1]);
  assert.equal(layout.plainText(named.paragraphs), "Speaker A: One\n\ntwo\n\nZoë: three");
  assert.deepEqual(turns(layout.layOut([all[0].segment], words, named)), ["A: One", "B: two", "C: three"]);
});

test("named channels keep the colours of their channels", () => {
  const result = laidOut(
    spoken(0, 0, " One", { segment: { channel: 1, speaker: "Zoë" }, word: { speaker: "Zoë" } }),
    spoken(1, 3, " Two", { segment: { channel: 0, speaker: "A" }, word: { speaker: "A" } }),
  );
  assert.deepEqual(result.paragraphs.map(({ speaker, voice }) => [speaker, voice]), [["Zoë", 1], ["A", 0]]);
});

test("a segment that is being corrected stays in the paragraphs of its speakers", () => {
  const { segment, words } = voiced(spoken(0, 0, " Is it ready? Yes."), "A3 B1");
  const before = layout.layOut([segment], words);
  layout.changeText(before.paragraphs[0], "Is it really ready?");
  const text = layout.textOfSegment(before.paragraphs, segment);
  assert.equal(text, " Is it really ready? Yes.");
  const unsaved = layout.layOut([{ ...segment, text }], [], before);
  assert.deepEqual(turns(unsaved), ["A: Is it really ready?", "B: Yes."]);
  assert.deepEqual(unsaved.paragraphs.map(({ key }) => key), before.paragraphs.map(({ key }) => key));
  assert.deepEqual(turns(layout.layOut([{ ...segment, text: " Other." }], [], before)), ["A: Other."]);
});

test("only letters of the first 32 speakers are shown as such", () => {
  const titles = ["A", "Z", "AF", "AL", "Zoë", "a"].map(layout.speakerTitle);
  assert.deepEqual(titles, ["Speaker A", "Speaker Z", "Speaker AF", "AL", "Zoë", "a"]);
});

test("search finds names of speakers where they begin to speak", () => {
  const paragraphs = [{ text: "zoe is here", newSpeaker: "Zoë Kranz" }, { text: "Yes.", newSpeaker: "" }, { text: "Zoë!", newSpeaker: "B" }];
  const found = occurrences(paragraphs, "zoe").map(({ paragraph, from, to, isName }) => [paragraph, from, to, isName ?? false]);
  assert.deepEqual(found, [[0, 0, 9, true], [0, 0, 3, false], [2, 0, 3, false]]);
  assert.deepEqual(occurrences(paragraphs, "b"), []);
});

test("every word of the index is where the text has it", () => {
  const result = laidOut(spoken(0, 0, " Grüße 👋🏽 an 𝒜lle."), spoken(1, 2, " Und Tschüs!"));
  const words = result.words.words.map((word) => wordOf(result, word));
  assert.deepEqual(words, ["Grüße", "👋🏽", "an", "𝒜lle.", "Und", "Tschüs!"]);
});

test("a segment without words is one entry of the index", () => {
  const result = layout.layOut([{ id: 0, start: 1, end: 3, text: " No word times." }], []);
  assert.equal(wordOf(result, result.words.atTime(2)), "No word times.");
});

test("a time finds the word that is spoken", () => {
  const result = laidOut(spoken(0, 1, " a b c"), spoken(1, 10, " d"));
  const found = [0, 1, 1.4, 5, 10, 99].map((seconds) => wordOf(result, result.words.atTime(seconds)));
  assert.deepEqual(found, [null, "a", "b", "c", "d", "d"]);
});

test("overlapping channels are searched in the order of time", () => {
  const a = spoken(0, 0, " one two three", { segment: { channel: 0 } });
  const b = spoken(1, 0.2, " uno dos", { segment: { channel: 1 } });
  const result = laidOut(a, b);
  assert.deepEqual([0.1, 0.25, 0.4, 0.6].map((at) => wordOf(result, result.words.atTime(at))), ["one", "uno", "two", "dos"]);
});

test("an offset finds its word, and none after the last", () => {
  const result = laidOut(spoken(0, 0, " one two"), spoken(1, 9, " three"));
  const found = [0, 2, 3, 4, 7, 8].map((offset) => result.words.fromOffset(0, offset).map((word) => wordOf(result, word)));
  assert.deepEqual(found, [["one"], ["one"], ["one"], ["two"], ["two"], []]);
  assert.equal(result.words.fromOffset(0, 0, 9).length, 2);
  assert.equal(wordOf(result, result.words.fromOffset(1, 0)[0]), "three");
});

test("doubtful words are the least probable ones and a small share", () => {
  const words = Array.from({ length: 100 }, (_, i) => ({ start: i, probability: i % 10 ? 0.9 : 0.2 - i / 1000 }));
  assert.deepEqual(new layout.WordIndex(words).doubtful().map(({ start }) => start), [70, 80, 90]);
  assert.deepEqual(new layout.WordIndex(words).doubtful({ share: 1 }).length, 10);
  assert.deepEqual(new layout.WordIndex(words.slice(1, 9)).doubtful(), []);
});

test("search ignores case and accents and returns offsets of the text", () => {
  const { paragraphs } = laidOut(spoken(0, 0, " Café CAFE\u0301 cafes İstanbul 👋 istanbul"));
  const shown = (sought) => occurrences(paragraphs, sought).map(({ from, to }) => paragraphs[0].text.slice(from, to));
  assert.deepEqual(shown("café"), ["Café", "CAFE\u0301", "cafe"]);
  assert.deepEqual(shown("  ISTANBUL "), ["İstanbul", "istanbul"]);
  assert.deepEqual(shown("   "), []);
});

test("a change of a text reaches the piece in which it begins", () => {
  const cases = [
    ["Hello there. Good day.", "Hello you. Good day.", [" Hello you.", " Good day."]],
    ["Hello there. Good day.", "Hello there. Really. Good day.", [" Hello there. Really.", " Good day."]],
    ["Hello there. Good day.", "Hello there. A day.", [" Hello there.", " A day."]],
    ["Hello there. Good day.", "Hello day.", [" Hello", " day."]],
    ["Hello there. Good day.", "", [" ", ""]],
    ["Hello there. Good day.", "So: Hello there. Good day.", [" So: Hello there.", " Good day."]],
    ["Hello there. Good day.", "Hello there. Good day. Bye.", [" Hello there.", " Good day. Bye."]],
  ];
  for (const [before, after, expected] of cases) {
    const one = spoken(0, 0, " Hello there."), two = spoken(1, 0.7, " Good day.");
    const { paragraphs } = laidOut(one, two);
    assert.equal(paragraphs[0].text, before);
    layout.changeText(paragraphs[0], after);
    assert.deepEqual([one, two].map(({ segment }) => layout.textOfSegment(paragraphs, segment)), expected, after);
  }
});

test("changing a text names the segments, and search finds the new one", () => {
  const { paragraphs } = laidOut(spoken(0, 0, " Hello there."), spoken(1, 0.7, " Good day."));
  occurrences(paragraphs, "good");
  const changed = layout.changeText(paragraphs[0], "Hello there. Bad day.");
  assert.deepEqual(changed.map(({ id }) => id), [1]);
  assert.equal(occurrences(paragraphs, "good").length, 0);
  assert.equal(occurrences(paragraphs, "bad").length, 1);
});

test("an emptied paragraph can be filled again", () => {
  const { paragraphs } = laidOut(spoken(0, 0, " Hello."), spoken(1, 0.7, " Bye."));
  layout.changeText(paragraphs[0], "");
  layout.changeText(paragraphs[0], "New");
  assert.equal(paragraphs[0].pieces.map(({ text }) => text).join(""), "New");
});

test("an edited text stays in the same paragraphs", () => {
  const all = Array.from({ length: 12 }, (_, i) => spoken(i, i * 4, ` ${"word ".repeat(18)}end.`));
  for (const one of all) one.segment.end = one.segment.start + 4;
  const before = laidOut(...all);
  const shorter = all.map(({ segment }) => ({ ...segment, text: " Short." }));
  const after = layout.layOut(shorter, [], before);
  assert.deepEqual(after.paragraphs.map(({ key }) => key), before.paragraphs.map(({ key }) => key));
});

test("speakers have letters beyond Z", () => {
  assert.deepEqual([0, 1, 25, 26, 27].map(layout.speakerLetter), ["A", "B", "Z", "AA", "AB"]);
});
