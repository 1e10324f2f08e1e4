/** The start of the page: creates its parts, shows the view of the address, and handles shortcuts, dropped and pasted files. */
import { Api, sentence } from "./api.js";
import { announce, h, isTyping, toast } from "./dom.js";
import { isActive, jobTitle } from "./format.js";
import { Staging, UploadQueue } from "./home/uploads.js";
import { JobsList, openServerPanel } from "./side.js";
import { EventStream, Store } from "./store.js";

/**
 * What a view shows and how it ends. `onKey` returns true for a key that it has used.
 *
 * @typedef {object} View
 * @property {HTMLElement} element With an `h1`, which gets the focus.
 * @property {() => void} close
 * @property {(event: KeyboardEvent) => boolean | void} [onKey]
 *
 * @typedef {object} Context What a view may use.
 * @property {Api} api
 * @property {Store} store
 * @property {EventStream} events
 * @property {UploadQueue} uploads
 * @property {Staging} staging
 * @property {(hash: string) => void} go
 */

const api = new Api(document.baseURI, sessionStorage);
const store = new Store();
const events = new EventStream(api, store);
const uploads = new UploadQueue(api, store);
const staging = new Staging();
/** @type {Context} */
const context = { api, store, events, uploads, staging, go };

const app = /** @type {HTMLElement} */ (document.getElementById("app"));
const main = /** @type {HTMLElement} */ (document.getElementById("main"));
let view = /** @type {View | null} */ (null);
let routeCount = 0;

const side = /** @type {HTMLElement} */ (document.getElementById("side"));
const jobsList = new JobsList(side, context);
openServerPanel(side, context, { askKey: () => askKey(), showShortcuts });

/** @param {string} hash */
function go(hash) {
  if (location.hash === hash || (hash === "#/" && !location.hash)) show();
  else location.hash = hash;
}

/** Show the view of the address: `#/jobs/<id>`, or the start. */
async function show() {
  const number = ++routeCount;
  const id = /^#\/jobs\/([\w-]+)$/.exec(location.hash)?.[1] ?? null;
  const next = await (id ? openJob(id) : openStart());
  if (number !== routeCount) return next.close(); // another address came meanwhile
  view?.close();
  view = next;
  app.dataset.view = id ? "job" : "home";
  main.replaceChildren(next.element);
  jobsList.select(id);
  setTitle(id);
  if (number > 1) focusHeading(next.element);
}

/** @returns {Promise<View>} */
async function openStart() {
  const [{ openHome }] = await Promise.all([import("./home/view.js"), loadStyle("../home.css")]);
  return openHome(context);
}

/**
 * @param {string} id
 * @returns {Promise<View>}
 */
async function openJob(id) {
  const [{ openReading }] = await Promise.all([import("./reading/view.js"), loadStyle("../reading.css")]);
  return openReading({ ...context, job_id: id });
}

/**
 * Load a style sheet, unless it is there already.
 *
 * @param {string} path Relative to this module.
 */
async function loadStyle(path) {
  const { href } = new URL(path, import.meta.url);
  if (document.querySelector(`link[href="${href}"]`)) return;
  await new Promise((resolve) => document.head.append(h("link", { rel: "stylesheet", href, onload: resolve, onerror: resolve })));
}

/** @param {string | null} id */
function setTitle(id) {
  const job = id && store.jobs.get(id);
  document.title = job ? `${jobTitle(job)} – Transcription` : "Transcription";
}

/** @param {HTMLElement} element */
function focusHeading(element) {
  const heading = element.querySelector("h1") ?? main;
  heading.setAttribute("tabindex", "-1");
  heading.focus({ preventScroll: true });
  scrollTo(0, 0);
}

/** @param {string} [message] Why the stored key does not do. */
async function askKey(message) {
  const { openKeyDialog } = await import("./dialogs.js");
  openKeyDialog({
    api,
    message,
    onKey: () => {
      store.clearJobs();
      events.restart();
      uploads.resume();
      show();
    },
  });
}

async function showShortcuts() {
  const { openShortcuts } = await import("./dialogs.js");
  openShortcuts();
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  const isOnButton = event.target instanceof Element && event.target.closest("button, a, summary");
  if (isOnButton && (event.key === " " || event.key === "Enter")) return;
  const isLetter = event.key.length === 1 && event.key !== " ";
  if (isLetter && localStorage.getItem("shortcuts") === "off") return;
  if (view?.onKey?.(event)) return event.preventDefault();
  const shortcuts = /** @type {Record<string, () => void>} */ ({
    "?": showShortcuts,
    n: () => go("#/"),
    "/": () => jobsList.focusSearch(),
  });
  const run = shortcuts[event.key];
  if (!run) return;
  event.preventDefault();
  run();
}

/** @param {DragEvent} event */
function onDrop(event) {
  event.preventDefault();
  document.body.classList.remove("dragging");
  stage([...(event.dataTransfer?.files ?? [])]);
}

/** @param {ClipboardEvent} event */
function onPaste(event) {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length) return stage(files);
  const text = event.clipboardData?.getData("text/plain") ?? "";
  if (!isTyping(event.target) && staging.addLink(text)) showHome();
}

/** @param {File[]} files */
function stage(files) {
  if (!files.length) return;
  staging.addFiles(files);
  showHome();
}

function showHome() {
  if (app.dataset.view !== "home") go("#/");
}

/**
 * Tell the user about jobs that have ended, unless they are looking at them.
 *
 * @param {Set<string>} ids
 */
function announceEnded(ids) {
  for (const id of ids) {
    const job = store.jobs.get(id);
    const wasRunning = running.delete(id);
    if (job && isActive(job)) running.add(id);
    else if (job && wasRunning && job.status === "completed") announce(`${jobTitle(job)} is done.`);
    else if (job && wasRunning && job.status === "failed") announce(`${jobTitle(job)} failed.`);
  }
  const current = /^#\/jobs\/(.+)$/.exec(location.hash)?.[1];
  if (current && ids.has(current)) setTitle(current);
}
const running = /** @type {Set<string>} */ (new Set());
let isOutdated = false;

/** A stream takes one of the few connections that a browser has to a server, so tabs that nobody sees have none. */
function followVisibility() {
  if (document.hidden) events.close();
  else events.open();
}

/** On small screens the list is below the view, and the focus comes to it in that order. */
function placeSide() {
  if (smallScreen.matches) app.append(side);
  else app.prepend(side);
}
const smallScreen = matchMedia("(max-width: 860px)");

async function describeServer() {
  try {
    store.setServer(await api.json("v1/server"));
  } catch (error) {
    toast(sentence(error), { isError: true });
  }
}

/** Say once that the page is older than the server. @param {import("./store.js").ServerDescription} server */
function checkVersion({ version }) {
  if (version === document.body.dataset.version || isOutdated) return;
  isOutdated = true;
  const action = { label: "Reload", run: () => location.reload() };
  toast("The server was updated. Reload this page, so that it works with the new version.", { stays: true, action });
}

/** A module that can't be loaded, most often because the server was updated, or a mistake of the page. */
function onUnexpected() {
  toast("Something went wrong.", { isError: true, action: { label: "Reload the page", run: () => location.reload() } });
}

api.onUnauthorized = askKey;
store.on("jobs", announceEnded);
events.onReset = describeServer;
store.on("connection", (isConnected) => isConnected && uploads.resume());
store.on("server", checkVersion);
addEventListener("hashchange", show);
addEventListener("keydown", onKey);
addEventListener("paste", onPaste);
addEventListener("drop", onDrop);
addEventListener("dragover", (event) => {
  event.preventDefault();
  if (event.dataTransfer?.types.includes("Files")) document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging"); // out of the window
});
addEventListener("beforeunload", (event) => {
  if (uploads.uploads.length || staging.hasRecording) event.preventDefault();
});
addEventListener("unhandledrejection", onUnexpected);
document.addEventListener("visibilitychange", followVisibility);
smallScreen.addEventListener("change", placeSide);
placeSide();
describeServer();
followVisibility();
show();
