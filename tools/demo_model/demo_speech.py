"""Vocabulary, sentence grammar and speech synthesis for the demo model.

Everything that the demo model ever hears comes from the speech synthesizers
packaged by Debian (``espeak-ng``, ``flite``, ``festival`` with
``festvox-kdlpc16k`` and ``festvox-us-slt-hts``).  Each back end returns 16 kHz
mono audio *and* the time at which every word is spoken, so that segment
timestamps and cross-attention alignment can be supervised directly.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import random
import re
import subprocess
import tempfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL_DIR = REPOSITORY / "app" / "transcription" / "demo_model"
WORK_DIR = REPOSITORY / "build" / "demo_model"

SAMPLE_RATE = 16000

# By hand, as one word a line would fill two screens.
# fmt: off
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEENS = [
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ["hundred", "thousand"]
NATO = [
    "alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo",
    "lima", "mike", "november", "oscar", "papa", "quebec", "romeo", "sierra", "tango", "uniform",
    "victor", "whiskey", "xray", "yankee", "zulu",
]
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
MONTHS = [
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
]
COLOURS = ["red", "green", "blue", "yellow", "black", "white"]
THINGS = [
    "file", "audio", "job", "message", "report", "meeting", "test", "call", "code", "result",
    "question", "answer",
]
COMMON = [
    "hello", "this", "is", "a", "the", "complete", "please", "upload", "thank", "you", "good",
    "morning", "afternoon", "evening", "night", "and", "ready", "start", "stop", "today", "tomorrow",
    "yesterday", "number", "my", "your", "name", "we", "are", "it", "not", "yes", "no", "on", "at",
    "open", "close", "send", "welcome", "now", "room",
]
# fmt: on

#: Every word the model can write, in token-id order (duplicates removed).
VOCABULARY: list[str] = list(
    dict.fromkeys(COMMON + THINGS + DIGITS + TEENS + TENS + SCALES + NATO + DAYS + MONTHS + COLOURS)
)

#: How a word is handed to the synthesizer where its spelling would mislead it.
SPOKEN_FORM = {"xray": "x-ray"}


# --------------------------------------------------------------------------
# Sentences
# --------------------------------------------------------------------------

TEMPLATES = """
hello
hello {nato}
hello this is {nato}
hello this is a test
hello and welcome
hello my name is {nato}
good {daytime}
good {daytime} {nato}
good {daytime} and welcome
good {daytime} this is {nato}
thank you
thank you {nato}
thank you and good night
thank you and good {daytime}
yes
no
yes please
no thank you
yes it is
no it is not
welcome
welcome {nato}
this is a test
this is a {colour} {thing}
this is the {thing}
this is the {colour} {thing}
this is my {thing}
this is your {thing}
this is {thing} number {number}
this is not a test
this is not the {colour} {thing}
it is {day}
it is {day} {month} {number}
it is {state}
it is not {state}
it is {state} now
is it {state}
the {thing} is {state}
the {thing} is not {state}
the {colour} {thing} is {state}
the {thing} is {state} now
my {thing} is {state}
your {thing} is {state}
your {thing} is not {state}
the {thing} and the {thing} are {state}
are you {state}
are we {state}
we are {state}
we are not {state}
we are {state} now
you are welcome
you are {state}
my name is {nato}
your name is {nato}
the name is {nato} {nato}
my number is {digits}
your number is {digits}
the number is {number}
the code is {natos}
the code is {digits}
the code is {natos} {digits}
your code is {natos}
the answer is {yesno}
the answer is {number}
the result is {number}
the room is {colour}
room {number}
room {number} is {state}
please {verb} the {thing}
please {verb} the {colour} {thing}
please {verb} my {thing}
please {verb} your {thing}
please {verb} {thing} number {number}
please {verb} it now
please {verb} it {when}
please {verb} the {thing} {when}
please {verb} the {thing} and the {thing}
please {verb} and {verb} the {thing}
{verb} the {thing}
{verb} the {thing} now
{verb} the {colour} {thing}
{verb} file {natos}
{verb} it
please call {nato}
please call room {number}
please call {digits}
call {nato} {when}
the meeting is {when}
the meeting is on {day}
the meeting is on {day} at {number}
the meeting is at {number}
the call is on {day} {daytime}
the meeting is on {month} {number}
the test is on {day} and the result is on {day}
we are open on {day}
we are open on {day} and {day}
we are not open on {day}
we open at {number} and close at {number}
start {when}
stop
stop now
start now
start and stop
today is {day}
tomorrow is {day}
{day} {month} {number}
{month} {number}
{number}
{number} and {number}
{digits}
{natos}
{natos} {digits}
{colour} {colour} and {colour}
number {number}
upload complete
test complete
job complete
job number {number} is complete
the {day} {thing} is {state}
the {month} report is {state}
""".strip().splitlines()


def _number(rng: random.Random) -> str:
    """Return a cardinal number in words, from zero to nine thousand and something."""
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(DIGITS)
    if kind < 0.45:
        return rng.choice(TEENS)
    if kind < 0.55:
        return rng.choice(TENS)
    if kind < 0.75:
        return f"{rng.choice(TENS)} {rng.choice(DIGITS[1:])}"
    tail = rng.choice(
        ["", " and " + rng.choice(DIGITS[1:] + TEENS), f" and {rng.choice(TENS)} {rng.choice(DIGITS[1:])}"]
    )
    return f"{rng.choice(DIGITS[1:] + TEENS[:3])} {rng.choice(SCALES)}{tail}"


def _fill(template: str, rng: random.Random) -> str:
    def slot(match: re.Match) -> str:
        name = match.group(1)
        if name == "number":
            return _number(rng)
        if name == "digits":
            return " ".join(rng.choices(DIGITS, k=rng.randint(2, 5)))
        if name == "natos":
            return " ".join(rng.choices(NATO, k=rng.randint(2, 3)))
        choices = {
            "nato": NATO,
            "daytime": ["morning", "afternoon", "evening", "night"],
            "colour": COLOURS,
            "thing": THINGS,
            "day": DAYS,
            "month": MONTHS,
            "state": ["ready", "complete", "open", "good"],
            "yesno": ["yes", "no"],
            "verb": ["upload", "send", "open", "close", "start", "stop"],
            "when": ["today", "tomorrow", "now", "at " + rng.choice(DIGITS[1:] + TEENS[:3])],
        }[name]
        return rng.choice(choices)

    return re.sub(r"\{(\w+)\}", slot, template)


def is_held_out(text: str) -> bool:
    """Return True if a sentence belongs to the test split (a tenth of those of 3+ words)."""
    return len(text.split()) >= 3 and zlib.crc32(text.encode()) % 10 == 0


def sample_sentence(rng: random.Random, *, held_out: bool = False) -> str:
    """Draw a sentence; ``held_out`` sentences come from the templates only."""
    while True:
        kind = rng.random()
        if held_out or kind < 0.55:
            text = _fill(rng.choice(TEMPLATES), rng)
        else:
            length = rng.choice([1, 2, 3, 3, 4, 4, 5, 6])
            text = " ".join(rng.choices(VOCABULARY, k=length))
        if is_held_out(text) == held_out:
            return text


# --------------------------------------------------------------------------
# Synthesizers
# --------------------------------------------------------------------------


@dataclass
class Utterance:
    """One synthesized sentence.

    ``audio`` is int16 of shape ``(samples,)`` at 16 kHz, trimmed to the speech;
    ``words`` holds ``(word, start, end)`` in seconds.
    """

    text: str
    voice: str
    audio: np.ndarray = field(repr=False)
    words: list[tuple[str, float, float]] = field(repr=False)

    @property
    def duration(self) -> float:
        return len(self.audio) / SAMPLE_RATE


def _spoken(text: str) -> str:
    return " ".join(SPOKEN_FORM.get(word, word) for word in text.split())


def _finish(text: str, voice: str, audio: np.ndarray, rate: int, spans: list[tuple[float, float]]) -> Utterance:
    """Resample to 16 kHz, trim silence at both ends and shift the word spans."""
    audio = np.asarray(audio, dtype=np.float32)
    if rate != SAMPLE_RATE:
        divisor = np.gcd(rate, SAMPLE_RATE)
        audio = resample_poly(audio, SAMPLE_RATE // divisor, rate // divisor).astype(np.float32)
    peak = np.abs(audio).max()
    if peak <= 0:
        raise ValueError(f"{voice} said nothing for {text!r}")
    audio = audio * (0.5 / peak)
    hop = SAMPLE_RATE // 100
    frames = np.abs(audio[: len(audio) // hop * hop]).reshape(-1, hop).max(axis=1)
    loud = np.flatnonzero(frames > 0.01)
    first, last = loud[0] * hop, min(len(audio), (loud[-1] + 1) * hop)
    audio = audio[first:last]
    offset, duration = first / SAMPLE_RATE, len(audio) / SAMPLE_RATE
    words = []
    for word, (start, end) in zip(text.split(), spans, strict=True):
        start = min(max(start - offset, 0.0), duration)
        end = min(max(end - offset, start), duration)
        words.append((word, start, end))
    words[0] = (words[0][0], 0.0, words[0][2])
    words[-1] = (words[-1][0], words[-1][1], duration)
    if any(end - start < 0.02 for _, start, end in words):
        raise ValueError(f"{voice} skipped a word of {text!r}")
    return Utterance(text, voice, (audio * 32767).astype(np.int16), words)


class Espeak:
    """espeak-ng through its C library, which reports when each word starts."""

    class _Event(ctypes.Structure):
        _fields_ = [
            ("type", ctypes.c_int),
            ("unique_identifier", ctypes.c_uint),
            ("text_position", ctypes.c_int),
            ("length", ctypes.c_int),
            ("audio_position", ctypes.c_int),
            ("sample", ctypes.c_int),
            ("user_data", ctypes.c_void_p),
            ("id", ctypes.c_char * 8),
        ]

    _CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
        self._rate = self._lib.espeak_Initialize(2, 0, None, 0)  # 2: synchronous retrieval
        self._callback = self._CALLBACK(self._receive)  # keep a reference alive
        self._lib.espeak_SetSynthCallback(self._callback)
        self._chunks: list[np.ndarray] = []
        self._events: list[tuple[int, float]] = []

    def _receive(self, wav, count, events) -> int:
        if wav and count > 0:
            self._chunks.append(np.ctypeslib.as_array(wav, (count,)).copy())
        index = 0
        while events[index].type != 0:
            if events[index].type == 1:  # word
                event = events[index]
                self._events.append((event.text_position, event.audio_position / 1000))
            index += 1
        return 0

    def say(self, text: str, variant: str, rng: random.Random) -> Utterance:
        self._chunks, self._events = [], []
        if self._lib.espeak_SetVoiceByName(variant.encode()) != 0:
            raise ValueError(f"unknown espeak-ng voice {variant}")
        self._lib.espeak_SetParameter(1, rng.randint(115, 205), 0)  # words per minute
        self._lib.espeak_SetParameter(3, rng.randint(25, 75), 0)  # pitch
        self._lib.espeak_SetParameter(4, rng.randint(30, 70), 0)  # pitch range
        spoken = _spoken(text)
        data = spoken.encode() + b"\0"
        self._lib.espeak_Synth(data, len(data), 0, 1, 0, 1, None, None)
        audio = np.concatenate(self._chunks)
        # Words that espeak-ng merged into the previous one share its time.
        starts: list[float | None] = []
        position = 1
        known = dict(reversed(self._events))
        for word in spoken.split():
            starts.append(known.get(position))
            position += len(word) + 1
        total = len(audio) / self._rate
        return _finish(text, f"espeak-ng:{variant}", audio, self._rate, _spans(text.split(), starts, total))


def _spans(words: list[str], starts: list[float | None], total: float) -> list[tuple[float, float]]:
    """Turn word starts (``None`` where unknown) into spans, sharing gaps by word length."""
    starts = list(starts)
    if starts[0] is None:
        starts[0] = 0.0
    bounds = [*starts, total]
    index = 0
    while index < len(words):
        stop = index + 1
        while bounds[stop] is None:
            stop += 1
        lengths = np.array([len(w) for w in words[index:stop]], dtype=float)
        edges = bounds[index] + (bounds[stop] - bounds[index]) * np.cumsum(lengths) / lengths.sum()
        for k in range(index + 1, stop):
            bounds[k] = float(edges[k - index - 1])
        index = stop
    return list(pairwise(bounds))


@cache
def phones(word: str) -> tuple[str, ...]:
    """Return the phones of a vocabulary word, as flite pronounces it."""
    command = ["flite", "-voice", "kal16", "-ps", "-t", SPOKEN_FORM.get(word, word), "-o", "none"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(p for p in out.split() if p != "pau")


def _assign_phones(words: list[str], spoken: list[str]) -> list[int]:
    """Return the index of the word that each phone belongs to, by edit distance."""
    expected = [(p, i) for i, w in enumerate(words) for p in phones(w)]
    n, m = len(expected), len(spoken)
    cost = np.zeros((n + 1, m + 1))
    cost[:, 0], cost[0, :] = np.arange(n + 1), np.arange(m + 1)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            differs = 0 if expected[i - 1][0] == spoken[j - 1] else 1
            cost[i, j] = min(cost[i - 1, j - 1] + differs, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    owner, i, j = [0] * m, n, m
    while j > 0:
        differs = i > 0 and expected[i - 1][0] != spoken[j - 1]
        if i > 0 and cost[i, j] == cost[i - 1, j - 1] + differs:
            owner[j - 1] = expected[i - 1][1]
            i, j = i - 1, j - 1
        elif cost[i, j] == cost[i, j - 1] + 1:
            owner[j - 1] = expected[max(i - 1, 0)][1]
            j -= 1
        else:
            i -= 1
    return owner


def flite_say(text: str, voice: str, rng: random.Random) -> Utterance:
    """Speak with flite; word times come from its phone durations."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as wav:
        stretch = rng.uniform(0.85, 1.25)
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}"]
        command += ["-psdur", "-t", _spoken(text), "-o", wav.name]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        audio, rate = soundfile.read(wav.name, dtype="float32")
    spoken, previous = [], 0.0
    for item in out.split():
        name, end = item.rsplit(":", 1)
        if name != "pau":
            spoken.append((name, previous, float(end)))
        previous = float(end)
    words = text.split()
    owner = _assign_phones(words, [p for p, _, _ in spoken])
    spans = []
    for index in range(len(words)):
        own = [span for span, o in zip(spoken, owner, strict=True) if o == index]
        if not own:
            raise ValueError(f"flite skipped a word of {text!r}")
        spans.append((own[0][1], own[-1][2]))
    return _finish(text, f"flite:{voice}", audio, rate, spans)


def festival_say(texts: list[str], voice: str, rng: random.Random) -> list[Utterance]:
    """Speak with Festival in one batch; word times come from its Word relation."""
    utterances = []
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            f"(voice_{voice})",
            "(define (dump text out stretch)"
            " (Parameter.set 'Duration_Stretch stretch)"
            " (let ((utt (utt.synth (eval (list 'Utterance 'Text text)))))"
            "  (utt.save.wave utt out 'riff)"
            '  (format t "@")'
            '  (mapcar (lambda (w) (format t " %f %f" (item.feat w "word_start")'
            ' (item.feat w "word_end"))) (utt.relation.items utt \'Word))'
            '  (format t "\\n")))',
        ]
        for index, text in enumerate(texts):
            out = Path(folder) / f"{index}.wav"
            spoken = _spoken(text).replace("x-ray", "exray")
            lines.append(f'(dump "{spoken}" "{out}" {rng.uniform(0.85, 1.25):.3f})')
        script = Path(folder) / "say.scm"
        script.write_text("\n".join(lines), encoding="ascii")
        out = subprocess.run(["festival", "-b", str(script)], capture_output=True, text=True, check=True).stdout
        rows = [line.split()[1:] for line in out.splitlines() if line.startswith("@")]
        for index, (text, row) in enumerate(zip(texts, rows, strict=False)):
            times = [float(x) for x in row]
            spans = list(zip(times[::2], times[1::2], strict=False))
            if len(spans) != len(text.split()):
                continue
            audio, rate = soundfile.read(Path(folder) / f"{index}.wav", dtype="float32")
            try:
                utterances.append(_finish(text, f"festival:{voice}", audio, rate, spans))
            except ValueError:
                continue
    return utterances


ESPEAK_ACCENTS = ["en-us", "en", "en-gb-x-rp", "en-us-nyc"]
ESPEAK_TIMBRES = ["", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+f1", "+f2", "+f3", "+f4"]
ESPEAK_TIMBRES += ["+klatt2", "+steph", "+adam", "+linda", "+michael", "+belinda"]
TRAIN_VOICES = ["espeak-ng", "flite:awb", "flite:slt", "flite:kal16"]
TRAIN_VOICES += ["festival:ked_diphone", "festival:cmu_us_slt_arctic_hts"]
#: Voices which training never hears; used to measure generalisation.
UNSEEN_VOICES = ["flite:rms", "espeak-ng:en-gb-scotland+f5", "espeak-ng:en-us+Annie"]


def synthesize(voice: str, texts: list[str], seed: int) -> list[Utterance]:
    """Speak ``texts`` with a voice; ``espeak-ng`` alone means a random variant each time."""
    rng = random.Random(seed)
    engine, _, name = voice.partition(":")
    if engine == "festival":
        return festival_say(texts, name, rng)
    espeak = Espeak() if engine == "espeak-ng" else None
    utterances = []
    for text in texts:
        try:
            if espeak is None:
                utterances.append(flite_say(text, name, rng))
            else:
                variant = name or rng.choice(ESPEAK_ACCENTS) + rng.choice(ESPEAK_TIMBRES)
                utterances.append(espeak.say(text, variant, rng))
        except ValueError:
            continue
    return utterances


# --------------------------------------------------------------------------
# Corpora
# --------------------------------------------------------------------------

#: Relative number of utterances per training voice.
TRAIN_SHARES = {
    "espeak-ng": 0.50,
    "flite:awb": 0.12,
    "flite:slt": 0.11,
    "flite:kal16": 0.10,
    "festival:ked_diphone": 0.10,
    "festival:cmu_us_slt_arctic_hts": 0.07,
}


def _synthesize_job(job: tuple[str, list[str], int]) -> list[Utterance]:
    return synthesize(*job)


def build_corpus(counts: dict[str, int], seed: int, *, held_out: bool = False, workers: int = 2) -> list[Utterance]:
    """Synthesize ``counts[voice]`` random sentences for every voice, in parallel."""
    rng = random.Random(seed)
    jobs = []
    for voice, count in counts.items():
        for start in range(0, count, 200):
            texts = [sample_sentence(rng, held_out=held_out) for _ in range(min(200, count - start))]
            jobs.append((voice, texts, rng.randrange(2**31)))
    with ProcessPoolExecutor(workers) as pool:
        return [u for batch in pool.map(_synthesize_job, jobs) for u in batch]


def save_corpus(path: str, utterances: list[Utterance]) -> None:
    """Write a corpus to one ``.npz`` file."""
    lengths = np.array([len(u.audio) for u in utterances])
    meta = [
        {"text": u.text, "voice": u.voice, "spans": [[float(a), float(b)] for _, a, b in u.words]} for u in utterances
    ]
    audio = np.concatenate([u.audio for u in utterances])
    np.savez(path, audio=audio, lengths=lengths, meta=json.dumps(meta))


def load_corpus(path: str) -> list[Utterance]:
    """Read a corpus written by :func:`save_corpus`."""
    with np.load(path) as data:
        audio, ends = data["audio"], np.cumsum(data["lengths"])
        meta = json.loads(str(data["meta"]))
    utterances = []
    for end, length, item in zip(ends, np.diff(ends, prepend=0), meta, strict=True):
        words = [(w, a, b) for w, (a, b) in zip(item["text"].split(), item["spans"], strict=True)]
        utterances.append(Utterance(item["text"], item["voice"], audio[end - length : end], words))
    return utterances
