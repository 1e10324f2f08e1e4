/**
 * A transcript as paragraphs of plain text, with an index of its words: pure functions, no DOM.
 *
 * The server's word has the id of its segment and its offset in the segment's text. A *piece* is the part of a segment
 * that one paragraph shows: the whole segment, or with several channels the part between two pauses, so that turns
 * alternate. A paragraph is a list of pieces of one channel.
 *
 * @typedef {{id: number, start: number, end: number, text: string, channel?: number}} Segment
 * @typedef {{word: string, start: number, end: number, probability?: number, segment: number, offset: number}} Word
 * @typedef {{key: string, segment: Segment, lead: string, text: string, start: number, end: number}} Piece
 *   `lead` is the white space before `text` that is not shown because a paragraph begins with it.
 * @typedef {{key: string, channel?: number, start: number, end: number, text: string, pieces: Piece[]}} Paragraph
 * @typedef {{starts: Float64Array, ends: Float64Array, paragraph: Int32Array, from: Int32Array, to: Int32Array,
 *   probability: Float32Array, order: Uint32Array}} WordIndex
 *   One entry per word, in the order of the text; `order` lists the words by start time, `from` and `to` are
 *   offsets in the paragraph's text, and a `probability` that is not known is 1.
 * @typedef {{paragraphs: Paragraph[], words: WordIndex, hasWordTimes: boolean}} Layout
 */

const PAUSE_BETWEEN_PARAGRAPHS = 2.0; // seconds
const PAUSE_IN_A_TURN = 0.9; // seconds
const LONG_PARAGRAPH = 420; // characters
const SENTENCE_END = /[.?!…。？！]["”»')\]]*\s*$/u;

/**
 * Lay out segments and words.
 *
 * @param {Segment[]} segments
 * @param {Word[]} words
 * @param {Set<string>} [starts] Keys of the pieces that begin a paragraph; by default, pauses and lengths decide.
 * @returns {Layout}
 */
export function layOut(segments, words, starts) {
  const ofSegment = wordsBySegment(words);
  const pieces = segments.flatMap((segment) => piecesOf(segment, ofSegment.get(segment.id) ?? []));
  if (segments.some((segment) => segment.channel !== undefined)) pieces.sort((a, b) => a.start - b.start);
  const paragraphs = /** @type {Paragraph[]} */ ([]);
  for (const { piece } of pieces) {
    const last = paragraphs.at(-1);
    if (last && !(starts ? starts.has(piece.key) : breaksBefore(piece, last))) extend(last, piece);
    else paragraphs.push(begin(piece));
  }
  return { paragraphs, words: indexed(paragraphs, pieces), hasWordTimes: words.length > 0 };
}

/** Return the keys of the pieces with which paragraphs begin, to lay out an edited text in the same paragraphs.
 * @param {Layout} layout */
export const paragraphStarts = ({ paragraphs }) => new Set(paragraphs.map((paragraph) => paragraph.key));

/** @param {Word[]} words */
function wordsBySegment(words) {
  const groups = /** @type {Map<number, Word[]>} */ (new Map());
  for (const word of words) {
    const group = groups.get(word.segment);
    if (group) group.push(word);
    else groups.set(word.segment, [word]);
  }
  return groups;
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
  if (!segment.text) return [];
  const placed = placedIn(segment.text, words);
  const cuts = [0];
  if (segment.channel !== undefined)
    for (let i = 1; i < placed.length; i++)
      if (placed[i].word.start - placed[i - 1].word.end > PAUSE_IN_A_TURN) cuts.push(placed[i - 1].to);
  return cuts.map((from, i) => {
    const to = cuts[i + 1] ?? segment.text.length;
    const own = placed.filter((one) => one.from >= from && one.from < to);
    const start = own[0]?.word.start ?? segment.start;
    const end = cuts.length > 1 ? own.at(-1)?.word.end ?? segment.end : segment.end;
    const piece = { key: `${segment.id}.${i}`, segment, lead: "", text: segment.text.slice(from, to), start, end };
    return { piece, start, placed: own.map((one) => ({ ...one, from: one.from - from, to: one.to - from })) };
  });
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
  return (
    piece.segment.channel !== last.channel ||
    piece.start - last.end > PAUSE_BETWEEN_PARAGRAPHS ||
    (last.text.length > LONG_PARAGRAPH && SENTENCE_END.test(last.text))
  );
}

/** @param {Piece} piece @returns {Paragraph} */
function begin(piece) {
  const text = piece.text.trimStart();
  piece.lead = piece.text.slice(0, piece.text.length - text.length);
  piece.text = text;
  const { key, start, end } = piece;
  return { key, channel: piece.segment.channel, start, end, text, pieces: [piece] };
}

/** @param {Paragraph} paragraph @param {Piece} piece */
function extend(paragraph, piece) {
  paragraph.text += piece.text;
  paragraph.end = piece.end;
  paragraph.pieces.push(piece);
}

/**
 * @param {Paragraph[]} paragraphs
 * @param {{piece: Piece, placed: Placed[]}[]} pieces In the order of the paragraphs.
 * @returns {WordIndex}
 */
function indexed(paragraphs, pieces) {
  const count = pieces.reduce((sum, { placed }) => sum + (placed.length || 1), 0);
  const index = {
    starts: new Float64Array(count), ends: new Float64Array(count), probability: new Float32Array(count).fill(1),
    paragraph: new Int32Array(count), from: new Int32Array(count), to: new Int32Array(count),
    order: Uint32Array.from({ length: count }, (_, i) => i),
  };
  let i = 0, piece = 0;
  paragraphs.forEach((paragraph, number) => {
    let at = 0;
    for (const { lead, text, start, end } of paragraph.pieces) {
      const { placed } = pieces[piece++];
      const words = placed.length ? placed : [{ word: { start, end }, from: lead.length, to: lead.length + text.length }];
      for (const { word, from, to } of words) {
        index.starts[i] = word.start;
        index.ends[i] = word.end;
        if ("probability" in word && word.probability !== undefined) index.probability[i] = word.probability;
        index.paragraph[i] = number;
        index.from[i] = at + Math.max(0, from - lead.length);
        index.to[i++] = at + Math.max(0, to - lead.length);
      }
      at += text.length;
    }
  });
  const { starts, order } = index;
  if (starts.some((start, k) => k > 0 && start < starts[k - 1])) order.sort((a, b) => starts[a] - starts[b]);
  return index;
}

/** Return the last position in `0..count` whose predecessors all pass, by binary search.
 * @param {number} count @param {(i: number) => boolean} passes */
function partition(count, passes) {
  let low = 0, high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (passes(middle)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Return the word that is spoken at a time, or was the last one before it; -1 before the first word.
 * @param {WordIndex} words @param {number} seconds */
export function wordAtTime({ order, starts }, seconds) {
  const next = partition(order.length, (i) => starts[order[i]] <= seconds + 0.01);
  return next ? order[next - 1] : -1;
}

/** Return the word at an offset of a paragraph's text, or the next one; -1 if there is none.
 * @param {WordIndex} words @param {number} paragraph @param {number} offset */
export function wordAtOffset(words, paragraph, offset) {
  const i = partition(words.starts.length, (k) =>
    words.paragraph[k] < paragraph || (words.paragraph[k] === paragraph && words.to[k] < offset));
  return words.paragraph[i] === paragraph ? i : -1;
}

/**
 * Return the words that are worth a second look, in the order of the text: the least probable ones, at most a small
 * share of all, since marking many is as much work as reading everything.
 *
 * @param {WordIndex} words
 * @param {{below?: number, share?: number}} [limits] A probability, and a fraction of all words.
 */
export function doubtfulWords({ probability }, { below = 0.5, share = 0.03 } = {}) {
  const improbable = [];
  for (let i = 0; i < probability.length; i++) if (probability[i] < below) improbable.push(i);
  const most = Math.ceil(probability.length * share);
  if (improbable.length > most) {
    improbable.sort((a, b) => probability[a] - probability[b]);
    improbable.length = most;
  }
  return improbable.sort((a, b) => a - b);
}

/**
 * Return where a text occurs, regardless of case and accents.
 *
 * @param {Paragraph[]} paragraphs
 * @param {string} sought
 * @returns {{paragraph: number, from: number, to: number}[]} Offsets in the paragraph's text.
 */
export function occurrences(paragraphs, sought) {
  const { text: needle } = folded(sought.trim().replace(/\s+/gu, " "));
  if (!needle) return [];
  return paragraphs.flatMap((paragraph, number) => {
    const { text, offsets } = foldedParagraph(paragraph);
    const found = [];
    for (let at = text.indexOf(needle); at >= 0; at = text.indexOf(needle, at + needle.length)) {
      const to = at + needle.length;
      found.push({ paragraph: number, from: offsets ? offsets[at] : at, to: offsets ? offsets[to] : to });
    }
    return found;
  });
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
  foldedTexts.delete(paragraph);
  return changed;
}

/** Return the text of a segment from its pieces.
 * @param {Paragraph[]} paragraphs @param {Segment} segment */
export function textOfSegment(paragraphs, segment) {
  const pieces = paragraphs.flatMap((paragraph) => paragraph.pieces.filter((piece) => piece.segment.id === segment.id));
  return pieces.map((piece) => piece.lead + piece.text).join("");
}

const foldedTexts = /** @type {WeakMap<Paragraph, {text: string, offsets: number[] | null}>} */ (new WeakMap());

/** @param {Paragraph} paragraph */
function foldedParagraph(paragraph) {
  const known = foldedTexts.get(paragraph) ?? folded(paragraph.text);
  foldedTexts.set(paragraph, known);
  return known;
}

/** Lower the case and remove accents. `offsets` maps positions back, null if nothing moved.
 * @param {string} text @returns {{text: string, offsets: number[] | null}} */
function folded(text) {
  if (/^[\x20-\x7e]*$/.test(text)) return { text: text.toLowerCase(), offsets: null };
  let result = "", at = 0;
  const offsets = [];
  for (const character of text) {
    const plain = foldedCharacter(character);
    for (let i = 0; i < plain.length; i++) offsets.push(at);
    result += plain;
    at += character.length;
  }
  return { text: result, offsets: [...offsets, at] };
}

const foldedCharacters = /** @type {Map<string, string>} */ (new Map());

/** @param {string} character */
function foldedCharacter(character) {
  let plain = foldedCharacters.get(character);
  if (plain === undefined) {
    plain = character.toLowerCase().normalize("NFD").replace(/\p{M}/gu, "");
    foldedCharacters.set(character, plain);
  }
  return plain;
}

/** Return the letter of a speaker: A for channel 0; AA follows Z.
 * @param {number} channel @returns {string} */
export function speakerLetter(channel) {
  const letter = String.fromCharCode(65 + (channel % 26));
  return channel < 26 ? letter : speakerLetter(Math.floor(channel / 26) - 1) + letter;
}

/** Return the text with a blank line between paragraphs, and speakers where they change.
 * @param {Paragraph[]} paragraphs */
export function plainText(paragraphs) {
  return paragraphs
    .map(({ channel, text }, i) => {
      const changes = channel !== undefined && channel !== paragraphs[i - 1]?.channel;
      return `${changes ? `Speaker ${speakerLetter(channel)}: ` : ""}${text.trim()}`;
    })
    .join("\n\n");
}
