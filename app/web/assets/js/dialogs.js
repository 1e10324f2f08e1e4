/** Dialogs that are loaded when somebody opens them: the API key, and the shortcuts. */
import { sentence } from "./api.js";
import { h, openDialog } from "./dom.js";

let keyDialog = /** @type {HTMLDialogElement | null} */ (null);

/**
 * Ask for an API key, try it, and store it if the server accepts it. Do nothing if the dialog is open.
 *
 * @param {{api: import("./api.js").Api, message?: string | undefined, onKey: () => void}} options
 */
export function openKeyDialog({ api, message = "", onKey }) {
  if (keyDialog?.open) return;
  const input = h("input.field", {
    ...{ id: "key", type: "password", value: api.key, required: true, autocomplete: "off", spellcheck: "false" },
    "aria-describedby": "key-problem",
  });
  const problem = h("p.problem", { id: "key-problem", role: "alert" }, api.key ? message : "");
  const forget = () => {
    api.key = "";
    dialog.close();
    onKey();
  };
  const submit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const key = input.value.trim();
    const refusal = await refusalOf(api, key);
    problem.textContent = refusal;
    if (refusal) return input.focus();
    api.key = key;
    dialog.close();
    onKey();
  };
  const dialog = openDialog(
    "API key",
    h("p", {}, "The key stays in this tab and is forgotten when you close it."),
    h(
      "form.form",
      { onsubmit: submit },
      h("label.label", { for: "key" }, "Key"),
      input,
      problem,
      h(
        "div.row.end",
        {},
        api.key && h("button.text-button", { type: "button", onclick: forget }, "Forget the key"),
        h("button.button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        h("button.button.primary", { type: "submit" }, "Use this key"),
      ),
    ),
  );
  keyDialog = dialog;
  input.select();
}

/**
 * Return the server's sentence if it refuses a key, else "".
 *
 * @param {import("./api.js").Api} api
 * @param {string} key
 */
async function refusalOf(api, key) {
  try {
    await api.request("v1/jobs?limit=1", { key });
    return "";
  } catch (error) {
    return sentence(error);
  }
}

/** @type {[string[], string][]} */
const SHORTCUTS = [
  [["Space"], "Play or pause"],
  [["←", "→"], "Back or forward by 5 s"],
  [["J", "L"], "Back or forward by 10 s"],
  [["<", ">"], "Slower, faster"],
  [["/"], "Search"],
  [["D"], "Next doubtful word"],
  [["E"], "Edit the text"],
  [["Ctrl", "Enter"], "Play or pause while editing"],
  [["F"], "Follow what is spoken"],
  [["N"], "New transcription"],
  [["?"], "This list"],
];

/** Show the keyboard shortcuts, and let the user switch single keys off. */
export function openShortcuts() {
  const toggle = (/** @type {Event} */ event) => {
    const isOn = /** @type {HTMLInputElement} */ (event.target).checked;
    localStorage.setItem("shortcuts", isOn ? "on" : "off");
  };
  const dialog = openDialog(
    "Keyboard shortcuts",
    h(
      "dl.shortcuts",
      {},
      SHORTCUTS.map(([keys, text]) => h("div", {}, h("dt", {}, text), h("dd", {}, keys.map((key) => h("kbd", {}, key))))),
    ),
    h(
      "label.check",
      {},
      h("input", { type: "checkbox", checked: localStorage.getItem("shortcuts") !== "off", onchange: toggle }),
      "Use single letters as shortcuts",
    ),
    h("div.row.end", {}, h("button.button", { type: "button", onclick: () => dialog.close() }, "Close")),
  );
}
