// The official Node client's realtime session against a running service:
//     node realtime.mjs https://localhost:8443 sk-test ../../../samples/hello.wav ca.pem
// The client only opens sessions over TLS, here with a certificate of this authority. The file is 16 kHz mono s16.
// Prints one JSON object: the types of all events, the deltas and the final texts.

import fs from "node:fs";

import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const [address, key, file, authority] = process.argv.slice(2);
const TEXTS = 2;

// From 16 to 24 kHz, between the two nearest samples.
function faster(pcm) {
  const samples = new Int16Array(pcm.buffer, pcm.byteOffset, pcm.length / 2);
  const result = new Int16Array(Math.floor(((samples.length - 1) * 3) / 2));
  for (let index = 0; index < result.length; index += 1) {
    const position = (index * 2) / 3;
    const before = Math.floor(position);
    result[index] = samples[before] + (position - before) * (samples[before + 1] - samples[before]);
  }
  return Buffer.from(result.buffer);
}

const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: key });
const session = new OpenAIRealtimeWS({ intent: "transcription", options: { ca: fs.readFileSync(authority) } }, client);
const types = [];
const deltas = [];
const texts = [];

session.on("event", (event) => types.push(event.type));
session.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
session.on("session.updated", () => {
  const audio = faster(Buffer.concat([fs.readFileSync(file).subarray(44), Buffer.alloc(32000)]));
  for (let start = 0; start < audio.length; start += 4800) {
    session.send({ type: "input_audio_buffer.append", audio: audio.subarray(start, start + 4800).toString("base64") });
  }
});
session.on("conversation.item.input_audio_transcription.delta", (event) => deltas.push(event.delta));
session.on("conversation.item.input_audio_transcription.completed", (event) => {
  texts.push(event.transcript);
  if (texts.length < TEXTS) return;
  session.close();
  console.log(JSON.stringify({ types, deltas, texts }));
});
session.socket.on("open", () =>
  session.send({
    type: "session.update",
    session: { type: "transcription", audio: { input: { turn_detection: { type: "server_vad" } } } },
  }),
);
