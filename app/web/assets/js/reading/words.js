/** The words of a transcript: when each is spoken and where it stands in the text, found by binary search. */

/**
 * @typedef {object} IndexedWord
 * @property {number} start Seconds.
 * @property {number} paragraph The number of its paragraph.
 * @property {number} from Offset in the paragraph's text.
 * @property {number} to
 * @property {number} probability 1 if it is not known.
 */

export class WordIndex {
  /** @param {IndexedWord[]} words In the order of the text. */
  constructor(words) {
    this.words = words;
    /** Words by start time, which is another order if people on several channels speak at once. */
    this.byTime = words;
    if (words.some((word, i) => i > 0 && word.start < (words[i - 1]?.start ?? 0))) this.byTime = [...words].sort((a, b) => a.start - b.start);
  }

  /** Return the word that is spoken at a time, or was the last one before it; null before the first word.
   * @param {number} seconds */
  atTime(seconds) {
    return this.byTime[countBefore(this.byTime, (word) => word.start <= seconds + 0.01) - 1] ?? null;
  }

  /** Return the words of a paragraph from the one at an offset on: that one first.
   * @param {number} paragraph @param {number} offset @param {number} count At most this many. */
  fromOffset(paragraph, offset, count = 1) {
    const first = countBefore(this.words, (word) => word.paragraph < paragraph || (word.paragraph === paragraph && word.to < offset));
    return this.words.slice(first, first + count).filter((word) => word.paragraph === paragraph);
  }

  /**
   * Return the words that are worth a second look, in the order of the text: the least probable ones, at most a small
   * share of all, since marking many is as much work as reading everything.
   *
   * @param {{below?: number, share?: number}} [limits] A probability, and a fraction of all words.
   */
  doubtful({ below = 0.5, share = 0.03 } = {}) {
    const improbable = this.words.filter((word) => word.probability < below);
    const most = Math.ceil(this.words.length * share);
    if (improbable.length <= most) return improbable;
    const least = new Set(improbable.sort((a, b) => a.probability - b.probability).slice(0, most));
    return this.words.filter((word) => least.has(word));
  }
}

/**
 * Return how many elements pass, if those that pass come first.
 *
 * @template T
 * @param {T[]} sorted
 * @param {(element: T) => boolean} passes
 */
function countBefore(sorted, passes) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (passes(/** @type {T} */ (sorted[middle]))) low = middle + 1;
    else high = middle;
  }
  return low;
}
