/**
 * The options of new transcriptions, which this browser remembers.
 *
 * @typedef {object} Options
 * @property {string} language A code, or "" to detect it.
 * @property {string} model An id, or "" for a day, if the server allows it.
 * @property {"transcribe" | "translate"} task
 * @property {boolean} words
 * @property {"" | "voices" | "channels"} speakers What tells them apart, if anything.
 * @property {string} speakerCount How many voices there are, or "" to find it out.
 * @property {string} prompt
 * @property {string} keywords Separated by commas.
 * @property {string} retention For how many seconds the result is kept, or "" for the server's default.
 *
 * @typedef {import("../store.js").ServerDescription} ServerDescription
 */
import { h, icon, replace } from "../dom.js";
import { LANGUAGES, duration, languageName, modelName } from "../format.js";

/** @type {Readonly<Options>} */
export const DEFAULTS = {
  ...{ language: "", model: "", task: "transcribe", words: true, speakers: "", speakerCount: "" },
  ...{ prompt: "", keywords: "", retention: "" },
};
const DAY = 86_400;
const RETENTIONS = [3600, DAY, 7 * DAY, 30 * DAY];
const MOST_SPEAKERS = 32;
const KEY = "options";

/**
 * Return the remembered options. Those of another version of the page, or of the wrong type, are left out.
 *
 * @param {Pick<Storage, "getItem">} storage
 * @returns {Options}
 */
export function loadOptions(storage) {
  const options = /** @type {Record<string, unknown>} */ ({ ...DEFAULTS });
  try {
    const stored = JSON.parse(storage.getItem(KEY) ?? "{}");
    for (const [name, value] of Object.entries(DEFAULTS)) if (typeof stored[name] === typeof value) options[name] = stored[name];
  } catch {} // not JSON
  return /** @type {Options} */ (options);
}

/**
 * Return the path of the route that does what the options ask for.
 *
 * @param {Options} options
 * @param {ServerDescription | null} server
 */
export function routeOf(options, server) {
  return isTranslation(options, server) ? "v1/audio/translations" : "v1/audio/transcriptions";
}

/**
 * @param {Options} options
 * @param {ServerDescription | null} server
 */
function isTranslation(options, server) {
  return options.task === "translate" && chosenModel(options, server)?.can_translate !== false;
}

/**
 * Return the form fields of a recording, without its file.
 *
 * @param {Options} options
 * @param {ServerDescription | null} server
 * @param {{name: string, url?: string | undefined}} recording
 * @returns {[string, string][]}
 */
export function formFields(options, server, { name, url }) {
  /** @type {[string, string][]} */
  const fields = [
    ["stored_output", "true"],
    ["response_format", "verbose_json"],
  ];
  const add = (/** @type {string} */ field, /** @type {string} */ value) => value && fields.push([field, value]);
  add("name", name.trim());
  add("url", url ?? "");
  add("keep_audio", server?.features["keep_audio"] ? "true" : "");
  const model = chosenModel(options, server);
  add("model", model && !model.is_default ? model.id : "");
  const speaksIt = !model?.languages || model.languages.includes(options.language);
  add("language", isTranslation(options, server) || !speaksIt ? "" : options.language);
  const speakers = speakersOf(options, server);
  add("word_timestamps", options.words || speakers === "voices" ? "true" : ""); // a segment can have several voices
  add("diarize", speakers === "voices" ? "true" : "");
  add("num_speakers", speakers === "voices" ? options.speakerCount : "");
  add("multichannel", speakers === "channels" ? "true" : "");
  add("prompt", options.prompt.trim());
  for (const keyword of options.keywords.split(",")) add("keywords[]", keyword.trim());
  const retention = retentionOf(options, server);
  add("retention_seconds", retention && retention !== server?.retention_seconds.default ? String(retention) : "");
  return fields;
}

/**
 * @param {Storage} storage
 * @param {import("../store.js").Store} store
 * @param {AbortSignal} signal
 */
export function optionsForm(storage, store, signal) {
  const options = loadOptions(storage);
  const change = (/** @type {Partial<Options>} */ changes) => {
    storage.setItem(KEY, JSON.stringify(Object.assign(options, changes)));
    if ("model" in changes || "speakers" in changes) draw();
  };
  const choices = h("div.choices");
  const draw = () => {
    const focused = choices.querySelector(":focus")?.id;
    replace(
      choices,
      languageChoice(options, store.server, change),
      taskChoice(options, store.server, change),
      speakersChoice(options, store.server, change),
      countChoice(options, store.server, change),
      modelChoice(options, store.server, change),
      retentionChoice(options, store.server, change),
    );
    if (focused) document.getElementById(focused)?.focus();
  };
  store.on("server", draw, signal);
  draw();
  const element = h(
    "section.options",
    { "aria-labelledby": "options-title" },
    h("h2.visually-hidden", { id: "options-title" }, "Options"),
    choices,
    h(
      "div.switches",
      {},
      toggle("Time every word", "To click, follow and search in the recording", options.words, (words) => change({ words })),
    ),
    h(
      "details",
      { open: Boolean(options.prompt || options.keywords) },
      h("summary", {}, icon("tune", 18), "More options"),
      h(
        "div.more",
        {},
        textField("prompt", "Context", "Names and spelling, in a sentence or two", options.prompt, (prompt) => change({ prompt })),
        textField("keywords", "Words to expect, separated by commas", "Kubernetes, Grüneberg", options.keywords, (keywords) =>
          change({ keywords }),
        ),
      ),
    ),
  );
  return { element, options };
}

/**
 * Return the chosen model, or the default one if the chosen one is no longer served.
 *
 * @param {Options} options
 * @param {ServerDescription | null} server
 */
function chosenModel(options, server) {
  const models = server?.models ?? [];
  return models.find(({ id }) => id === options.model) ?? models.find((model) => model.is_default);
}

/**
 * @param {Options} options
 * @param {ServerDescription | null} server
 * @param {(changes: Partial<Options>) => void} change
 */
function languageChoice(options, server, change) {
  const codes = chosenModel(options, server)?.languages ?? LANGUAGES;
  if (codes.length === 1) return null;
  const languages = codes.map((code) => /** @type {[string, string]} */ ([code, languageName(code)]));
  languages.sort((a, b) => a[1].localeCompare(b[1]));
  return select("language", "Spoken language", [["", "Detect"], ...languages], options.language, (language) => change({ language }));
}

/**
 * @param {Options} options
 * @param {ServerDescription | null} server
 * @param {(changes: Partial<Options>) => void} change
 */
function taskChoice(options, server, change) {
  if (chosenModel(options, server)?.can_translate === false) return null;
  const tasks = /** @type {[string, string][]} */ ([
    ["transcribe", "As it is spoken"],
    ["translate", "In English"],
  ]);
  return select("task", "Write it", tasks, options.task, (task) => change({ task: task === "translate" ? "translate" : "transcribe" }));
}

/**
 * Return what tells speakers apart: as chosen, if the server can do it.
 *
 * @param {Options} options
 * @param {ServerDescription | null} server
 */
function speakersOf({ speakers }, server) {
  return speakers === "voices" && !server?.features["diarization"] ? "" : speakers;
}

/**
 * @param {Options} options
 * @param {ServerDescription | null} server
 * @param {(changes: Partial<Options>) => void} change
 */
function speakersChoice(options, server, change) {
  const ways = /** @type {[Options["speakers"], string][]} */ ([
    ["", "No"],
    ["voices", "By their voices"],
    ["channels", "One per channel"],
  ]);
  const offered = ways.filter(([way]) => way !== "voices" || server?.features["diarization"]);
  return select("speakers", "Tell speakers apart", offered, speakersOf(options, server), (way) => change({ speakers: /** @type {Options["speakers"]} */ (way) }));
}

/**
 * @param {Options} options
 * @param {ServerDescription | null} server
 * @param {(changes: Partial<Options>) => void} change
 */
function countChoice(options, server, change) {
  if (speakersOf(options, server) !== "voices") return null;
  const counts = Array.from({ length: MOST_SPEAKERS }, (_, i) => /** @type {[string, string]} */ ([`${i + 1}`, `${i + 1}`]));
  return select("speaker-count", "How many speakers", [["", "Find out"], ...counts], options.speakerCount, (speakerCount) => change({ speakerCount }));
}

/**
 * @param {Options} options
 * @param {ServerDescription | null} server
 * @param {(changes: Partial<Options>) => void} change
 */
function modelChoice(options, server, change) {
  const models = server?.models ?? [];
  if (models.length < 2) return null;
  const names = models.map(({ id, is_default: isDefault }) =>
    /** @type {[string, string]} */ (isDefault ? ["", `${modelName(id)} (default)`] : [id, modelName(id)]),
  );
  return select("model", "Model", names, options.model, (model) => change({ model }));
}

/**
 * @param {Options} options
 * @param {ServerDescription | null} server
 * @param {(changes: Partial<Options>) => void} change
 */
function retentionChoice(options, server, change) {
  if (!server || server.retention_seconds.max <= server.retention_seconds.default) return null;
  const allowed = RETENTIONS.filter((seconds) => seconds <= server.retention_seconds.max);
  const offered = [...new Set([...allowed, server.retention_seconds.default])].sort((a, b) => a - b);
  const choices = offered.map((seconds) => /** @type {[string, string]} */ ([String(seconds), duration(seconds)]));
  return select("retention", "Keep it for", choices, String(retentionOf(options, server)), (retention) => change({ retention }));
}

/**
 * Return for how many seconds a result is to be kept: as chosen, or at least a day, as far as the server allows.
 *
 * @param {Options} options
 * @param {ServerDescription | null} server
 */
function retentionOf(options, server) {
  if (!server) return 0;
  const { default: usual, max } = server.retention_seconds;
  const wanted = Number(options.retention) || Math.max(usual, DAY);
  return wanted <= max ? wanted : usual;
}

/**
 * @param {string} id
 * @param {string} label
 * @param {[string, string][]} choices Values and what they are called.
 * @param {string} chosen
 * @param {(value: string) => void} onChange
 */
function select(id, label, choices, chosen, onChange) {
  const options = choices.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  const listener = (/** @type {Event} */ event) => onChange(/** @type {HTMLSelectElement} */ (event.target).value);
  return h("label.choice", {}, h("span.label", {}, label), h("select.field", { id, onchange: listener }, options));
}

/**
 * @param {string} label
 * @param {string} hint
 * @param {boolean} isOn
 * @param {(isOn: boolean) => void} onChange
 */
function toggle(label, hint, isOn, onChange) {
  const listener = (/** @type {Event} */ event) => onChange(/** @type {HTMLInputElement} */ (event.target).checked);
  return h(
    "label.switch",
    {},
    h("input", { type: "checkbox", role: "switch", checked: isOn, onchange: listener }),
    h("i", { "aria-hidden": true }),
    h("span", {}, label, h("small", {}, hint)),
  );
}

/**
 * @param {string} id
 * @param {string} label
 * @param {string} example
 * @param {string} value
 * @param {(value: string) => void} onChange
 */
function textField(id, label, example, value, onChange) {
  const listener = (/** @type {Event} */ event) => onChange(/** @type {HTMLTextAreaElement} */ (event.target).value);
  return h(
    "label.choice",
    {},
    h("span.label", {}, label),
    h("textarea.field", { id, rows: 2, placeholder: example, value, oninput: listener }),
  );
}
