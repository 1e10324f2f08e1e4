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

export class Staging {
  /** @type {Staged[]} */
  items = [];
  /** Called after every change of the list. */
  onChange = () => {};
  #count = 0;

  /** @param {File[]} files */
  addFiles(files) {
    for (const file of files) this.items.push({ id: ++this.#count, name: file.name, file });
    this.onChange();
  }

  /**
   * Add what was recorded in this tab.
   *
   * @param {File} file
   */
  addRecording(file) {
    this.items.push({ id: ++this.#count, name: file.name, file, isRecorded: true });
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
    this.items.push({ id: ++this.#count, name: nameOfLink(new URL(url)), url });
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
