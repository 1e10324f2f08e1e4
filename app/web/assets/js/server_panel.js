/** The state of the server, and the page's own settings: theme, API key, shortcuts. */
import { h, replace } from "./dom.js";
import { duration, modelName, size } from "./format.js";
import { iconButton } from "./widgets.js";

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
  const tools = h("div.tools");
  const needsKey = () => Boolean(store.server?.requires_key) && !api.key;
  const draw = () => {
    replace(state, stateContent(store, needsKey()));
    replace(details, detailsContent(store));
    replace(
      tools,
      themeButton(),
      store.server?.requires_key && iconButton("key", api.key ? "Change the API key" : "Enter the API key", { onclick: askKey }),
      iconButton("keyboard", "Keyboard shortcuts", { onclick: showShortcuts, "aria-keyshortcuts": "?" }),
      h("a.text-button", { href: api.url("docs") }, "API"),
    );
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
