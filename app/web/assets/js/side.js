/**
 * The side of the page: the list of recordings with uploads, jobs and their progress, filtered, searched, and kept up to date;
 * and below it the state of the server, and the page's own settings.
 */
import { announce, h, icon, iconButton, moveFocus, redraw, replace, setText, styled } from "./dom.js";
import { ago, capitalized, clock, dateTime, duration, isActive, jobPhrase, jobTitle, modelName, shownPercent, size, timeLeft } from "./format.js";

/**
 * @typedef {import("./store.js").Job} Job
 * @typedef {import("./home/uploads.js").Upload} Upload
 */

/** Progress moves on this often, and the ages of recordings every so many times. */
const TICK_MS = 1000;
const TICKS_OF_AGES = 60;
const SEARCH_DELAY_MS = 250;
/** A recording that is deleted within this time says so. */
const SOON_SECONDS = 900;

const FILTERS = /** @type {Record<string, {label: string, accepts: (job: Job) => boolean}>} */ ({
  all: { label: "All", accepts: () => true },
  active: { label: "Active", accepts: isActive },
  done: { label: "Done", accepts: (job) => job.status === "completed" },
  failed: { label: "Failed", accepts: (job) => job.status === "failed" || job.status === "cancelled" },
});

export class JobsList {
  #store;
  #events;
  #uploads;
  #filter = "all";
  #needle = "";
  #selected = /** @type {string | null} */ (null);
  #rows = /** @type {Map<string, HTMLLIElement>} */ (new Map());
  #list = h("ul.jobs", { onkeydown: (/** @type {KeyboardEvent} */ event) => this.#onKey(event) });
  #older = h("button.text-button", { type: "button", hidden: true, onclick: () => this.#events.listOlder() }, "Show older recordings");
  #input = h("input", { type: "search", placeholder: "Find a recording", "aria-label": "Find a recording", oninput: () => this.#onSearch() });
  #searchTimer = 0;
  #ticks = 0;

  /**
   * @param {HTMLElement} root
   * @param {Pick<import("./main.js").Context, "store" | "events" | "uploads">} context
   */
  constructor(root, { store, events, uploads }) {
    this.#store = store;
    this.#events = events;
    this.#uploads = uploads;
    root.append(
      h("label.search", {}, icon("search", 18), this.#input),
      this.#filterButtons(),
      h("nav.scroll", { "aria-labelledby": "jobs-title" }, h("h2.visually-hidden", { id: "jobs-title" }, "Recordings"), this.#list, this.#older),
    );
    store.on("jobs", (ids) => this.#draw(ids));
    uploads.onChange(() => this.#draw(new Set()));
    setInterval(() => document.hidden || this.#tick(), TICK_MS);
    this.#draw(new Set());
  }

  /**
   * Mark the job that the page shows.
   *
   * @param {string | null} id
   */
  select(id) {
    const previous = this.#selected;
    this.#selected = id;
    this.#draw(new Set([previous, id].filter((changed) => changed !== null)));
  }

  focusSearch() {
    this.#input.focus();
  }

  #tick() {
    const hasAges = ++this.#ticks % TICKS_OF_AGES === 0;
    const jobs = [...this.#store.jobs.values()].filter((job) => hasAges || isActive(job));
    this.#draw(new Set(jobs.map((job) => job.job_id)));
  }

  #filterButtons() {
    const buttons = Object.entries(FILTERS).map(([name, { label }]) => {
      const choose = () => {
        this.#filter = name;
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        this.#draw(new Set());
      };
      const button = h("button", { type: "button", "aria-pressed": name === this.#filter, onclick: choose }, label);
      return button;
    });
    return h("div.filters", { role: "group", "aria-label": "Show" }, buttons);
  }

  #onSearch() {
    this.#needle = this.#input.value.trim().toLowerCase();
    this.#draw(new Set());
    clearTimeout(this.#searchTimer);
    this.#searchTimer = setTimeout(async () => {
      if (!this.#needle) return;
      if (this.#store.hasOlderJobs) await this.#events.find(this.#needle).catch(() => {});
      const count = this.#shownJobs().length;
      announce(count === 1 ? "1 recording" : `${count} recordings`);
    }, SEARCH_DELAY_MS);
  }

  #shownJobs() {
    const accepts = FILTERS[this.#filter]?.accepts ?? isActive;
    return [...this.#store.jobs.values()]
      .filter((job) => accepts(job) && this.#isFound(job))
      .sort((a, b) => b.start_time - a.start_time);
  }

  /** @param {Job} job */
  #isFound(job) {
    return !this.#needle || jobTitle(job).toLowerCase().includes(this.#needle) || job.job_id.startsWith(this.#needle);
  }

  /**
   * Update the rows that are new, and those of the jobs that have changed.
   *
   * @param {Set<string>} changed
   */
  #draw(changed) {
    const shown = [];
    const hasUploads = this.#filter === "all" || this.#filter === "active";
    for (const upload of hasUploads ? this.#uploads.uploads : []) shown.push(this.#uploadRow(upload));
    for (const job of this.#shownJobs()) shown.push(this.#jobRow(job, changed.has(job.job_id)));
    for (const id of this.#rows.keys()) if (!this.#store.jobs.has(id) && !this.#isUpload(id)) this.#rows.delete(id);
    if (!shown.length) shown.push(this.#emptyRow());
    this.#older.hidden = !this.#store.hasOlderJobs || this.#needle !== "";
    if (!hasSameChildren(this.#list, shown)) this.#replaceRows(shown);
  }

  /**
   * Replace the rows, but leave the focus where it is.
   *
   * @param {HTMLElement[]} shown
   */
  #replaceRows(shown) {
    const focused = this.#list.contains(document.activeElement) ? document.activeElement : null;
    this.#list.replaceChildren(...shown);
    if (focused instanceof HTMLElement && focused.isConnected) focused.focus({ preventScroll: true });
    this.#setTabStop();
  }

  /** One link is a tab stop, the arrow keys lead to the others. */
  #setTabStop() {
    const links = [...this.#list.querySelectorAll("a")];
    const stop = links.find((link) => link.ariaCurrent || link === document.activeElement) ?? links[0];
    for (const link of links) link.tabIndex = link === stop ? 0 : -1;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    moveFocus(event, [...this.#list.querySelectorAll("a")]);
  }

  /** @param {string} id */
  #isUpload(id) {
    return this.#uploads.uploads.some((upload) => upload.id === id);
  }

  #emptyRow() {
    const isFiltered = this.#needle || this.#filter !== "all";
    const text = isFiltered ? "Nothing matches." : "Recordings that you transcribe appear here.";
    return h("li.empty", {}, text);
  }

  /**
   * Return the row with an id. Its controls are made once, so that they keep the focus.
   *
   * @param {string} id
   * @param {() => import("./dom.js").Child[]} controls
   */
  #row(id, controls) {
    const row = this.#rows.get(id) ?? h("li", {}, controls());
    this.#rows.set(id, row);
    return row;
  }

  /**
   * @param {Job} job
   * @param {boolean} hasChanged
   */
  #jobRow(job, hasChanged) {
    const known = this.#rows.get(job.job_id);
    if (known && !hasChanged) return known;
    const facts = jobFacts(job);
    const isSelected = job.job_id === this.#selected;
    const expiry = expiryPhrase(job, isSelected);
    const title = jobTitle(job);
    const element = this.#row(job.job_id, () => [h("a.job", { href: `#/jobs/${job.job_id}`, tabindex: "-1" })]);
    const link = /** @type {HTMLElement} */ (element.firstElementChild);
    if (isSelected) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    redraw(link, [title, job.status, ...facts, expiry].join("|"), () => [
      h("span.title", { dir: "auto" }, title),
      h(`span.facts.${job.status}`, {}, job.status === "failed" && icon("warning", 14), facts.join(" · ")),
      expiry && h("span.facts", {}, expiry),
      isActive(job) && h(job.status === "queued" ? "span.bar.waiting" : "span.bar", { "aria-hidden": true }, h("i")),
    ]);
    if (job.status === "processing") setBar(element, shownPercent(job) / 100);
    return element;
  }

  /** @param {Upload} upload */
  #uploadRow(upload) {
    const { name } = upload.recording;
    const isFailed = upload.state === "failed";
    const retry = () => {
      cancel.focus(); // because this button goes
      this.#uploads.retry(upload);
    };
    const cancel = iconButton("close", `Cancel ${name}`, { onclick: () => this.#uploads.cancel(upload) });
    const element = this.#row(upload.id, () => [
      h("div.job", {}, h("span.title", { dir: "auto" }, name), h("span.facts.whole"), h("span.bar", { "aria-hidden": true }, h("i"))),
      iconButton("retry", `Send ${name} again`, { onclick: retry }),
      cancel,
    ]);
    const [facts, bar, again] = /** @type {NodeListOf<HTMLElement>} */ (element.querySelectorAll(".facts, .bar, button"));
    if (!facts || !bar || !again) return element;
    setText(facts, this.#uploadPhrase(upload));
    facts.classList.toggle("failed", isFailed);
    bar.hidden = isFailed;
    again.hidden = !isFailed;
    setBar(element, upload.share);
    return element;
  }

  /** @param {Upload} upload */
  #uploadPhrase(upload) {
    if (upload.state === "failed") return upload.problem;
    if (upload.state === "sending") return upload.share < 1 ? `Sending ${Math.floor(100 * upload.share)} %` : "Sent, being checked";
    const seconds = Math.ceil((this.#uploads.resumesAt - Date.now()) / 1000);
    if (upload.problem) return `${upload.problem} Trying again in ${Math.max(1, seconds)} s.`;
    return "Waiting to be sent";
  }
}

/** @param {Job} job */
function jobFacts(job) {
  if (isActive(job)) return [jobPhrase(job), timeLeft(job)].filter(Boolean);
  if (job.status !== "completed") return [jobPhrase(job), ago(job.start_time)];
  const length = job.audio_duration === undefined ? "" : clock(job.audio_duration);
  return [length, capitalized(job.language ?? ""), ago(job.start_time)].filter(Boolean);
}

/**
 * Return until when a result is kept, if the job is selected or the time is short, else "".
 *
 * @param {Job} job
 * @param {boolean} isSelected
 */
function expiryPhrase(job, isSelected) {
  const expiry = job.result_expires_at;
  if (!expiry || isActive(job)) return "";
  const isSoon = expiry - Date.now() / 1000 < SOON_SECONDS;
  return isSelected || isSoon ? `Kept until ${dateTime(expiry)}` : "";
}

/**
 * @param {HTMLElement} element
 * @param {number} share From 0 to 1.
 */
function setBar(element, share) {
  const bar = element.querySelector("i");
  if (bar) styled(bar, { transform: `scaleX(${share.toFixed(3)})` });
}

/**
 * @param {Element} parent
 * @param {Element[]} children
 */
function hasSameChildren(parent, children) {
  return parent.children.length === children.length && children.every((child, index) => parent.children[index] === child);
}

const STATES = /** @type {Record<string, string>} */ ({
  healthy: "Ready",
  loading: "Loading the model",
  draining: "Shutting down",
  failing: "The model does not work",
});
const MOST_SLOTS = 12;
const THEMES = /** @type {const} */ (["auto", "light", "dark"]);

/**
 * @param {HTMLElement} root
 * @param {Pick<import("./main.js").Context, "store" | "api">} context
 * @param {{askKey: () => void, showShortcuts: () => void}} actions
 */
export function openServerPanel(root, { store, api }, { askKey, showShortcuts }) {
  const details = h("div.menu.details", { id: "server-details", popover: "auto", "aria-label": "Server" });
  const state = h("button.state", { type: "button", popovertarget: details.id });
  const key = iconButton("key", "", { onclick: askKey });
  const tools = h(
    "div.tools",
    {},
    themeButton(),
    key,
    iconButton("keyboard", "Keyboard shortcuts", { onclick: showShortcuts, "aria-keyshortcuts": "?" }),
    h("a.text-button", { href: api.url("docs") }, "API"),
  );
  const needsKey = () => Boolean(store.server?.requires_key) && !api.key;
  const draw = () => {
    replace(state, stateContent(store, needsKey()));
    replace(details, detailsContent(store));
    key.hidden = !store.server?.requires_key;
    key.ariaLabel = key.title = api.key ? "Change the API key" : "Enter the API key";
  };
  root.append(h("footer.server", {}, state, details, tools));
  for (const topic of /** @type {const} */ (["health", "server", "connection"])) store.on(topic, draw);
  draw();
}

/**
 * @param {import("./store.js").Store} store
 * @param {boolean} needsKey
 */
function stateContent({ health, isConnected }, needsKey) {
  const isKnown = isConnected && health;
  const slots = isKnown ? health.concurrency : null;
  const missing = needsKey ? "An API key is needed" : "Connecting…";
  return [
    h(`span.dot.${isKnown ? health.status : "gone"}`),
    h(
      "span.words",
      {},
      h("b", {}, isKnown ? (STATES[health.status] ?? health.status) : missing),
      health && h("small", {}, `${modelName(health.model.name)} on ${health.device === "cuda" ? "GPU" : "CPU"}`),
    ),
    slots &&
      h(
        "span.slots",
        {},
        h(
          "span",
          { "aria-hidden": true },
          Array.from({ length: Math.min(MOST_SLOTS, slots.max_concurrent_requests) }, (_, index) =>
            h(index < slots.active_transcriptions ? "i.busy" : "i"),
          ),
        ),
        h("small", {}, slotsPhrase(slots)),
      ),
  ];
}

/** @param {{active_transcriptions: number, queued: number}} slots */
function slotsPhrase({ active_transcriptions: active, queued }) {
  if (queued) return `${queued} waiting`;
  return active ? `${active} running` : "idle";
}

/** @param {import("./store.js").Store} store */
function detailsContent({ health, server }) {
  const facts = /** @type {[string, string | number | undefined][]} */ ([
    ["Model", health && modelName(health.model.name)],
    ["Running", health && `${health.concurrency.active_transcriptions} of ${health.concurrency.max_concurrent_requests} at a time`],
    ["Waiting", health?.concurrency.queued],
    ["Largest file", server && size(server.max_upload_bytes)],
    ["Longest recording", server && duration(server.max_audio_seconds)],
    ["Results are kept for", server && duration(server.retention_seconds.default)],
    ["Version", server?.version],
  ]);
  const known = facts.filter(([, value]) => value !== undefined && value !== null);
  return h("dl", {}, known.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function themeButton() {
  const theme = THEMES.find((name) => name === localStorage.getItem("theme")) ?? "auto";
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "auto";
  const label = { auto: "Theme: automatic", light: "Theme: light", dark: "Theme: dark" }[theme];
  const button = iconButton(`theme-${theme}`, label);
  button.addEventListener("click", () => {
    localStorage.setItem("theme", next);
    dispatchEvent(new Event("theme")); // theme.js applies it
    const changed = themeButton();
    button.replaceWith(changed);
    changed.focus();
  });
  return button;
}
