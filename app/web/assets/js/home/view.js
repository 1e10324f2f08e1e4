/** The start view. */
import { h } from "../dom.js";

/**
 * @param {import("../main.js").Context} context
 * @returns {import("../main.js").View}
 */
export function openHome(context) {
  const element = h("div.home", {}, h("h1", {}, "Turn speech into text"));
  return { element, close: () => (context.staging.onChange = () => {}) };
}
