// The official Node client against a running service:
//     node openai.mjs http://127.0.0.1:8000 sk-test ../../../samples [group ...]
// Prints one JSON object: the name of each group, and of each case in it, with what came out.

import fs from "node:fs";
import path from "node:path";

import OpenAI, { toFile, toStreamingFile } from "openai";

const [address, key, samples, ...chosen] = process.argv.slice(2);
const MODEL = "whisper-1";

let requests = 0;

function counting(url, init) {
  // The client also opens a data: URL, to see what the function can do.
  if (String(url).startsWith("http")) requests += 1;
  return fetch(url, init);
}

// As anybody makes one: its two retries are left on.
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: key, fetch: counting });
const { transcriptions, translations } = client.audio;

const sample = (name) => path.join(samples, name);
const opened = (name) => fs.createReadStream(sample(name));
const bytes = (name) => fs.readFileSync(sample(name));
const transcribed = (fields, name = "hello.wav") =>
  transcriptions.create({ model: MODEL, file: opened(name), ...fields });
const translated = (fields) => translations.create({ model: MODEL, file: opened("hello.wav"), ...fields });

async function events(fields, name) {
  const found = [];
  for await (const event of await transcribed({ stream: true, ...fields }, name)) found.push(event);
  return found;
}

// What the client throws, and after how many requests.
async function refused(call) {
  const before = requests;
  try {
    await call();
  } catch (error) {
    const { status, code, param, type, message } = error;
    return { class: error.constructor.name, status, code, param, type, message, requests: requests - before };
  }
  return { class: null };
}

const own = (resource) => Object.getOwnPropertyNames(Object.getPrototypeOf(resource)).sort();

const GROUPS = {
  methods: {
    transcriptions: () => own(transcriptions),
    translations: () => own(translations),
    models: () => own(client.models),
  },
  models: {
    list: async () => (await client.models.list()).data,
    pages: async () => {
      const ids = [];
      for await (const model of client.models.list()) ids.push(model.id);
      return ids;
    },
    alias: () => client.models.retrieve(MODEL),
    served: () => client.models.retrieve("demo"),
  },
  formats: {
    default: () => transcribed({}),
    json: () => transcribed({ response_format: "json" }, "numbers.mp3"),
    text: () => transcribed({ response_format: "text" }),
    srt: () => transcribed({ response_format: "srt" }),
    vtt: () => transcribed({ response_format: "vtt" }),
    verbose_json: () => transcribed({ response_format: "verbose_json", language: "en", temperature: 0 }),
  },
  granularities: {
    segment: () => transcribed({ response_format: "verbose_json", timestamp_granularities: ["segment"] }),
    word: () => transcribed({ response_format: "verbose_json", timestamp_granularities: ["word"] }),
    both: () => transcribed({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"] }),
  },
  translations: {
    default: () => translated({}),
    json: () => translated({ response_format: "json", prompt: "a test", temperature: 0 }),
    text: () => translated({ response_format: "text" }),
    srt: () => translated({ response_format: "srt" }),
    vtt: () => translated({ response_format: "vtt" }),
    verbose_json: () => translated({ response_format: "verbose_json" }),
  },
  files: {
    read_stream: () => transcribed({ file: opened("hello.wav") }),
    file: () => transcribed({ file: new File([bytes("hello.wav")], "hello.wav", { type: "audio/wav" }) }),
    to_file: async () => transcribed({ file: await toFile(bytes("hello.wav"), "hello.wav") }),
    to_file_without_a_name: async () => transcribed({ file: await toFile(bytes("hello.wav")) }),
    response: () => transcribed({ file: new Response(bytes("hello.wav")) }),
    streaming_file: () => transcribed({ file: toStreamingFile(opened("hello.wav"), "hello.wav") }),
  },
  speakers: {
    diarized_json: () =>
      transcribed({ response_format: "diarized_json", multichannel: true }, "two_speakers_stereo.flac"),
    streamed: () => events({ response_format: "diarized_json", multichannel: true }, "two_speakers_stereo.flac"),
    verbose_json: () =>
      transcribed({ response_format: "verbose_json", multichannel: true }, "two_speakers_stereo.flac"),
  },
  streams: {
    hello: () => events({}),
    numbers: () => events({}, "numbers.mp3"),
    text: () => events({ response_format: "text" }),
  },
  left_stream: {
    // What is left in the middle must not be in the way of the next one.
    left: async () => {
      for await (const event of await transcribed({ stream: true }, "two_speakers_stereo.flac")) return event.type;
    },
    after: () => transcribed({}),
  },
  logprobs: {
    json: () => transcribed({ include: ["logprobs"] }),
    without: () => transcribed({}),
    streamed: () => events({ include: ["logprobs"] }),
  },
  chunking: {
    auto: () => transcribed({ chunking_strategy: "auto" }),
    object: () =>
      transcribed({
        chunking_strategy: { type: "server_vad", threshold: 0.5, prefix_padding_ms: 300, silence_duration_ms: 600 },
      }),
    type_alone: () => transcribed({ chunking_strategy: { type: "server_vad" } }),
    wrong_threshold: () =>
      refused(() => transcribed({ chunking_strategy: { type: "server_vad", threshold: 2 } })),
  },
  fields: {
    keywords: () => transcribed({ keywords: ["hello", "job"], prompt: "hello" }),
    metadata: () => transcribed({ metadata: { ticket: "42" } }),
  },
  ignored_fields: {
    speaker_names: () => transcribed({ known_speaker_names: ["agent", "caller"] }),
  },
  jobs: {
    // Ours: the client's way to whatever OpenAI doesn't have.
    followed: async () => {
      const { data, response } = await transcribed({ stored_output: true }).withResponse();
      const states = [];
      const stream = await client.get(`/jobs/${data.job_id}/events`, { stream: true });
      for await (const job of stream) states.push(job);
      return {
        accepted: data,
        location: response.headers.get("location"),
        last: states.at(-1),
        result: await client.get(`/jobs/${data.job_id}/result`),
      };
    },
  },
  errors: {
    temperature: () => refused(() => transcribed({ temperature: 7 })),
    translation: () => refused(() => translated({ temperature: 7 })),
    streamed: () => refused(() => events({ temperature: 7 })),
    model: () => refused(() => transcribed({ model: "large-v9" })),
    retrieved_model: () => refused(() => client.models.retrieve("openai/whisper-large-v3")),
    deleted_model: () => refused(() => client.models.delete("demo")),
    job: () => refused(() => client.get("/jobs/3fa85f64-5717-4562-b3fc-2c963f66afa6")),
    format: () => refused(() => transcribed({ response_format: "docx" })),
    speakers: () => refused(() => transcribed({ response_format: "diarized_json", known_speaker_names: ["agent"] })),
    empty: () => refused(() => transcribed({ file: new File([], "empty.wav") })),
    noise: async () =>
      refused(async () => transcribed({ file: await toFile(Buffer.from("These are no frames.\n"), "song.mp3") })),
    key: () => refused(() => client.withOptions({ apiKey: "wrong" }).models.list()),
    key_with_a_file: () =>
      refused(() =>
        client
          .withOptions({ apiKey: "wrong" })
          .audio.transcriptions.create({ model: MODEL, file: opened("hello.wav") }),
      ),
  },
};

const results = {};
for (const group of chosen.length ? chosen : Object.keys(GROUPS)) {
  results[group] = {};
  for (const [name, run] of Object.entries(GROUPS[group])) {
    try {
      results[group][name] = await run();
    } catch (error) {
      results[group][name] = { failed: `${error.constructor.name}: ${error.message}` };
    }
  }
}
console.log(JSON.stringify(results));
