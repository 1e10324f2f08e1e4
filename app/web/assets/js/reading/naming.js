/** The editor of a speaker's name, at the speaker that was chosen. */
import { announce, h, styled } from "../dom.js";
import { isLetter, speakerTitle } from "./layout.js";

/** The most characters of a name that the server accepts. */
const LONGEST_NAME = 64;
/** Control characters, and those that change the direction of text. */
const UNPRINTABLE = /[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069]/gu;
const MARGIN = 8; // pixels

/**
 * Open the editor. Escape and a click elsewhere close it without a change, and the focus goes back to the button.
 *
 * @param {HTMLButtonElement} button Shows the speaker.
 * @param {string} speaker A label or a name.
 * @param {import("./layout.js").Paragraph[]} paragraphs Of all speakers.
 * @param {(name: string) => void} onName Called with the name, which is empty to take the name back.
 */
export function openNaming(button, speaker, paragraphs, onName) {
  const title = speakerTitle(speaker), count = paragraphs.filter((paragraph) => paragraph.speaker === speaker).length;
  const others = [...new Set(paragraphs.map((paragraph) => paragraph.speaker))].filter((other) => other && other !== speaker);
  const input = h("input.field", {
    id: "speaker-name", value: isLetter(speaker) ? "" : speaker, placeholder: title, maxlength: String(LONGEST_NAME), dir: "auto",
    autocomplete: "off", list: "speaker-names", "aria-describedby": "speaker-hint",
  });
  const close = () => editor.hidePopover();
  const save = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const name = input.value.replace(UNPRINTABLE, "").trim();
    close();
    if (name !== (isLetter(speaker) ? "" : speaker)) {
      onName(name);
      announce(name ? `${title} is now ${name}.` : `${title} has no name.`);
    }
  };
  const hint = `For ${count === 1 ? "the paragraph" : `all ${count} paragraphs`} of this speaker.`;
  const editor = h("div.naming", { popover: "auto", role: "dialog", "aria-label": `Name ${title}` },
    h("form", { onsubmit: save },
      h("label.label", { for: "speaker-name" }, `Name of ${title}`), input,
      h("datalist", { id: "speaker-names" }, others.map((other) => h("option", { value: other, label: speakerTitle(other) }))),
      h("small", { id: "speaker-hint" }, isLetter(speaker) ? hint : `${hint} Leave it empty to take the name back.`),
      h("div.row.end", {}, h("button.button", { type: "button", onclick: close }, "Cancel"), h("button.button.primary", { type: "submit" }, "Save"))));
  editor.addEventListener("toggle", (event) => {
    if (/** @type {ToggleEvent} */ (event).newState === "closed") editor.remove();
  });
  button.closest("main")?.append(editor);
  button.focus({ preventScroll: true }); // not every browser does this on a click, and there the focus returns
  editor.showPopover();
  placeAt(button, editor);
  input.focus();
  input.select();
}

/** @param {HTMLElement} button @param {HTMLElement} box */
function placeAt(button, box) {
  const { left, top, bottom } = button.getBoundingClientRect();
  const fits = bottom + box.offsetHeight + MARGIN <= innerHeight;
  styled(box, {
    left: `${Math.max(MARGIN, Math.min(left, innerWidth - box.offsetWidth - MARGIN))}px`,
    top: `${fits ? bottom + 4 : Math.max(MARGIN, top - box.offsetHeight - 4)}px`,
  });
}
