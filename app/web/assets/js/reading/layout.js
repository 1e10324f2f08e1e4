/**
 * A transcript as paragraphs of plain text, with an index of its words. No DOM here.
 *
 * The server's word has the id of its segment and its offset in the segment's text. A *piece* is the part of a segment
 * that one paragraph shows: the part of one speaker, and with several channels the part between two pauses, so that turns
 * alternate. A paragraph is a list of pieces of one speaker.
 *
 * @typedef {{id: number, start: number, end: number, text: string, channel?: number, speaker?: string}} Segment
 * @typedef {{word: string, start: number, end: number, probability?: number, segment: number, offset: number,
 *   speaker?: string}} Word
 * @typedef {{key: string, segment: Segment, speaker: string, lead: string, text: string, start: number, end: number}} Piece
 *   `lead` is the white space before `text` that is not shown because a paragraph begins with it.
 * @typedef {object} Paragraph
 * @property {string} key
 * @property {string} speaker A label or a name, or "" if speakers were not told apart.
 * @property {number} voice The number of the speaker's colour: that of the channel, or else of the order of their first words.
 * @property {string} newSpeaker The speaker, if it is another one than before, or "".
 * @property {number} start
 * @property {number} end
 * @property {string} text
 * @property {Piece[]} pieces
 *
 * @typedef {{paragraphs: Paragraph[], words: WordIndex}} Layout
 */
/** Colours of speakers in the style sheet. From the ninth speaker on they are used again. */
export const VOICES = 8;
const PAUSE_BETWEEN_PARAGRAPHS = 2.0; // seconds
const PAUSE_IN_A_TURN = 0.9; // seconds
const LONG_PARAGRAPH = 420; // characters
const SENTENCE_END = /[.?!…。？！]["”»')\]]*\s*$/u;

/**
 * Lay out segments and words.
 *
 * @param {Segment[]} segments
 * @param {Word[]} words
 * @param {Layout | null} [previous] Of the same text before it was edited: its paragraphs stay, and its pieces where words
 *   are not known yet. By default, pauses and lengths decide where paragraphs begin.
 * @param {Map<string, string>} [names] New names of speakers, by those that segments and words have.
 * @returns {Layout}
 */
export function layOut(segments, words, previous = null, names = new Map()) {
  const ofSegment = grouped(words, (word) => word.segment);
  const before = grouped(previous?.paragraphs.flatMap((paragraph) => paragraph.pieces) ?? [], (piece) => piece.segment.id);
  const starts = new Set(previous?.paragraphs.map((paragraph) => paragraph.key));
  const pieces = segments.flatMap((segment) => {
    const own = ofSegment.get(segment.id);
    return (!own && keptPieces(segment, before.get(segment.id) ?? [])) || piecesOf(segment, own ?? []);
  });
  if (segments.some((segment) => segment.channel !== undefined)) pieces.sort((a, b) => a.start - b.start);
  const paragraphs = /** @type {Paragraph[]} */ ([]);
  for (const { piece } of pieces) {
    const last = paragraphs.at(-1);
    piece.speaker = names.get(piece.speaker) ?? piece.speaker;
    if (last && last.speaker === piece.speaker && !(previous ? starts.has(piece.key) : breaksBefore(piece, last))) extend(last, piece);
    else paragraphs.push(begin(piece));
  }
  tellSpeakersApart(paragraphs);
  return { paragraphs, words: indexed(paragraphs, pieces.map(({ placed }) => placed)) };
}

/**
 * @template T
 * @param {T[]} elements
 * @param {(element: T) => number} keyOf
 * @returns {Map<number, T[]>}
 */
function grouped(elements, keyOf) {
  const groups = /** @type {Map<number, T[]>} */ (new Map());
  for (const element of elements) {
    const key = keyOf(element), group = groups.get(key);
    if (group) group.push(element);
    else groups.set(key, [element]);
  }
  return groups;
}

/** Number the voices of paragraphs, and find where another one begins.
 * @param {Paragraph[]} paragraphs */
function tellSpeakersApart(paragraphs) {
  const voices = /** @type {Map<string, number>} */ (new Map());
  let last = "";
  for (const paragraph of paragraphs) {
    const { speaker, pieces } = paragraph;
    if (!voices.has(speaker)) voices.set(speaker, pieces[0]?.segment.channel ?? voices.size);
    paragraph.voice = voices.get(speaker) ?? 0;
    paragraph.newSpeaker = speaker === last ? "" : speaker;
    last = speaker;
  }
}

/** A word's place in its piece. @typedef {{word: Word, from: number, to: number}} Placed */

/**
 * Cut a segment into pieces, each with its words.
 *
 * @param {Segment} segment
 * @param {Word[]} words
 * @returns {{piece: Piece, placed: Placed[], start: number}[]}
 */
function piecesOf(segment, words) {
  const { id, text, channel } = segment;
  if (!text) return [];
  const placed = placedIn(text, words);
  const speakers = [placed[0]?.word.speaker ?? segment.speaker ?? (channel === undefined ? "" : speakerLetter(channel))];
  const cuts = [0];
  placed.forEach(({ word }, i) => {
    const previous = placed[i - 1], last = speakers.at(-1), speaker = word.speaker ?? last ?? "";
    if (!previous || (speaker === last && (channel === undefined || word.start - previous.word.end <= PAUSE_IN_A_TURN))) return;
    cuts.push(previous.to);
    speakers.push(speaker);
  });
  return cuts.map((from, i) => {
    const to = cuts[i + 1] ?? text.length;
    const own = placed.filter((one) => one.from >= from && one.from < to);
    const start = own[0]?.word.start ?? segment.start;
    const end = cuts.length > 1 ? own.at(-1)?.word.end ?? segment.end : segment.end;
    const piece = { key: `${id}.${i}`, segment, speaker: speakers[i] ?? "", lead: "", text: text.slice(from, to), start, end };
    return { piece, start, placed: own.map((one) => ({ ...one, from: one.from - from, to: one.to - from })) };
  });
}

/** Return the pieces that a segment had before, if there were several and its text is theirs.
 * @param {Segment} segment @param {Piece[]} before */
function keptPieces(segment, before) {
  const pieces = before.map((piece) => ({ ...piece, segment, lead: "", text: piece.lead + piece.text }));
  if (pieces.length < 2 || pieces.map(({ text }) => text).join("") !== segment.text) return null;
  return pieces.map((piece) => ({ piece, start: piece.start, placed: /** @type {Placed[]} */ ([]) }));
}

/** Convert offsets in code points into JavaScript's, which count UTF-16 units.
 * @param {string} text @param {Word[]} words @returns {Placed[]} */
function placedIn(text, words) {
  const units = /[\ud800-\udfff]/.test(text) ? unitOffsets(text) : null;
  return words.map((word) => {
    const from = units ? units[word.offset] ?? text.length : word.offset;
    return { word, from, to: Math.min(text.length, from + word.word.trim().length) };
  });
}

/** @param {string} text */
function unitOffsets(text) {
  const offsets = [0];
  for (const character of text) offsets.push(/** @type {number} */ (offsets.at(-1)) + character.length);
  return offsets;
}

/** @param {Piece} piece @param {Paragraph} last */
function breaksBefore(piece, last) {
  return piece.start - last.end > PAUSE_BETWEEN_PARAGRAPHS || (last.text.length > LONG_PARAGRAPH && SENTENCE_END.test(last.text));
}

/** @param {Piece} piece @returns {Paragraph} */
function begin(piece) {
  const text = piece.text.trimStart();
  piece.lead = piece.text.slice(0, piece.text.length - text.length);
  piece.text = text;
  const { key, speaker, start, end } = piece;
  return { key, speaker, voice: 0, newSpeaker: "", start, end, text, pieces: [piece] };
}

/** @param {Paragraph} paragraph @param {Piece} piece */
function extend(paragraph, piece) {
  paragraph.text += piece.text;
  paragraph.end = piece.end;
  paragraph.pieces.push(piece);
}

/**
 * @param {Paragraph[]} paragraphs
 * @param {Placed[][]} placed The words of each piece, in the order of the paragraphs. A piece without any is one word.
 */
function indexed(paragraphs, placed) {
  const words = /** @type {import("./layout.js").IndexedWord[]} */ ([]);
  let number = 0;
  paragraphs.forEach((paragraph, i) => {
    let at = 0;
    for (const { lead, text, start } of paragraph.pieces) {
      const own = placed[number++] ?? [];
      const base = at - lead.length;
      for (const { word, from, to } of own)
        words.push({ start: word.start, paragraph: i, from: Math.max(at, base + from), to: Math.max(at, base + to), probability: word.probability ?? 1 });
      if (!own.length) words.push({ start, paragraph: i, from: at, to: at + text.length, probability: 1 });
      at += text.length;
    }
  });
  return new WordIndex(words);
}

/**
 * Give a paragraph another text, as one change of its pieces.
 *
 * A change is what lies between the common beginning and the common end of both texts (the end first, so that a
 * sentence typed after another begins with its space). It goes to the piece in which it begins; text that is typed
 * between two pieces continues the first.
 *
 * @param {Paragraph} paragraph
 * @param {string} text
 * @returns {Segment[]} The segments whose text is now another one.
 */
export function changeText(paragraph, text) {
  const before = paragraph.text;
  const shorter = Math.min(before.length, text.length);
  let from = 0, tail = 0;
  while (tail < shorter && before.at(-1 - tail) === text.at(-1 - tail)) tail++;
  while (from < shorter - tail && before[from] === text[from]) from++;
  const to = before.length - tail, inserted = text.slice(from, text.length - tail);
  const changed = /** @type {Segment[]} */ ([]);
  let start = 0, pending = inserted !== "" || to > from;
  for (const piece of paragraph.pieces) {
    const end = start + piece.text.length, isLast = piece === paragraph.pieces.at(-1);
    const holdsChange = pending && (to > from ? from < end : from <= end || isLast);
    if (holdsChange || (start < to && end > from)) {
      const kept = [piece.text.slice(0, Math.max(0, from - start)), piece.text.slice(Math.max(0, to - start))];
      piece.text = kept.join(holdsChange ? inserted : "");
      if (!changed.includes(piece.segment)) changed.push(piece.segment);
    }
    pending &&= !holdsChange;
    start = end;
  }
  paragraph.text = text;
  return changed;
}

/** Return the text of a segment from its pieces.
 * @param {Paragraph[]} paragraphs @param {Segment} segment */
export function textOfSegment(paragraphs, segment) {
  const pieces = paragraphs.flatMap((paragraph) => paragraph.pieces.filter((piece) => piece.segment.id === segment.id));
  return pieces.map((piece) => piece.lead + piece.text).join("");
}

/** Return the letter of a speaker: A for channel 0; AA follows Z.
 * @param {number} channel @returns {string} */
export function speakerLetter(channel) {
  const letter = String.fromCharCode(65 + (channel % 26));
  return channel < 26 ? letter : speakerLetter(Math.floor(channel / 26) - 1) + letter;
}

/** Return true for a speaker without a name: a letter, or two of them up to the 32nd.
 * @param {string} speaker */
export const isLetter = (speaker) => /^([A-Z]|A[A-F])$/.test(speaker);

/** Return a speaker as people read it.
 * @param {string} speaker */
export const speakerTitle = (speaker) => (isLetter(speaker) ? `Speaker ${speaker}` : speaker);

/** Return the text with a blank line between paragraphs, and speakers where they change.
 * @param {Paragraph[]} paragraphs */
export const plainText = (paragraphs) =>
  paragraphs.map(({ newSpeaker, text }) => `${newSpeaker && `${speakerTitle(newSpeaker)}: `}${text.trim()}`).join("\n\n");

/**
 * @typedef {object} IndexedWord
 * @property {number} start Seconds.
 * @property {number} paragraph The number of its paragraph.
 * @property {number} from Offset in the paragraph's text.
 * @property {number} to
 * @property {number} probability 1 if it is not known.
 */

/** When each word is spoken and where it stands in the text, found by binary search. */
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
