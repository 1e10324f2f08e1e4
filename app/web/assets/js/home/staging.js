/**
 * Recordings that were chosen, but not sent yet.
 *
 * @typedef {object} Staged
 * @property {number} id
 * @property {string} name Editable.
 * @property {File} [file]
 * @property {string} [url] Instead of a file.
 * @property {boolean} [isRecorded] It exists in this tab only.
 */

const LONGEST_NAME = 255;

export class Staging {
  /** @type {Staged[]} */
  items = [];
  /** Called after every change of the list. */
  onChange = () => {};
  #count = 0;

  /** @param {File[]} files */
  addFiles(files) {
    for (const file of files) this.items.push({ id: ++this.#count, name: cleanName(file.name), file });
    this.onChange();
  }

  /**
   * Add what was recorded in this tab.
   *
   * @param {File} file
   */
  addRecording(file) {
    this.items.push({ id: ++this.#count, name: file.name.replace(/\.\w+$/, ""), file, isRecorded: true });
    this.onChange();
  }

  get hasRecording() {
    return this.items.some((item) => item.isRecorded);
  }

  /**
   * Add a link and return true, if the text is one.
   *
   * @param {string} text
   */
  addLink(text) {
    const url = text.trim();
    if (!/^https?:\/\/\S+$/i.test(url) || !URL.canParse(url)) return false;
    this.items.push({ id: ++this.#count, name: cleanName(nameOfLink(new URL(url))), url });
    this.onChange();
    return true;
  }

  /** @param {Staged} item */
  remove(item) {
    this.items = this.items.filter((other) => other !== item);
    this.onChange();
  }
}

/**
 * Return a name without what could make it look like another one: control characters, and those that turn text around.
 *
 * @param {string} name
 */
export function cleanName(name) {
  return [...name.replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, "")].slice(0, LONGEST_NAME).join("");
}

/**
 * Return the last part of a link's path, or its host.
 *
 * @param {URL} url
 */
function nameOfLink(url) {
  const last = url.pathname.split("/").pop() ?? "";
  try {
    return decodeURIComponent(last) || url.hostname;
  } catch {
    return last; // not UTF-8
  }
}
