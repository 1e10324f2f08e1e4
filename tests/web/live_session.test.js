import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiError } from "../../app/web/assets/js/api.js";
import { LiveSession, configuration, refusal } from "../../app/web/assets/js/live/session.js";

const TRANSCRIPTION = "conversation.item.input_audio_transcription";

/** The server's end of a WebSocket. */
class Server extends EventTarget {
  bufferedAmount = 0;
  isClosed = false;
  /** @type {any[]} */
  received = [];

  /** @param {string} text */
  send(text) {
    this.received.push(JSON.parse(text));
  }

  close() {
    if (this.isClosed) return;
    this.isClosed = true;
    this.dispatchEvent(new Event("close"));
  }

  /** @param {string} type */
  say(type, members = {}) {
    this.dispatchEvent(new MessageEvent("message", { data: JSON.stringify({ type, ...members }) }));
  }

  /** @param {string} code */
  endWith(code) {
    this.say("error", { error: { code, message: `The reason is ${code}.`, event_id: null } });
    this.close();
  }

  get types() {
    return this.received.map(({ type }) => type.replace(/^(session|input_audio_buffer)\./, ""));
  }
}

/** A session with what it reports. `servers` are those of its connections. */
function open({ refusal = async () => "It was refused.", connect = /** @type {any} */ (null) } = {}) {
  const servers = /** @type {Server[]} */ ([]);
  const log = /** @type {string[]} */ ([]);
  const accept = async () => servers[servers.push(new Server()) - 1];
  const session = new LiveSession({
    connect: connect ?? accept,
    refusal,
    config: { type: "transcription" },
    onText: (id, text, isFinal) => log.push(`${id}${isFinal ? "!" : ""} ${text}`),
    onLeftOut: () => log.push("left out"),
    onEnd: (reason) => log.push(`end ${reason}`),
  });
  return { session, servers, log };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

/** Return a session that has begun, and its server. */
async function begun() {
  const opened = open();
  opened.session.append("AAAA");
  await settled();
  const server = /** @type {Server} */ (opened.servers[0]);
  server.say("session.created");
  server.say("session.updated");
  return { ...opened, server };
}

test("options become the configuration, and absent ones are left out", () => {
  /** @type {[string, string][]} */
  const fields = [["language", "de"], ["model", "base"], ["prompt", "Grüneberg"], ["keywords[]", "a"], ["keywords[]", "b"], ["word_timestamps", "true"]];
  const transcription = { language: "de", model: "base", prompt: "Grüneberg", keywords: ["a", "b"] };
  const parsed = (/** @type {object} */ value) => JSON.parse(JSON.stringify(value));
  assert.deepEqual(parsed(configuration(fields)), { type: "transcription", audio: { input: { transcription } } });
  assert.deepEqual(parsed(configuration([])), { type: "transcription", audio: { input: { transcription: {} } } });
});

test("what is said before the session begins is sent after its configuration", async () => {
  const { session, servers } = open();
  session.append("one");
  session.append("two");
  await settled();
  assert.equal(servers.length, 1);
  const server = /** @type {Server} */ (servers[0]);
  assert.deepEqual(server.types, []);
  server.say("session.created");
  session.append("three");
  assert.deepEqual(server.types, ["update", "append", "append", "append"]);
  assert.deepEqual(server.received.slice(1).map(({ audio }) => audio), ["one", "two", "three"]);
});

test("deltas are added up, and the final text takes their place", async () => {
  const { server, log } = await begun();
  server.say(`${TRANSCRIPTION}.delta`, { item_id: "a", delta: " hello" });
  server.say(`${TRANSCRIPTION}.delta`, { item_id: "a", delta: " there" });
  server.say(`${TRANSCRIPTION}.completed`, { item_id: "a", transcript: "Hello there." });
  server.say(`${TRANSCRIPTION}.delta`, { item_id: "b", delta: " and" });
  server.say(`${TRANSCRIPTION}.failed`, { item_id: "b", error: { message: "It failed." } });
  assert.deepEqual(log, ["a hello", "a hello there", "a! Hello there.", "b and", "b! and"]);
});

test("the end waits for the text of what was committed", async () => {
  const { session, server, log } = await begun();
  server.say("input_audio_buffer.committed", { item_id: "a" });
  session.finish();
  session.append("ignored");
  assert.deepEqual(server.types, ["update", "append", "commit", "update"]);
  server.say(`${TRANSCRIPTION}.completed`, { item_id: "a", transcript: "One." });
  server.say("input_audio_buffer.committed", { item_id: "b" });
  server.say("session.updated");
  assert.equal(server.isClosed, false);
  server.say(`${TRANSCRIPTION}.completed`, { item_id: "b", transcript: "Two." });
  assert.equal(server.isClosed, true);
  assert.deepEqual(log, ["a! One.", "b! Two.", "end "]);
});

test("the end does not wait if nothing was committed", async () => {
  const { session, server, log } = await begun();
  session.finish();
  server.say("error", { error: { code: "input_audio_buffer_commit_empty", message: "It is empty.", event_id: "commit" } });
  server.say("session.updated");
  assert.equal(server.isClosed, true);
  assert.deepEqual(log, ["end "]);
});

test("a recording that is stopped while the session opens gets its text", async () => {
  const { session, servers, log } = open();
  session.append("AAAA");
  session.finish();
  await settled();
  const server = /** @type {Server} */ (servers[0]);
  server.say("session.created");
  assert.deepEqual(server.types, ["update", "append", "commit", "update"]);
  server.say("session.updated");
  server.say("input_audio_buffer.committed", { item_id: "a" });
  server.say("session.updated");
  server.say(`${TRANSCRIPTION}.completed`, { item_id: "a", transcript: "One." });
  assert.deepEqual(log, ["a! One.", "end "]);
});

test("audio is left out while the connection is too slow, which is said once", async () => {
  const { session, server, log } = await begun();
  server.bufferedAmount = 600_000;
  session.append("one");
  session.append("two");
  server.bufferedAmount = 0;
  session.append("three");
  assert.deepEqual(server.received.slice(2).map(({ audio }) => audio), ["three"]);
  assert.deepEqual(log, ["left out"]);
});

test("audio is left out while the session takes too long to begin", async () => {
  const { session, servers, log } = open();
  for (let i = 0; i < 1000; i++) session.append("A".repeat(6400));
  await settled();
  const server = /** @type {Server} */ (servers[0]);
  server.say("session.created");
  assert.ok(server.received.length < 100);
  assert.deepEqual(log, ["left out"]);
});

test("a session that does not begin ends with the reason", async () => {
  const { session, servers, log } = open();
  session.append("AAAA");
  await settled();
  servers[0]?.close();
  await settled();
  session.append("AAAA");
  assert.equal(servers.length, 1);
  assert.deepEqual(log, ["end It was refused."]);
});

test("a secret that is refused ends the session with the server's sentence", async () => {
  const { session, log } = open({ connect: () => Promise.reject(new ApiError(429, "Too many.", { code: "insufficient_quota" })) });
  session.append("AAAA");
  await settled();
  assert.deepEqual(log, ["end Too many."]);
});

test("a browser without WebSockets is named", async () => {
  const { session, log } = open({ connect: () => Promise.reject(new TypeError("WebSocket is not a constructor")) });
  session.append("AAAA");
  await settled();
  assert.deepEqual(log, ["end This browser can't open a WebSocket."]);
});

test("a connection that breaks ends the session", async () => {
  const { server, log } = await begun();
  server.close();
  assert.deepEqual(log, ["end The connection was lost."]);
});

for (const [code, reason] of [
  ["draining", "The server is shutting down."],
  ["too_fast", "The server is too busy."],
  ["insufficient_quota", "The reason is insufficient_quota."],
])
  test(`a session that ends with ${code} says so in words for people`, async () => {
    const { server, log } = await begun();
    server.endWith(/** @type {string} */ (code));
    assert.deepEqual(log, [`end ${reason}`]);
  });

test("an error that answers a commit is not the reason of an end", async () => {
  const { session, server, log } = await begun();
  session.commit();
  server.say("error", { error: { code: "input_audio_buffer_commit_empty", message: "It is empty.", event_id: "commit" } });
  server.close();
  assert.deepEqual(log, ["end The connection was lost."]);
});

for (const code of ["session_expired", "session_idle"])
  test(`after ${code} further audio opens another session`, async () => {
    const { session, servers, server, log } = await begun();
    server.endWith(code);
    assert.equal(servers.length, 1);
    session.append("BBBB");
    await settled();
    assert.equal(servers.length, 2);
    servers[1]?.say("session.created");
    assert.deepEqual(servers[1]?.types, ["update", "append"]);
    assert.deepEqual(log, []);
  });

test("a text that is unfinished when its session ends stays as it is", async () => {
  for (const code of ["session_expired", "draining"]) {
    const { server, log } = await begun();
    server.say(`${TRANSCRIPTION}.delta`, { item_id: "a", delta: "and then" });
    server.endWith(code);
    assert.deepEqual(log.slice(0, 2), ["a and then", "a! and then"]);
  }
});

test("a rejected configuration ends the session", async () => {
  const { server, log } = await begun();
  server.say("error", { error: { code: "invalid_value", message: "The prompt is too long.", event_id: "update" } });
  assert.equal(server.isClosed, true);
  assert.deepEqual(log, ["end The prompt is too long."]);
});

test("a discarded recording closes its session, also while that opens", async () => {
  const { session, servers, log } = open();
  session.append("AAAA");
  session.end();
  await settled();
  assert.equal(servers[0]?.isClosed, true);
  assert.deepEqual(log, ["end "]);
});

test("why a session is refused is found out with a request for a secret", async () => {
  const api = (/** @type {() => Promise<any>} */ json) => /** @type {any} */ ({ key: "", json });
  const refuse = async () => Promise.reject(new ApiError(401, "…", { code: "invalid_api_key" }));
  assert.match(await refusal(api(refuse), "healthy"), /^The API key is missing or wrong/);
  assert.equal(await refusal(api(refuse), "loading"), "The server still loads its model.");
  assert.match(await refusal(api(async () => ({ value: "ek_1" })), "healthy"), /as many live transcriptions as it allows/);
});
