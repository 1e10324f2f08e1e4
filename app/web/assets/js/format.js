/** Times, sizes and jobs as people read them. */

/** @typedef {import("./store.js").Job} Job */

/** Languages that Whisper knows, as ISO 639-1 or 639-3 codes. */
export const LANGUAGES = (
  "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja " +
  "jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr " +
  "su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh"
).split(" ");

/**
 * Return a time as `1:02:03` or `2:03`.
 *
 * @param {number} seconds
 */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const hours = Math.floor(whole / 3600);
  const minutes = String(Math.floor((whole % 3600) / 60));
  const rest = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${minutes.padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/**
 * Return a duration in words: `40 s`, `5 min`, `2 h 10 min`, `3 days`.
 *
 * @param {number} seconds
 */
export function duration(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes >= 48 * 60) return `${Math.round(minutes / 60 / 24)} days`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

/**
 * Return a size with decimal units.
 *
 * @param {number} bytes
 */
export function size(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

const DATE_TIME = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/**
 * Return a date and time in the user's way, without the year.
 *
 * @param {number} unix Seconds.
 */
export const dateTime = (unix) => DATE_TIME.format(unix * 1000);

const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/**
 * Return when something was: `just now`, `5 minutes ago`, or a date after a day.
 *
 * @param {number} unix Seconds.
 * @param {number} now Milliseconds.
 */
export function ago(unix, now = Date.now()) {
  const seconds = now / 1000 - unix;
  if (seconds < 45) return "just now";
  if (seconds < 3570) return RELATIVE.format(-Math.round(seconds / 60), "minute");
  return seconds < 86400 ? RELATIVE.format(-Math.round(seconds / 3600), "hour") : dateTime(unix);
}

const ORDINALS = new Intl.PluralRules("en", { type: "ordinal" });
const SUFFIXES = /** @type {Record<string, string>} */ ({ one: "st", two: "nd", few: "rd", other: "th" });

/** @param {number} number */
export const ordinal = (number) => `${number}${SUFFIXES[ORDINALS.select(number)]}`;

/**
 * Return a model's name without the organisation or the folder before it.
 *
 * @param {string} name
 */
export const modelName = (name) => name.replace(/\/+$/, "").split("/").pop() || name;

/** @param {string} text */
export const capitalized = (text) => (text ? text.charAt(0).toUpperCase() + text.slice(1) : "");

/**
 * Return the name of a language in the user's language.
 *
 * @param {string} code
 */
export function languageName(code) {
  const names = new Intl.DisplayNames(undefined, { type: "language", fallback: "code" });
  return capitalized(names.of(code === "jw" ? "jv" : code) ?? code); // Whisper's old code of Javanese
}

/** @param {Job} job */
export const jobTitle = (job) => job.name || `Recording of ${dateTime(job.start_time)}`;

/** @param {Job} job */
export const isActive = (job) => job.status === "queued" || job.status === "processing";

/**
 * Return what a job is doing, in a few words.
 *
 * @param {Job} job
 * @param {number} now Milliseconds of `performance.now()`.
 */
export function jobPhrase(job, now = performance.now()) {
  if (job.status === "queued") {
    if (job.progress === "Downloading audio") return "Fetching the recording";
    if (!job.queue_position) return "Starting";
    return job.queue_position === 1 ? "Next in line" : `${ordinal(job.queue_position)} in line`;
  }
  if (job.status === "processing") {
    return job.progress === "Uploading results" ? "Delivering the result" : `${Math.floor(shownPercent(job, now))} %`;
  }
  return capitalized(job.status === "completed" ? "done" : job.status);
}

/**
 * Return the percentage to show. Progress comes once for each window of speech; in between it moves on as estimated, but
 * never more than most of the way.
 *
 * @param {Job} job
 * @param {number} now Milliseconds of `performance.now()`.
 */
export function shownPercent(job, now = performance.now()) {
  const percent = job.progress_percent;
  if (job.status !== "processing" || !job.eta_seconds) return percent;
  const share = Math.min((now - job.seen) / 1000 / job.eta_seconds, 0.85);
  return Math.min(99, percent + (100 - percent) * share);
}

/**
 * Return how long a job still takes: `about 5 min left`, or "".
 *
 * @param {Job} job
 * @param {number} now Milliseconds of `performance.now()`.
 */
export function timeLeft(job, now = performance.now()) {
  if (!isActive(job) || job.eta_seconds === undefined) return "";
  return `about ${duration(Math.max(1, job.eta_seconds - (now - job.seen) / 1000))} left`;
}
