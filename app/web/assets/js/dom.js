/**
 * Elements, built from nodes and text alone: no string is ever parsed as HTML.
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

/**
 * Replace what an element contains, and return the element.
 *
 * @template {Element} E
 * @param {E} element
 * @param {Child[]} children
 * @returns {E}
 */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
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
