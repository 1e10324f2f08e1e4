/** The start view: recordings are chosen, named and sent. */
import { announce, h, icon, iconButton, isTyping, replace, setText, styled, toast } from "../dom.js";
import { duration, size } from "../format.js";
import { formFields, optionsForm, routeOf } from "./options.js";

/**
 * @typedef {import("../main.js").Context} Context
 * @typedef {import("./uploads.js").Staged} Staged
 */

const DECORATION_BARS = 21;

/**
 * @param {Context} context
 * @returns {import("../main.js").View}
 */
export function openHome(context) {
  const { store, staging } = context;
  const control = new AbortController();
  const { element: options, options: chosen } = optionsForm(localStorage, store, control.signal);
  const dropZone = openDropZone(context, chosen, control.signal);
  const choose = /** @type {HTMLElement} */ (dropZone.querySelector(".choose"));
  const tray = new Tray(context, () => sendStaged(context, chosen, control.signal));
  const draw = () => {
    const focused = document.activeElement;
    dropZone.classList.toggle("slim", staging.items.length > 0);
    const hasMore = tray.update();
    const isLost = focused !== null && (!focused.isConnected || (tray.footer.hidden && tray.footer.contains(focused)));
    if (isLost || (hasMore && !isTyping(focused))) (staging.items.length ? tray.button : choose).focus();
  };
  staging.onChange = draw;
  store.on("server", draw, control.signal);
  draw();
  return {
    element: h(
      "div.home",
      {},
      h("h1", {}, "Turn speech into text"),
      h("p.subtitle", {}, "Text and subtitles of audio and video. Your recordings stay on this server."),
      dropZone,
      tray.element,
      options,
      tray.footer,
    ),
    close: () => {
      control.abort();
      if (staging.onChange === draw) staging.onChange = () => {}; // the next view may be open already
    },
  };
}

/**
 * @param {Context} context
 * @param {import("./options.js").Options} options
 * @param {AbortSignal} signal
 */
function openDropZone(context, options, signal) {
  const { store, staging } = context;
  const picker = h("input", { type: "file", multiple: true, hidden: true, accept: "audio/*,video/*,.amr,.caf,.flv,.gsm,.mkv,.opus,.sph,.voc,.wma" });
  picker.addEventListener("change", () => {
    staging.addFiles([...(picker.files ?? [])]);
    picker.value = "";
  });
  const link = h("input", { type: "text", inputmode: "url", placeholder: "…or paste a link to audio or video", "aria-label": "Link to audio or video" });
  const addLink = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    if (staging.addLink(link.value)) link.value = "";
    else if (link.value.trim()) toast("A link begins with https:// and has no spaces.", { isError: true });
  };
  const limits = h("p.hint");
  const drawLimits = () => replace(limits, `One file or many, in nearly any format${limitsPhrase(store.server)}.`);
  store.on("server", drawLimits, signal);
  drawLimits();
  const zone = h(
    "section.drop",
    { "aria-label": "Choose recordings" },
    decoration(),
    h("h2", {}, "Drop audio or video here"),
    limits,
    h(
      "div.row",
      {},
      h("button.button.large.primary.choose", { type: "button", onclick: () => picker.click() }, icon("upload", 22), "Choose files"),
      h("button.button.large", { type: "button", onclick: () => record(context, options) }, icon("microphone", 22), "Record"),
    ),
    h("form.link", { onsubmit: addLink }, icon("link", 18), link, h("button.text-button", { type: "submit" }, "Add")),
    picker,
  );
  zone.addEventListener("click", (event) => {
    if (event.target instanceof Element && !event.target.closest("button, form, input")) picker.click();
  });
  return zone;
}

/** @param {import("../store.js").ServerDescription | null} server */
function limitsPhrase(server) {
  return server ? `, up to ${duration(server.max_audio_seconds)} and ${size(server.max_upload_bytes)} each` : "";
}

function decoration() {
  const heights = Array.from({ length: DECORATION_BARS }, (_, index) => 18 + 62 * Math.abs(Math.sin(index * 1.7) * Math.cos(index * 0.6)));
  return h(
    "div.decoration",
    { "aria-hidden": true },
    heights.map((height, index) => styled(h("i"), { "--height": `${height}%`, "--index": index })),
  );
}

/**
 * Record, and show the text of what is said, in its own language.
 *
 * @param {Context} context
 * @param {import("./options.js").Options} options
 */
async function record(context, options) {
  const { openRecorder } = await import("./record.js");
  const fields = formFields({ ...options, task: "transcribe" }, context.store.server, { name: "" });
  const recorded = await openRecorder(context, fields);
  if (recorded) context.staging.addRecording(recorded.file, recorded.text);
}

/** What was chosen, with names that can be edited, and the button that sends it, which stands below the options. */
class Tray {
  #context;
  #rows = /** @type {Map<Staged, HTMLLIElement>} */ (new Map());
  #list = h("ul");

  /**
   * @param {Context} context
   * @param {() => void} send
   */
  constructor(context, send) {
    this.#context = context;
    const submit = (/** @type {SubmitEvent} */ event) => {
      event.preventDefault(); // Enter in a name arrives here too
      send();
    };
    this.element = h("section.tray", { "aria-label": "Recordings to transcribe" }, h("form", { id: "tray", onsubmit: submit }, this.#list));
    this.button = h("button.button.large.primary", { type: "submit", form: "tray" });
    this.footer = h("div.row.end.send", {}, this.button);
  }

  /** Show what was chosen since, and return true if there is more of it. Names that are being edited stay. */
  update() {
    const { staging, store } = this.#context;
    const { items } = staging;
    const added = items.filter((item) => !this.#rows.has(item));
    for (const [item, row] of this.#rows) {
      if (items.includes(item)) continue;
      row.remove();
      this.#rows.delete(item);
    }
    for (const item of added) {
      const row = stagedRow(item, staging);
      this.#rows.set(item, row);
      this.#list.append(row);
    }
    for (const [item, row] of this.#rows) showProblem(row, item, store.server);
    const count = items.filter((item) => !problemOf(item, store.server)).length;
    this.element.hidden = this.footer.hidden = !items.length;
    this.button.disabled = !count;
    setText(this.button, items.length === 1 ? "Transcribe" : `Transcribe ${count} ${count === 1 ? "recording" : "recordings"}`);
    return added.length > 0;
  }
}

/**
 * @param {Staged} item
 * @param {import("./uploads.js").Staging} staging
 */
function stagedRow(item, staging) {
  const id = `problem-${item.id}`;
  const name = h("input.name", {
    ...{ value: item.name, "aria-label": "Name", maxlength: 255, dir: "auto", "aria-describedby": id },
    oninput: () => (item.name = name.value),
  });
  return h(
    "li",
    {},
    icon(item.url ? "link" : "file"),
    name,
    h("small", { id }),
    iconButton("close", `Remove ${item.name}`, { onclick: () => staging.remove(item) }),
    item.text,
  );
}

/**
 * @param {HTMLElement} row
 * @param {Staged} item
 * @param {import("../store.js").ServerDescription | null} server
 */
function showProblem(row, item, server) {
  const text = /** @type {HTMLElement} */ (row.querySelector("small"));
  const problem = problemOf(item, server);
  text.classList.toggle("problem", problem !== "");
  setText(text, problem || (item.file ? size(item.file.size) : ""));
}

/**
 * Return why a recording can't be sent, or "". A server sees that a file is too large only after receiving all of it.
 *
 * @param {Staged} item
 * @param {import("../store.js").ServerDescription | null} server
 */
export function problemOf({ file }, server) {
  if (!file) return "";
  if (file.size === 0) return "The file is empty.";
  if (!server || file.size <= server.max_upload_bytes) return "";
  return `${size(file.size)} is more than the ${size(server.max_upload_bytes)} that this server accepts.`;
}

/**
 * Send what was chosen, except what the server would refuse. A single recording is opened once it has arrived.
 *
 * @param {Context} context
 * @param {import("./options.js").Options} options
 * @param {AbortSignal} signal
 */
async function sendStaged({ staging, store, uploads, go }, options, signal) {
  const items = staging.items.filter((item) => !problemOf(item, store.server));
  if (!items.length) return;
  for (const item of items) staging.remove(item);
  const jobs = items.map(({ name, file, url }) => {
    const fields = formFields(options, store.server, { name, url });
    return uploads.add({ name, path: routeOf(options, store.server), fields, ...(file && { file }) });
  });
  document.querySelector(".jobs li")?.scrollIntoView({ block: "nearest" }); // below the form on small screens
  if (items.length > 1) return toast(`${items.length} recordings are on their way.`);
  announce("Sending the recording.");
  const id = await jobs[0];
  if (id && !signal.aborted) go(`#/jobs/${id}`);
}
