import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiError, EventParser, sentence } from "../../app/web/assets/js/api.js";

/** @param {string[]} pieces */
const parse = (...pieces) => {
  const parser = new EventParser();
  return pieces.flatMap((piece) => parser.push(piece));
};

test("an event has its type, data and id", () => {
  assert.deepEqual(parse('event: job\nid: boot-7\ndata: {"a": 1}\n\n'), [{ type: "job", data: '{"a": 1}', id: "boot-7" }]);
});

test("an event may be split anywhere", () => {
  const text = "event: job\r\nid: 1\r\ndata: first\r\ndata: second\r\n\r\ndata: last\r\n\r\n";
  const whole = parse(text);
  assert.deepEqual(whole.map((event) => event.data), ["first\nsecond", "last"]);
  assert.deepEqual(parse(...text), whole);
});

test("a carriage return alone ends a line", () => {
  assert.deepEqual(parse("data: a\r\rdata: b\r\rx"), [
    { type: "message", data: "a", id: "" },
    { type: "message", data: "b", id: "" },
  ]);
});

test("comments and unfinished events are no events", () => {
  assert.deepEqual(parse(": keep-alive\n\n", "data: unfinished\n"), []);
});

test("the id stays until there is another one", () => {
  assert.deepEqual(parse("id: 1\ndata: a\n\ndata: b\n\n").map((event) => event.id), ["1", "1"]);
});

test("one space after the colon is not part of the value", () => {
  assert.equal(parse("data:  a\n\n")[0]?.data, " a");
  assert.equal(parse("data:a:b\n\n")[0]?.data, "a:b");
  assert.equal(parse("data\n\n")[0]?.data, "");
});

test("errors that are for programs have sentences for people", () => {
  const limited = new ApiError(429, "Too many requests: RATE_LIMIT allows 6/hour.", { code: "rate_limit_exceeded", retryAfter: 40 });
  assert.equal(sentence(limited), "Too many requests: RATE_LIMIT allows 6/hour. Wait 40 s, then try again.");
  assert.equal(sentence(new ApiError(404, "There is no job 7.", { code: "job_not_found" })), "There is no job 7.");
  assert.equal(sentence(new TypeError("Not a number.")), "Not a number.");
});
