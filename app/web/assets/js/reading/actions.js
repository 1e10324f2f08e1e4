/**
 * The head of a job's view: its facts, its progress, a word about how it ended, and what can be done with it: copy, download,
 * rename, deliver again, cancel, delete.
 */
import { sentence } from "../api.js";
import { confirmed, h, icon, iconButton, menu, setText, toast } from "../dom.js";
import { capitalized, clock, dateTime, isActive, jobPhrase, jobTitle, modelName, shownPercent, timeLeft } from "../format.js";

/** @typedef {import("../store.js").Job} Job */

const FORMATS = [
  { format: "text", label: "Text", extension: "txt" },
  { format: "srt", label: "Subtitles", extension: "srt" },
  { format: "vtt", label: "Web subtitles", extension: "vtt" },
  { format: "tsv", label: "Table", extension: "tsv" },
  { format: "rttm", label: "Turns of speakers", extension: "rttm" },
  { format: "verbose_json", label: "As OpenAI's API returns it", extension: "json" },
  { format: "document", label: "Everything", extension: "document.json" },
];
const LONGEST_NAME = 120; // characters

/**
 * Return a file name that every system accepts.
 *
 * @param {string} title
 * @param {string} extension
 */
export function fileName(title, extension) {
  const stem = title.replace(/\.[a-z0-9]{1,5}$/i, "").replace(/[\\/:*?"<>|\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, "_");
  const safe = [...stem].slice(0, LONGEST_NAME).join("").replace(/^[\s.]+|[\s.]+$/g, "");
  return `${safe || "transcript"}.${extension}`;
}

/** @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/**
 * Return a command that downloads a result. The key is a variable of the shell.
 *
 * @param {string} url
 * @param {string} file
 * @param {boolean} needsKey
 */
export function curlCommand(url, file, needsKey) {
  const key = needsKey ? ' -H "Authorization: Bearer $API_KEY"' : "";
  return `curl --fail${key} -o ${quoted(file)} ${quoted(url)}`;
}

export class Actions {
  /** While this page deletes the job, which is no surprise then. */
  isDeleting = false;
  job = /** @type {Job | undefined} */ (undefined);

  /**
   * @param {{api: import("../api.js").Api, store: import("../store.js").Store, go: (hash: string) => void,
   *   plainText: () => string, hasSpeakers: () => boolean, restoreOriginal: () => void}} parts
   */
  constructor({ api, store, go, plainText, hasSpeakers, restoreOriginal }) {
    this.api = api;
    this.store = store;
    this.go = go;
    this.plainText = plainText;
    this.hasSpeakers = hasSpeakers;
    this.restoreOriginal = restoreOriginal;
    this.title = h("h1", { dir: "auto" });
    this.renameButton = iconButton("edit", "Rename", { onclick: () => this.rename() });
    this.titleLine = h("div.title-line", {}, this.title, this.renameButton);
    this.copy = h("button.button", { type: "button", onclick: () => this.#copy(this.plainText(), "The text is on the clipboard.") }, icon("copy", 18), "Copy");
    this.download = h("button.button.primary", { type: "button" }, icon("download", 18), "Download");
    const more = iconButton("more", "More");
    this.element = h("div.actions", {}, this.copy, this.download, menu(this.download, () => this.#formats()), more, menu(more, () => this.#more()));
  }

  /** @param {Job} job */
  update(job) {
    this.job = job;
    if (!this.titleLine.querySelector("input")) this.title.textContent = this.title.title = jobTitle(job);
    this.copy.hidden = this.download.hidden = !job.result_available;
  }

  #more() {
    const { job } = this;
    if (!job) return [];
    const isEnded = !isActive(job);
    return [
      job.result_available && { icon: "code", label: "Copy as curl", run: () => this.#copyCommand() },
      job.edited_at && { icon: "undo", label: "Restore the original", run: this.restoreOriginal },
      job.delivery && isEnded && job.result_available && { icon: "send", label: "Deliver again", run: () => this.#redeliver() },
      isEnded
        ? { icon: "trash", label: "Delete…", isDangerous: true, run: () => this.#delete() }
        : { icon: "stop", label: "Cancel the transcription", isDangerous: true, run: () => this.#cancel() },
    ];
  }

  #formats() {
    const known = this.store.server?.result_formats;
    const formats = FORMATS.filter(({ format }) => (!known || known.includes(format)) && (format !== "rttm" || this.hasSpeakers()));
    return formats.map(({ format, label, extension }) => ({ label, hint: `.${extension}`, run: () => this.#download(format, extension) }));
  }

  get #path() {
    return `v1/jobs/${this.job?.job_id}`;
  }

  get #title() {
    return this.job ? jobTitle(this.job) : "";
  }

  /** @param {() => Promise<unknown>} act */
  async #try(act) {
    try {
      await act();
    } catch (error) {
      toast(sentence(error), { isError: true });
    }
  }

  /** @param {string} format @param {string} extension */
  #download(format, extension) {
    return this.#try(async () => {
      const response = await this.api.request(`${this.#path}/result?response_format=${format}`);
      const url = URL.createObjectURL(await response.blob());
      h("a", { href: url, download: fileName(this.#title, extension) }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    });
  }

  #copyCommand() {
    const needsKey = this.api.key !== "" || this.store.server?.requires_key === true;
    const url = this.api.url(`${this.#path}/result?response_format=srt`);
    return this.#copy(curlCommand(url, fileName(this.#title, "srt"), needsKey), "The command is on the clipboard.");
  }

  /** @param {string} text @param {string} message */
  #copy(text, message) {
    return this.#try(async () => {
      if (navigator.clipboard) await navigator.clipboard.writeText(text);
      else copyWithoutClipboard(text);
      toast(message);
    });
  }

  /** Let the user type another name in place. */
  rename() {
    if (!this.job || this.titleLine.querySelector("input")) return;
    const input = h("input", { value: this.job.name ?? "", maxlength: "255", "aria-label": "Name", dir: "auto", placeholder: this.#title });
    let isOver = false;
    const end = (/** @type {boolean} */ isSaved) => {
      if (isOver) return;
      isOver = true;
      const hadFocus = document.activeElement === input;
      input.replaceWith(this.title);
      this.renameButton.hidden = false;
      if (hadFocus) this.renameButton.focus();
      if (isSaved && input.value.trim() !== (this.job?.name ?? "")) this.#saveName(input.value.trim());
    };
    input.addEventListener("blur", () => end(true));
    input.addEventListener("keydown", (event) => {
      if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
      event.preventDefault(); // or Enter would press the button that gets the focus
      end(event.key === "Enter");
    });
    this.title.replaceWith(input);
    this.renameButton.hidden = true;
    input.focus();
    input.select();
  }

  /** @param {string} name */
  #saveName(name) {
    const before = this.title.textContent;
    if (name) this.title.textContent = name;
    return this.#try(async () => {
      try {
        this.store.putJobs([await this.api.json(this.#path, { method: "PATCH", json: { name } })]);
      } catch (error) {
        this.title.textContent = before;
        throw error;
      }
    });
  }

  #redeliver() {
    return this.#try(async () => {
      this.store.putJobs([await this.api.json(`${this.#path}/redeliver`, { method: "POST" })]);
      toast("The result is being delivered again.");
    });
  }

  #cancel() {
    if (!this.job || !isActive(this.job)) return toast("The transcription has ended already."); // while the menu was open
    return this.#try(() => this.api.request(this.#path, { method: "DELETE" }));
  }

  async #delete() {
    const { job_id } = this.job ?? {};
    const question = `“${this.#title}”, its text and its recording are deleted from the server. This can't be undone.`;
    if (!job_id || !(await confirmed("Delete this transcript?", question, "Delete"))) return;
    this.isDeleting = true;
    await this.#try(async () => {
      await this.api.request(this.#path, { method: "DELETE" });
      this.store.removeJob(job_id);
      this.go("#/");
    });
    this.isDeleting = false;
  }
}

/** Pages without TLS have no `navigator.clipboard`. @param {string} text */
function copyWithoutClipboard(text) {
  const area = h("textarea", { "aria-hidden": "true", readonly: true, value: text });
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (!isCopied) throw new Error("The browser didn't allow copying: select the text and copy it.");
}

/** Advice for kinds of failures, after the server's sentence. @type {Record<string, string>} */
const ADVICE = {
  AudioTooLong: "Cut the recording into parts and send each of them.",
  UndecodableAudio: "Check that the file plays on your computer, or convert it to another format, and send it again.",
  DownloadFailed: "Check that the link opens in a private window, or download the recording and send the file.",
  DeliveryFailed: "The transcript is here nevertheless. “Deliver again” in the menu sends it once more.",
};

/** Return the line below the title.
 * @param {Job} job */
export function factsOf(job) {
  const { audio_duration: seconds, processing_time: took } = job;
  return [
    seconds && clock(seconds),
    job.language && capitalized(job.language),
    job.task === "translate" && "in English",
    modelName(job.model),
    seconds && took && `${(seconds / took).toFixed(1)}× real time`,
    dateTime(job.start_time),
    job.result_expires_at && `kept until ${dateTime(job.result_expires_at)}`,
  ].filter(Boolean).join(" · ");
}

/**
 * Return a message in a box.
 *
 * @param {import("../dom.js").IconName} name
 * @param {string} title
 * @param {import("../dom.js").Child[]} children Sentences are paragraphs.
 */
export function notice(name, title, ...children) {
  const parts = children.map((child) => (typeof child === "string" ? h("p", {}, child) : child));
  return h(name === "warning" ? "div.notice.bad" : "div.notice", {}, icon(name, 22), h("div", {}, title && h("b", {}, title), parts));
}

/** Return notices about warnings and about an end that needs a word.
 * @param {Job} job */
export function outcomeOf(job) {
  const notices = (job.warnings ?? []).map((warning) => notice("doubt", "", warning));
  const again = h("a.button", { href: "#/" }, "Transcribe another recording");
  if (job.status === "failed") {
    const title = job.result_available ? "The delivery failed" : "The transcription failed";
    const advice = ADVICE[job.error_type ?? ""] ?? "Send the recording again, perhaps with other options.";
    notices.push(notice("warning", title, job.error ?? "", advice, !job.result_available && again));
  } else if (job.status === "cancelled") {
    notices.push(notice("stop", "Cancelled", "The transcription was cancelled before it was finished.", again));
  } else if (job.delivery?.status === "pending" && job.delivery.last_error) {
    notices.push(notice("send", "Not delivered yet", job.delivery.last_error));
  }
  return notices;
}

/** Return what is being done with a job that is not finished, and for how long or what comes of it.
 * @param {Job} job @returns {[string, string]} */
export function workPhrases(job) {
  if (job.status === "queued") return [jobPhrase(job), timeLeft(job)];
  if (job.progress === "Telling speakers apart") return [job.progress, timeLeft(job)];
  return ["Transcribing", timeLeft(job) || "the text appears here while it is written"];
}

export class Progress {
  constructor() {
    this.phrase = h("b");
    this.left = h("span");
    this.percent = h("em");
    this.fill = h("i");
    this.bar = h("span.bar", { role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100" }, this.fill);
    this.element = h("div.progress", { hidden: true }, this.phrase, this.left, this.percent, this.bar);
  }

  /** @param {Job} job */
  update(job) {
    this.element.hidden = !isActive(job) || job.result_available;
    if (this.element.hidden) return;
    const isQueued = job.status === "queued", percent = shownPercent(job), isWaiting = isQueued || percent < 1;
    const [phrase, left] = workPhrases(job);
    setText(this.phrase, phrase);
    setText(this.left, left);
    setText(this.percent, isWaiting ? "" : `${Math.floor(percent)} %`);
    this.bar.classList.toggle("waiting", isWaiting);
    if (isWaiting) this.bar.removeAttribute("aria-valuenow");
    else this.bar.setAttribute("aria-valuenow", String(Math.floor(percent)));
    this.fill.style.setProperty("transform", isWaiting ? "none" : `scaleX(${percent / 100})`);
  }
}
