import assert from "node:assert/strict";
import { test } from "node:test";
import { Api, ApiError, sentence } from "../../app/web/assets/js/api.js";
import { EventStream, Store } from "../../app/web/assets/js/store.js";

const settled = () => new Promise((resolve) => setTimeout(resolve, 0));
const job = (/** @type {string} */ id, percent = 0) => ({ job_id: id, start_time: 1, status: "processing", progress_percent: percent });

/** A server with one list of jobs, whose stream the test writes. */
function fakeServer() {
  const state = { jobs: /** @type {any[]} */ ([]), lists: /** @type {(() => void)[]} */ ([]), cursors: /** @type {any[]} */ ([]) };
  /** @type {ReadableStreamDefaultController<Uint8Array>} */
  let stream;
  const api = {
    request: async (/** @type {string} */ _path, /** @type {any} */ { headers, signal }) => {
      state.cursors.push(headers["Last-Event-ID"]);
      const body = new ReadableStream({ start: (controller) => (stream = controller) });
      signal.addEventListener("abort", () => stream.error(signal.reason));
      return { body };
    },
    json: () =>
      new Promise((resolve) => {
        const jobs = Object.fromEntries(state.jobs.map((each) => [each.job_id, each]));
        state.lists.push(() => resolve({ total_jobs: state.jobs.length, jobs }));
      }),
  };
  const store = new Store();
  const events = new EventStream(/** @type {any} */ (api), store);
  const send = async (/** @type {string} */ type, /** @type {object} */ data, id = "boot-1") => {
    stream.enqueue(new TextEncoder().encode(`event: ${type}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`));
    await settled();
  };
  return { state, store, events, send, end: () => stream.close() };
}

test("jobs are listed after the hello, and later events win over the list", async () => {
  const { state, store, events, send } = fakeServer();
  state.jobs = [job("a"), job("b")];
  events.open();
  await settled();
  await send("hello", { cursor: "boot-1" });
  await send("job", job("a", 50), "boot-2");
  await send("removed", { job_id: "b" }, "boot-3");
  state.lists[0]?.();
  await settled();
  assert.deepEqual([...store.jobs.values()].map((each) => [each.job_id, each.progress_percent]), [["a", 50]]);
  assert.equal(store.isConnected, true);
  events.close();
});

test("a stream that is opened again continues, and a reset lists again", async () => {
  const { state, store, events, send } = fakeServer();
  state.jobs = [job("a")];
  events.open();
  await settled();
  await send("hello", { cursor: "boot-1" });
  state.lists[0]?.();
  events.close();
  await settled();
  events.open();
  await settled();
  assert.deepEqual(state.cursors, [undefined, "boot-1"]);
  await send("hello", { cursor: "boot-1" });
  assert.equal(state.lists.length, 1);
  state.jobs = [job("b")];
  await send("reset", { cursor: "other-1" }, "other-1");
  state.lists[1]?.();
  await settled();
  assert.deepEqual([...store.jobs.keys()], ["b"]);
  events.close();
});

test("listeners are called once in each task for all changes of jobs, and that of one job with its own", async () => {
  const store = new Store();
  const changes = /** @type {string[][]} */ ([]);
  const seen = /** @type {(number | null)[]} */ ([]);
  const control = new AbortController();
  store.on("jobs", (ids) => changes.push([...ids]));
  store.onJob("a", (changed) => seen.push(changed?.progress_percent ?? null), control.signal);
  store.putJobs(/** @type {any} */ ([job("a", 1), job("b")]));
  store.putJobs(/** @type {any} */ ([job("a", 2)]));
  await settled();
  store.removeJob("a");
  await settled();
  control.abort();
  store.putJobs(/** @type {any} */ ([job("a", 3)]));
  await settled();
  assert.deepEqual(changes, [["a", "b"], ["a"], ["a"]]);
  assert.deepEqual(seen, [2, null]);
});

test("an error is the server's sentence, and a refused key is reported", async (context) => {
  const body = { error: { message: "Incorrect API key.", code: "invalid_api_key", param: null } };
  const fetched = context.mock.method(globalThis, "fetch", async () => Response.json(body, { status: 401, headers: { "Retry-After": "7" } }));
  const storage = { getItem: () => "sk-1", setItem: () => {}, removeItem: () => {} };
  const api = new Api("http://a.example/prefix/?x#/jobs/1", storage);
  const refusals = /** @type {string[]} */ ([]);
  api.onUnauthorized = (message) => refusals.push(message);
  const error = await api.json("/v1/jobs").catch((/** @type {unknown} */ reason) => reason);
  assert.ok(error instanceof ApiError);
  assert.deepEqual([error.status, error.message, error.retryAfter, error.param], [401, "Incorrect API key.", 7, undefined]);
  assert.deepEqual(refusals, [sentence(error)]);
  assert.match(sentence(error), /^The API key is missing or wrong: .*whoever runs this server/);
  const [url, init] = /** @type {any} */ (fetched.mock.calls[0]).arguments;
  assert.equal(url, "http://a.example/prefix/v1/jobs");
  assert.equal(init.headers.Authorization, "Bearer sk-1");
  await assert.rejects(api.request("v1/jobs", { key: "sk-2" }));
  assert.equal(refusals.length, 1);
});

test("a refused stream is opened again after the time that the server asks for, and never before", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  let requests = 0;
  const request = async () => {
    requests += 1;
    throw new ApiError(429, "Too many requests.", { retryAfter: 60 });
  };
  const events = new EventStream(/** @type {any} */ ({ request }), new Store());
  events.open();
  await turn();
  context.mock.timers.tick(59_000);
  await turn();
  assert.equal(requests, 1);
  context.mock.timers.tick(17_000);
  await turn();
  assert.equal(requests, 2);
  events.close();
});

test("a reset is reported, because the server may be another one", async () => {
  const { events, send } = fakeServer();
  let resets = 0;
  events.onReset = () => (resets += 1);
  events.open();
  await settled();
  await send("hello", { cursor: "boot-1" });
  assert.equal(resets, 0);
  await send("reset", { cursor: "other-1" }, "other-1");
  assert.equal(resets, 1);
  events.close();
});

test("a description of the server is a change only if it is another one", () => {
  const store = new Store();
  let changes = 0;
  store.on("server", () => (changes += 1));
  for (const version of ["1", "1", "2"]) store.setServer(/** @type {any} */ ({ version }));
  assert.equal(changes, 2);
});
