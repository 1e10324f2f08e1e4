/**
 * Elements, built from nodes and text alone, since no string is ever parsed as HTML; and small parts that every view uses:
 * icons, short messages, menus and dialogs.
 *
 * @typedef {Node | string | number | null | undefined | false | readonly any[]} Child Arrays may be nested.
 * @typedef {Record<string, unknown>} Attributes
 */

/**
 * @template {string} Tag
 * @typedef {Tag extends keyof HTMLElementTagNameMap ? HTMLElementTagNameMap[Tag] : HTMLElement} ElementOf
 */

/** Attributes that are set as properties, because the attribute is only their first value. */
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "open", "selected", "multiple", "indeterminate"]);

/**
 * Return a new element: `h("button.primary", {onclick, "aria-label": "Play"}, "Play", icon("play"))`.
 *
 * Functions named `on…` become listeners; `null`, `undefined` and `false` are left out, except that `aria-*` booleans are
 * written as "true" and "false".
 *
 * @template {string} Spec
 * @param {Spec} spec The tag, followed by classes: `div.row.end`.
 * @param {Attributes} [attributes]
 * @param {Child[]} children
 * @returns {Spec extends `${infer Tag}.${string}` ? ElementOf<Tag> : ElementOf<Spec>}
 */
export function h(spec, attributes = {}, ...children) {
  const [tag = "div", ...classes] = spec.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
  append(element, children);
  return /** @type {any} */ (element);
}

/**
 * @param {HTMLElement} element
 * @param {string} name
 * @param {unknown} value
 */
function setAttribute(element, name, value) {
  if (name.startsWith("aria-") && typeof value === "boolean") element.setAttribute(name, String(value));
  else if (value == null || value === false) return;
  else if (typeof value === "function") element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
  else if (PROPERTIES.has(name)) Reflect.set(element, name, value);
  else element.setAttribute(name, value === true ? "" : String(value));
}

/**
 * @param {Element} element
 * @param {readonly Child[]} children
 */
function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child != null && child !== false) element.append(/** @type {Node | string} */ (child));
  }
}

/** What elements that `redraw` has filled show. @type {WeakMap<Element, string>} */
const signatures = new WeakMap();

/**
 * Replace what an element contains, and return the element.
 *
 * @template {Element} E
 * @param {E} element
 * @param {Child[]} children
 * @returns {E}
 */
export function replace(element, ...children) {
  signatures.delete(element);
  element.replaceChildren();
  append(element, children);
  return element;
}

/**
 * Replace what an element contains, unless its signature is the same as the last time: what is used stays as it is.
 *
 * @param {Element} element
 * @param {string} signature Changes with what the element shows.
 * @param {() => Child[]} content
 */
export function redraw(element, signature, content) {
  if (signatures.get(element) === signature) return;
  replace(element, content());
  signatures.set(element, signature);
}

/**
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Set a style through the CSSOM, which the Content-Security-Policy allows.
 *
 * @template {HTMLElement | SVGElement} E
 * @param {E} element
 * @param {Record<string, string | number>} styles CSS properties, custom ones included.
 * @returns {E}
 */
export function styled(element, styles) {
  for (const [name, value] of Object.entries(styles)) element.style.setProperty(name, String(value));
  return element;
}

/**
 * Return true if what is pressed or pasted belongs to a field, a dialog or a menu, and not to the page's shortcuts.
 *
 * @param {EventTarget | null} target
 */
export function isTyping(target) {
  return target instanceof Element && target.closest("input, textarea, select, [contenteditable], dialog, [popover]") !== null;
}

/** Outlines on a grid of 24 by 24. */
const ICONS = {
  add: "M12 5v14M5 12h14",
  back: "M11 7 6 12l5 5M6 12h13",
  back5: "M12 6a6.5 6.5 0 1 1-6.3 5M12 6l-3-3m3 3L9 9",
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6 6 18",
  code: "M9 8l-4 4 4 4M15 8l4 4-4 4",
  copy: "M9 9V6a2 2 0 0 1 2-2h7a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2h-3M6 9h7a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2v-7a2 2 0 0 1 2-2Z",
  doubt: "M9.5 9.5a2.6 2.6 0 1 1 3.9 2.3c-.9.5-1.4 1-1.4 2M12 17v.01M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18Z",
  download: "M12 4v11m0 0 4.5-4.5M12 15l-4.5-4.5M5 20h14",
  edit: "M4 20l1-4L16.5 4.5a2 2 0 0 1 3 3L8 19l-4 1Z",
  file: "M7 3h7l4 4v13a1 1 0 0 1-1 1H7a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1Zm7 0v4h4",
  follow: "M12 4v16m0 0 5-5m-5 5-5-5",
  forward5: "M12 6a6.5 6.5 0 1 0 6.3 5M12 6l3-3m-3 3 3 3",
  key: "M8 19.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9Zm3.3-7.7L19.5 4M16 7.5l2.8 2.8",
  keyboard: "M4 7h16a1 1 0 0 1 1 1v8a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V8a1 1 0 0 1 1-1Zm3 4v.01M11 11v.01M15 11v.01M8 14h8",
  link: "M10 14a4 4 0 0 0 5.7 0l3.1-3.1a4 4 0 0 0-5.7-5.7L12 6.3M14 10a4 4 0 0 0-5.7 0l-3.1 3.1a4 4 0 0 0 5.7 5.7l1.1-1.1",
  microphone: "M12 15a3.5 3.5 0 0 0 3.5-3.5v-5a3.5 3.5 0 0 0-7 0v5A3.5 3.5 0 0 0 12 15Zm-6.5-4a6.5 6.5 0 0 0 13 0M12 17.5V21",
  more: "M5.5 12v.01M12 12v.01M18.5 12v.01",
  pause: "M8 5v14M16 5v14",
  play: "M8 5.2v13.6a.6.6 0 0 0 .9.5l10.8-6.8a.6.6 0 0 0 0-1L8.9 4.7a.6.6 0 0 0-.9.5Z",
  retry: "M19 12a7 7 0 1 1-2-4.9M17.5 3v4.5H13",
  search: "M11 17.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13Zm4.7-1.8L20 20",
  send: "M5 12h13m0 0-5-5m5 5-5 5",
  stop: "M7 7h10v10H7z",
  "theme-auto": "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18Zm0-18v18m3-16.6v15.2m3-12.6v10",
  "theme-dark": "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5Z",
  "theme-light": "M12 16.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9ZM12 2v2m0 16v2M2 12h2m16 0h2M5 5l1.4 1.4m11.2 11.2L19 19M19 5l-1.4 1.4M6.4 17.6 5 19",
  trash: "M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12",
  tune: "M5 7h8m4 0h2M5 17h2m4 0h8M15 9.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5ZM9 19.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5Z",
  undo: "M9 7 4.5 11.5 9 16M5 11.5h9a5 5 0 0 1 0 10h-2",
  upload: "M12 15V4m0 0L7.5 8.5M12 4l4.5 4.5M4 15v3a2 2 0 0 0 2 2h12a2 2 0 0 0 2-2v-3",
  warning: "M12 9v4m0 3.5v.01M10.3 4.6 2.9 17.5A2 2 0 0 0 4.6 20.5h14.8a2 2 0 0 0 1.7-3L13.7 4.6a2 2 0 0 0-3.4 0Z",
};
/** @typedef {keyof typeof ICONS} IconName */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Return a decorative icon. It says nothing to screen readers, so its button needs a label.
 *
 * @param {IconName} name
 * @param {number} size In pixels.
 */
export function icon(name, size = 20) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", width: size, height: size, "aria-hidden": "true", class: "icon" }))
    svg.setAttribute(key, String(value));
  const isFilled = name === "play" || name === "stop";
  const width = name === "pause" || name === "more" ? "3" : "1.75";
  for (const [key, value] of Object.entries({ d: ICONS[name], fill: isFilled ? "currentColor" : "none", "stroke-width": width }))
    path.setAttribute(key, value);
  svg.append(path);
  return svg;
}

/**
 * Return a button that shows only an icon.
 *
 * @param {IconName} name
 * @param {string} label For screen readers, and as a tooltip.
 * @param {import("./dom.js").Attributes} attributes
 */
export function iconButton(name, label, attributes = {}) {
  return h("button.icon-button", { type: "button", "aria-label": label, title: label, ...attributes }, icon(name));
}

/**
 * Show a message for some seconds, or until it is closed if it stays or is an error. Screen readers read it once.
 *
 * @param {string} message
 * @param {{isError?: boolean, stays?: boolean, action?: {label: string, run: () => void}}} options
 */
export function toast(message, { isError = false, stays = isError, action } = {}) {
  const remove = () => box.remove();
  const run = () => {
    remove();
    action?.run();
  };
  const box = h(
    isError ? "div.toast.error" : "div.toast",
    {},
    icon(isError ? "warning" : "check", 18),
    h("span", {}, message),
    action && h("button.text-button", { type: "button", onclick: run }, action.label),
    stays && h("button.text-button", { type: "button", "aria-label": "Close the message", onclick: remove }, icon("close", 18)),
  );
  document.getElementById(isError ? "alerts" : "toasts")?.append(box);
  if (!stays) setTimeout(remove, action ? 10000 : 5000);
  return remove;
}

/**
 * Say something to screen readers only. Use it sparingly.
 *
 * @param {string} message
 */
export function announce(message) {
  const region = document.getElementById("announcements");
  if (region) region.textContent = message;
}

let menuCount = 0;

/**
 * @typedef {object} MenuItem
 * @property {string} label
 * @property {string} [hint] A short grey text behind the label.
 * @property {IconName} [icon]
 * @property {boolean} [isDangerous]
 * @property {() => void} run
 */

/**
 * Make a button open a menu, and return the menu, which belongs beside the button in the document.
 *
 * The menu is a native popover: it closes by itself and stays above everything. Its items are made when it opens, and stay.
 *
 * @param {HTMLButtonElement} button
 * @param {() => (MenuItem | null | false | undefined)[]} items
 */
export function menu(button, items) {
  const id = `menu-${++menuCount}`;
  const list = h("div.menu", { id, popover: "auto", role: "menu", "aria-label": button.getAttribute("aria-label") ?? button.textContent });
  const itemOf = (/** @type {MenuItem} */ item) => {
    const run = () => {
      list.hidePopover();
      item.run();
    };
    return h(
      item.isDangerous ? "button.dangerous" : "button",
      { type: "button", role: "menuitem", tabindex: "-1", onclick: run },
      item.icon && icon(item.icon, 18),
      h("span", {}, item.label),
      item.hint && h("small", {}, item.hint),
    );
  };
  button.setAttribute("popovertarget", id);
  button.setAttribute("aria-haspopup", "menu");
  button.setAttribute("aria-expanded", "false");
  list.addEventListener("beforetoggle", (event) => {
    if (/** @type {ToggleEvent} */ (event).newState === "open") replace(list, items().map((item) => item && itemOf(item)));
  });
  list.addEventListener("toggle", (event) => {
    const isOpen = /** @type {ToggleEvent} */ (event).newState === "open";
    button.setAttribute("aria-expanded", String(isOpen));
    if (!isOpen) return;
    placeUnder(button, list);
    list.querySelector("button")?.focus();
  });
  list.addEventListener("keydown", (event) => moveFocus(event, [...list.querySelectorAll("button")]));
  return list;
}

/**
 * @param {HTMLElement} anchor
 * @param {HTMLElement} box
 */
function placeUnder(anchor, box) {
  const { right, top, bottom } = anchor.getBoundingClientRect();
  const left = Math.max(8, Math.min(right - box.offsetWidth, innerWidth - box.offsetWidth - 8));
  const fits = bottom + box.offsetHeight + 12 <= innerHeight;
  styled(box, { left: `${left}px`, top: `${fits ? bottom + 6 : Math.max(8, top - box.offsetHeight - 6)}px` });
}

/**
 * Move the focus with the arrow keys, Home and End.
 *
 * @param {KeyboardEvent} event
 * @param {HTMLElement[]} elements In order.
 */
export function moveFocus(event, elements) {
  const at = elements.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  const targets = /** @type {Record<string, number>} */ ({ ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: elements.length - 1 });
  const target = targets[event.key];
  if (target === undefined || !elements.length || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  elements[(target + elements.length) % elements.length]?.focus();
}

/**
 * Show a modal dialog, and return it. Escape and a click outside close it, and the focus goes back to where it was.
 *
 * @param {string} title
 * @param {import("./dom.js").Child[]} children
 * @returns {HTMLDialogElement}
 */
export function openDialog(title, ...children) {
  const heading = h("h2", { id: `dialog-${++menuCount}` }, title);
  const dialog = h("dialog", { "aria-labelledby": heading.id }, heading, children);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("mousedown", (event) => {
    if (event.target === dialog && dialog.dispatchEvent(new Event("cancel", { cancelable: true }))) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * Ask before something that can't be undone. Resolve to true if the user agrees.
 *
 * @param {string} title
 * @param {string} question
 * @param {string} action The label of the button that agrees.
 * @returns {Promise<boolean>}
 */
export function confirmed(title, question, action) {
  return new Promise((resolve) => {
    const agree = () => dialog.close("agreed");
    const dialog = openDialog(
      title,
      h("p", {}, question),
      h(
        "div.row.end",
        {},
        h("button.button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        h("button.button.primary", { type: "button", onclick: agree }, action),
      ),
    );
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "agreed"));
  });
}
