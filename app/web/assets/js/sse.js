/**
 * A parser of server-sent events, as the HTML standard defines them.
 *
 * `EventSource` can't send a key, so events are read with fetch and parsed here.
 *
 * @typedef {object} ServerEvent
 * @property {string} type The `event` field, or "message".
 * @property {string} data The `data` lines, joined by line feeds.
 * @property {string} id The last `id` so far, or "".
 */

export class EventParser {
  #buffer = "";
  #data = /** @type {string[]} */ ([]);
  #type = "";
  #id = "";

  /**
   * Return the events that are complete with this piece of text. Pieces may end anywhere.
   *
   * @param {string} text
   * @returns {ServerEvent[]}
   */
  push(text) {
    const lines = (this.#buffer + text).split(/\r\n|\n|\r(?!$)/); // a CR at the end may be half of a CRLF
    this.#buffer = lines.pop() ?? "";
    const events = [];
    for (const line of lines) {
      if (line) this.#field(line);
      else if (this.#data.length) events.push({ type: this.#type || "message", data: this.#data.join("\n"), id: this.#id });
      if (!line) this.#reset();
    }
    return events;
  }

  #reset() {
    this.#data = [];
    this.#type = "";
  }

  /** @param {string} line */
  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
  }
}
