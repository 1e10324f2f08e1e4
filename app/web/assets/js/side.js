/** The side of the page: the list of jobs and the state of the server. */
import { h, replace } from "./dom.js";
import { jobPhrase, jobTitle } from "./format.js";

/**
 * @param {HTMLElement} root
 * @param {import("./main.js").Context} context
 * @param {{askKey: () => void, showShortcuts: () => void}} actions
 */
export function openSide(root, { store }, { askKey, showShortcuts }) {
  const list = h("ul", {});
  root.append(list, h("button.button", { onclick: () => askKey() }, "API key"), h("button.button", { onclick: showShortcuts }, "Shortcuts"));
  store.on("jobs", () =>
    replace(list, [...store.jobs.values()].map((job) => h("li", {}, h("a", { href: `#/jobs/${job.job_id}` }, `${jobTitle(job)} ${jobPhrase(job)}`)))),
  );
  return { select: (/** @type {string | null} */ _id) => {}, focusSearch: () => {} };
}
