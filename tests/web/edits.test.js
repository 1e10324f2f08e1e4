import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { Edits, merge } from "../../app/web/assets/js/reading/edits.js";

/** A server with corrections, as the API describes it. */
class Server {
  corrections = new Map();
  version = 0;
  requests = [];
  failures = [];

  answer() {
    const entries = [...this.corrections];
    const segments = entries.filter(([id]) => typeof id === "number").map(([id, text]) => ({ id, text, start: 0, end: 1 }));
    const speakers = Object.fromEntries(entries.filter(([id]) => typeof id === "string"));
    return { etag: `"${this.version}"`, transcript: { segments, speakers } };
  }
  async load() {
    return this.answer();
  }
  async save(corrections, etag) {
    this.requests.push([...corrections]);
    const failure = this.failures.shift();
    if (failure) throw failure;
    if (etag !== `"${this.version}"`) throw { status: 412, message: "Someone else edited it." };
    this.change(corrections);
    return this.answer();
  }
  change(corrections) {
    this.corrections = new Map(corrections);
    this.version++;
  }
}

let server, edits, states, saves;

/** Let time pass, and everything that is then due happen. */
async function pass(milliseconds) {
  mock.timers.tick(milliseconds);
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

beforeEach(async () => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
  server = new Server();
  states = [];
  saves = [];
  edits = new Edits(server);
  edits.onState = () => states.push(edits.state);
  edits.onSaved = (transcript, isAll) => saves.push([transcript.segments.length, isAll]);
  await edits.load();
  states = [];
});

test("typing is saved after a pause, once", async () => {
  edits.set(3, " Hel", " He");
  await pass(500);
  edits.set(3, " Hello", " Hel");
  await pass(500);
  assert.equal(server.requests.length, 0);
  assert.equal(edits.isClean, false);
  await pass(300);
  assert.deepEqual(server.requests, [[[3, " Hello"]]]);
  assert.deepEqual([...new Set(states)], ["unsaved", "saving", "saved"]);
  assert.deepEqual(saves, [[1, true]]);
  assert.equal(edits.isClean, true);
});

test("leaving a paragraph saves at once", async () => {
  edits.set(3, " Hello", " Hel");
  edits.commit();
  await pass(0);
  assert.equal(server.version, 1);
});

test("what is typed while a request is under way is saved by the next", async () => {
  edits.set(1, "a", "x");
  edits.commit();
  mock.timers.tick(0);
  edits.set(2, "b", "y");
  await pass(0);
  assert.equal(edits.state, "unsaved");
  await pass(800);
  assert.deepEqual(server.requests.at(-1), [[1, "a"], [2, "b"]]);
  assert.equal(edits.state, "saved");
});

test("a text that is as before is no correction", async () => {
  edits.set(1, "ab", "a");
  edits.set(1, "a", "ab");
  await pass(800);
  assert.equal(server.requests.length, 0);
  assert.equal(edits.state, "saved");
});

test("undo and redo go by steps", async () => {
  edits.set(1, "a", "x");
  edits.commit();
  await pass(0);
  edits.set(2, "b", "y");
  edits.commit();
  await pass(0);
  edits.undo();
  await pass(0);
  assert.deepEqual([...server.corrections], [[1, "a"]]);
  assert.deepEqual(saves.at(-1), [1, false]);
  edits.undo();
  await pass(0);
  assert.deepEqual([...server.corrections], []);
  assert.equal(edits.canUndo, false);
  edits.redo();
  edits.redo();
  await pass(0);
  assert.deepEqual([...server.corrections], [[1, "a"], [2, "b"]]);
  assert.equal(edits.canRedo, false);
});

test("restoring the original can be undone", async () => {
  edits.set(1, "a", "x");
  edits.commit();
  await pass(0);
  edits.restoreOriginal();
  await pass(0);
  assert.equal(server.corrections.size, 0);
  edits.undo();
  await pass(0);
  assert.deepEqual([...server.corrections], [[1, "a"]]);
});

test("a server that can't be reached is tried again, more and more slowly", async () => {
  server.failures = [{ status: 0, message: "Gone." }, { status: 503, message: "Busy." }, { status: 429, message: "Slow.", retryAfter: 5 }];
  edits.set(1, "a", "x");
  edits.commit();
  await pass(0);
  assert.equal(edits.state, "retrying");
  assert.equal(edits.isClean, false);
  await pass(1000);
  assert.equal(server.requests.length, 2);
  await pass(1999);
  assert.equal(server.requests.length, 2);
  await pass(1);
  assert.equal(server.requests.length, 3);
  edits.set(1, "ab", "a");
  await pass(5000);
  assert.deepEqual([...server.corrections], [[1, "ab"]]);
  assert.equal(edits.state, "saved");
});

test("a refusal is shown, and the text is kept until it is sent again", async () => {
  server.failures = [{ status: 400, message: "Segment 1 is too long." }];
  edits.set(1, "a", "x");
  edits.commit();
  await pass(0);
  assert.equal(edits.state, "refused");
  assert.equal(edits.message, "Segment 1 is too long.");
  assert.equal(edits.isClean, false);
  await pass(100_000);
  assert.equal(server.requests.length, 1);
  edits.retry();
  await pass(0);
  assert.equal(edits.state, "saved");
});

test("corrections of different segments are merged", async () => {
  server.change([[7, "theirs"]]);
  edits.set(1, "mine", "x");
  edits.commit();
  await pass(0);
  await pass(0);
  assert.deepEqual([...server.corrections], [[7, "theirs"], [1, "mine"]]);
  assert.equal(edits.state, "saved");
  assert.deepEqual(saves, [[2, false]]);
});

for (const [version, text] of [["mine", "mine"], ["theirs", "theirs"]]) {
  test(`two corrections of one segment wait for a decision: ${version}`, async () => {
    server.change([[1, "theirs"]]);
    edits.set(1, "mine", "x");
    edits.commit();
    await pass(0);
    assert.equal(edits.state, "conflict");
    assert.deepEqual(edits.conflicts, [1]);
    assert.equal(edits.theirs.get(1), "theirs");
    assert.equal(edits.isClean, false);
    edits.resolve(version);
    await pass(0);
    assert.equal(edits.state, "saved");
    assert.equal(server.corrections.get(1), text);
  });
}

test("merging knows corrections that were taken back", () => {
  const base = new Map([[1, "a"], [2, "b"], [3, "c"]]);
  const theirs = new Map([[1, "a"], [3, "changed"]]);
  const mine = new Map([[2, "b"], [3, "also"]]);
  const { merged, conflicts } = merge(base, theirs, mine);
  assert.deepEqual([...merged], [[3, "also"]]);
  assert.deepEqual(conflicts, [3]);
});

test("unsaved texts are those that the server doesn't have", async () => {
  edits.set(1, "a", "x");
  edits.commit();
  await pass(0);
  edits.set(2, "b", "y");
  edits.set(1, "x", "a");
  assert.deepEqual([...edits.unsaved()], [[2, "b"], [1, "x"]]);
  await pass(800);
  assert.deepEqual([...edits.unsaved()], []);
});

test("names of speakers are sent with all texts, and texts with all names", async () => {
  edits.set(1, "a", "x");
  edits.name(["A", "C"], "Zoë");
  await pass(0);
  edits.set(2, "b", "y");
  await pass(800);
  assert.deepEqual(server.requests.at(-1), [[1, "a"], ["A", "Zoë"], ["C", "Zoë"], [2, "b"]]);
  assert.deepEqual([...edits.names], [["A", "Zoë"], ["C", "Zoë"]]);
  assert.deepEqual(saves, [[1, false], [2, true]]);
});

test("a name can be undone, and an empty one restores the letter", async () => {
  edits.name(["A"], "Zoë");
  await pass(0);
  edits.undo();
  await pass(0);
  assert.deepEqual([...server.corrections], []);
  edits.redo();
  edits.name(["A"], "");
  await pass(0);
  assert.deepEqual([...server.corrections], []);
  edits.undo();
  await pass(0);
  assert.deepEqual([...server.corrections], [["A", "Zoë"]]);
});

test("a name that is the present one is no change", async () => {
  edits.name(["A"], "A");
  edits.name(["A"], "");
  await pass(0);
  assert.deepEqual([edits.canUndo, server.requests.length], [false, 0]);
});

test("new names are those that the server doesn't have, by those that it has", async () => {
  edits.name(["A"], "Zoë");
  assert.deepEqual([...edits.newNames], [["A", "Zoë"]]);
  await pass(0);
  assert.deepEqual([...edits.newNames], []);
  edits.name(["A", "B"], "Noor");
  assert.deepEqual([...edits.newNames], [["Zoë", "Noor"], ["B", "Noor"]]);
  edits.restoreOriginal();
  assert.deepEqual([...edits.newNames], [["Zoë", "A"]]);
});

test("two names of one speaker wait for a decision, and names of others are merged", async () => {
  server.change([["A", "Theirs"], ["C", "Noor"]]);
  edits.name(["A"], "Mine");
  edits.name(["B"], "Zoë");
  await pass(0);
  assert.deepEqual([edits.state, edits.conflicts], ["conflict", ["A"]]);
  edits.resolve("theirs");
  await pass(0);
  assert.deepEqual(Object.fromEntries(server.corrections), { A: "Theirs", B: "Zoë", C: "Noor" });
});

test("corrections of others are loaded again, unless some are not saved yet", async () => {
  edits.name(["A"], "Zoë");
  await pass(0);
  server.change([["A", "Noor"]]);
  edits.set(1, "a", "x");
  await edits.refresh();
  assert.deepEqual([...edits.names], [["A", "Zoë"]]);
  edits.undo();
  await edits.refresh();
  assert.deepEqual([[...edits.names], edits.canUndo], [[["A", "Noor"]], false]);
  edits.name(["A"], "Ida");
  await pass(0);
  assert.deepEqual([...server.corrections], [["A", "Ida"]]);
});
