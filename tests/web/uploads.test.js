import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { ApiError } from "../../app/web/assets/js/api.js";
import { UploadQueue } from "../../app/web/assets/js/home/uploads.js";
import { Store } from "../../app/web/assets/js/store.js";

/**
 * A server whose responses the test decides.
 *
 * @param {(path: string) => Promise<any>} [json]
 */
function fakeServer(json = async (path) => ({ job_id: path.split("/").pop() })) {
  /** @type {{key: string, progress: (share: number) => void, accept: (id: string) => void, refuse: (error: Error) => void}[]} */
  const requests = [];
  const api = {
    upload: (/** @type {string} */ _path, /** @type {FormData} */ _form, /** @type {any} */ { idempotencyKey, onProgress }) =>
      new Promise((resolve, refuse) =>
        requests.push({ key: idempotencyKey, progress: onProgress, accept: (job_id) => resolve({ job_id }), refuse }),
      ),
    json,
  };
  return { requests, uploads: new UploadQueue(api, new Store()) };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));
const recording = (name = "a") => ({ name, path: "v1/audio/transcriptions", fields: [] });

test("two recordings are sent at a time", async () => {
  const { requests, uploads } = fakeServer();
  const jobs = ["a", "b", "c"].map((name) => uploads.add(recording(name)));
  assert.equal(requests.length, 2);
  requests[0]?.accept("job-a");
  assert.equal(await jobs[0], "job-a");
  assert.equal(requests.length, 3);
  assert.deepEqual(uploads.uploads.map((upload) => upload.recording.name), ["b", "c"]);
});

test("a recording that has arrived is not sent again when its job can't be fetched", async () => {
  const { requests, uploads } = fakeServer(() => Promise.reject(new ApiError(429, "Too many requests.")));
  const job = uploads.add(recording());
  requests[0]?.accept("job-a");
  assert.equal(await job, "job-a");
  assert.deepEqual(uploads.uploads, []);
});

test("a retry has the same idempotency key", async () => {
  const { requests, uploads } = fakeServer();
  uploads.add(recording());
  requests[0]?.refuse(new ApiError(507, "Not enough disk space."));
  await settled();
  const [upload] = uploads.uploads;
  assert.ok(upload);
  assert.deepEqual([upload.state, upload.problem], ["failed", "Not enough disk space."]);
  uploads.retry(upload);
  assert.equal(requests[1]?.key, requests[0]?.key);
});

test("a busy server is asked again when it says", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { requests, uploads } = fakeServer();
  for (const name of ["a", "b", "c"]) uploads.add(recording(name));
  requests[0]?.progress(1);
  requests[0]?.refuse(new ApiError(429, "The queue is full.", { retryAfter: 20 }));
  await settled();
  assert.deepEqual([uploads.uploads[0]?.problem, uploads.uploads[0]?.share], ["The queue is full.", 0]);
  assert.equal(requests.length, 2, "nothing else is sent meanwhile");
  context.mock.timers.tick(19_999);
  assert.equal(requests.length, 2);
  context.mock.timers.tick(1);
  assert.equal(requests.length, 3);
  assert.equal(requests[2]?.key, requests[0]?.key);
});

test("a cancelled upload makes room for the next", async () => {
  const { requests, uploads } = fakeServer();
  const jobs = ["a", "b", "c"].map((name) => uploads.add(recording(name)));
  const [first] = uploads.uploads;
  assert.ok(first);
  uploads.cancel(first);
  assert.equal(await jobs[0], null);
  assert.equal(requests.length, 3);
});

test("progress is reported", () => {
  const { requests, uploads } = fakeServer();
  const listener = mock.fn();
  uploads.add(recording());
  uploads.onChange(listener);
  requests[0]?.progress(0.5);
  assert.equal(uploads.uploads[0]?.share, 0.5);
  assert.equal(listener.mock.callCount(), 1);
});

test("what was interrupted is sent again, what was refused is not", async () => {
  const { requests, uploads } = fakeServer();
  for (const name of ["a", "b"]) uploads.add(recording(name));
  requests[0]?.refuse(new ApiError(0, "The connection was lost."));
  requests[1]?.refuse(new ApiError(413, "The file is too large."));
  await settled();
  uploads.resume();
  assert.deepEqual(requests.map((request) => request.key), [requests[0]?.key, requests[1]?.key, requests[0]?.key]);
});
