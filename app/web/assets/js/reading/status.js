/** What is known about a job: its facts, its progress, and a word about how it ended. */
import { h, replace } from "../dom.js";
import { capitalized, clock, dateTime, isActive, jobPhrase, modelName, shownPercent, timeLeft } from "../format.js";
import { icon } from "../widgets.js";

/** @typedef {import("../store.js").Job} Job */

/** Advice for kinds of failures, after the server's sentence. @type {Record<string, string>} */
const ADVICE = {
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
 * @param {import("../widgets.js").IconName} name
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
    const isWaiting = job.status === "queued", percent = shownPercent(job);
    setText(this.phrase, isWaiting ? jobPhrase(job) : "Transcribing");
    setText(this.left, timeLeft(job));
    setText(this.percent, isWaiting ? "" : `${Math.floor(percent)} %`);
    this.bar.classList.toggle("waiting", isWaiting);
    if (isWaiting) this.bar.removeAttribute("aria-valuenow");
    else this.bar.setAttribute("aria-valuenow", String(Math.floor(percent)));
    this.fill.style.setProperty("transform", isWaiting ? "none" : `scaleX(${percent / 100})`);
  }
}

/** @param {Element} element @param {string} text */
function setText(element, text) {
  if (element.textContent !== text) replace(element, text);
}
