"""Whisper on CTranslate2: batches of windows → what is said in them.

The libraries are imported when a model is loaded, so that a server can answer before that.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from app.domain.errors import TranscriptionFailed
from app.domain.languages import LANGUAGES
from app.domain.transcript import Segment, TokenLogprob
from app.transcription.fallback import TEMPERATURES, Attempt, Thresholds, best
from app.transcription.features import LogMel
from app.transcription.segments import SECONDS_PER_FRAME, SECONDS_PER_TIMESTAMP, Phrase, phrases, token_bytes
from app.transcription.word_times import AlignedToken, held_within, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from app.domain.transcript import TranscriptionOptions, Word
    from app.transcription.device import Device
    from app.transcription.window import Array, Timeline, Window

T = TypeVar("T")

#: What the encoder takes: 30 s in frames of 10 ms.
_FRAMES: Final = 3000
#: Text and prompt together; a prompt may take half of it.
_MAX_TOKENS: Final = 448
MAX_PROMPT_TOKENS: Final = _MAX_TOKENS // 2 - 1
#: A window's text begins within its first second, in timestamps of 20 ms.
_MAX_INITIAL_TIMESTAMP: Final = 50
#: So many texts are drawn at a temperature, of which the most probable is kept.
_BEST_OF: Final = 5
#: Tokenizers kept, one for each language and task.
_TOKENIZERS: Final = 256
#: What OpenAI's API writes for a probability of nothing.
_IMPOSSIBLE: Final = -9999.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The segments of a decoding, with times of the whole audio, and how many of its frames they cover."""

    segments: tuple[Segment, ...]
    frames_done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubtful:
    """What has to be decoded again, hotter."""

    attempt: Attempt
    encoded: Array


class OutOfMemory(Exception):
    """The device has no memory for a batch of this size."""


class WhisperModel:
    """A loaded model on one device. Its methods block; call them in a thread, those of one model one at a time.

    Errors of the model itself are raised as TranscriptionFailed, or OutOfMemory where a smaller batch may help.
    """

    def __init__(self, model: Any, *, name: str, device: Device, beam_size: int, thresholds: Thresholds) -> None:
        self.name = name
        self.device = device
        self.beam_size = beam_size
        self._thresholds = thresholds
        self._model = model.model
        self._hf_tokenizer = model.hf_tokenizer
        self._log_mel = LogMel(model.feature_extractor.mel_filters)
        self._first_timestamp: int = model.hf_tokenizer.token_to_id("<|notimestamps|>") + 1
        self._tokenizer = lru_cache(_TOKENIZERS)(self._make_tokenizer)

    @property
    def is_multilingual(self) -> bool:
        """Whether it knows other languages than English."""
        return bool(self._model.is_multilingual)

    @property
    def languages(self) -> frozenset[str]:
        """The codes of the languages that it has a token for."""
        known = (code for code in LANGUAGES if self._hf_tokenizer.token_to_id(f"<|{code}|>") is not None)
        return frozenset(known)

    @property
    def width(self) -> int:
        """The length of the vectors that the encoder gives."""
        silence = np.zeros((1, self._model.n_mels, _FRAMES), np.float32)
        return int(self._model.encode(_storage(silence)).shape[2])

    def features(self, audio: npt.NDArray[np.float32]) -> Array:
        """The log-mel spectrogram, shape ``(mels, frames)``, of at most 30 s (16 kHz, -1 to 1). Any thread may."""
        return self._log_mel(audio)

    def prompt(self, options: TranscriptionOptions, previous: Sequence[int] = ()) -> tuple[int, ...]:
        """The tokens before ``<|startoftranscript|>``: hot words, the prompt and the text before, if there are any.

        Where they are too many, the first of the hot words are kept and the last of the others, at least half of each.
        """
        hot = self._spelled(options.hotwords)
        said = [*self._spelled(options.prompt), *previous]
        hot = hot[: max(MAX_PROMPT_TOKENS // 2, MAX_PROMPT_TOKENS - len(said))]
        said = said[-(MAX_PROMPT_TOKENS - len(hot)) :]
        start: int = self._tokenizer("en", options.task.value).sot_prev
        return (start, *hot, *said) if hot or said else ()

    def _spelled(self, text: str | None) -> list[int]:
        """The tokens of a text. Names of control tokens in it are left out: they would steer the model."""
        if not text:
            return []
        tokenizer = self._tokenizer("en", "transcribe")
        return [token for token in tokenizer.encode(" " + text.strip()) if token < tokenizer.eot]

    def encode(self, windows: Sequence[Window]) -> None:
        """Fills in ``encoded``, and ``language`` where it is to be detected, in one pass for all of them."""
        with _failures_renamed():
            output = self._encode(windows)
            self._detect_languages(windows, output)
            for window, row in zip(windows, _to_array(output), strict=True):
                window.encoded = row.copy() if len(windows) > 1 else row

    def decode(self, windows: Sequence[Window]) -> list[Accepted | Doubtful]:
        """What is said in windows of one key, for each in turn; those not yet encoded are encoded first."""
        with _failures_renamed():
            output = self._encoded(windows)
            self._detect_languages(windows, output)
            attempts = self._generate(windows, output)
            return self._judged(windows, output, attempts)

    def _encoded(self, windows: Sequence[Window]) -> Any:
        """The encoder's output for all, on the device if all of it is computed now."""
        fresh = [window for window in windows if window.encoded is None]
        if len(fresh) == len(windows):
            return self._encode(windows)
        if fresh:
            self.encode(fresh)
        return _storage(np.stack([_present(window.encoded) for window in windows]))

    def _encode(self, windows: Sequence[Window]) -> Any:
        features = np.zeros((len(windows), windows[0].features.shape[0], _FRAMES), np.float32)
        for row, window in zip(features, windows, strict=True):
            row[:, : window.frames] = window.features
        return self._model.encode(_storage(features))

    def _detect_languages(self, windows: Sequence[Window], output: Any) -> None:
        unknown = [index for index, window in enumerate(windows) if window.language is None]
        if not unknown:
            return
        if not self.is_multilingual:
            for index in unknown:
                windows[index].language = "en"
            return
        part = output if len(unknown) == len(windows) else _storage(_to_array(output)[unknown])
        for index, found in zip(unknown, self._model.detect_language(part), strict=True):
            windows[index].language = found[0][0].strip("<|>")

    def _generate(self, windows: Sequence[Window], output: Any) -> list[Attempt]:
        key = windows[0].key
        sampling = {"num_hypotheses": _BEST_OF, "sampling_topk": 0, "sampling_temperature": key.temperature}
        tokenizers = [self._tokenizer(window.language, window.task.value) for window in windows]
        found = self._model.generate(
            output,
            [[*window.prompt, *one.sot_sequence] for window, one in zip(windows, tokenizers, strict=True)],
            beam_size=key.beam_size,
            max_length=_MAX_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=_suppressed(tokenizers[0]),
            max_initial_timestamp_index=_MAX_INITIAL_TIMESTAMP,
            **(sampling if key.temperature > 0 else {}),
        )
        return [self._attempt(one, key.temperature, by) for one, by in zip(found, tokenizers, strict=True)]

    def _attempt(self, found: Any, temperature: float, tokenizer: Any) -> Attempt:
        tokens = tuple(found.sequences_ids[0])
        return Attempt(
            tokens=tokens,
            text=tokenizer.decode(tokens).strip(),
            temperature=temperature,
            # The score is the mean without the end of text, which the thresholds count in.
            avg_logprob=found.scores[0] * len(tokens) / (len(tokens) + 1) if tokens else -math.inf,
            no_speech_prob=found.no_speech_prob,
        )

    def _judged(self, windows: Sequence[Window], output: Any, attempts: Sequence[Attempt]) -> list[Accepted | Doubtful]:
        outcomes: dict[int, Accepted | Doubtful] = {}
        array: Array | None = None
        accepted: list[_Accepting] = []
        for index, (window, attempt) in enumerate(zip(windows, attempts, strict=True)):
            if window.is_last_attempt or attempt.is_acceptable(self._thresholds):
                accepted.append(self._accepting(index, window, attempt))
            else:
                array = _to_array(output) if array is None else array
                outcomes[index] = Doubtful(attempt=attempt, encoded=array[index].copy())
        self._align([one for one in accepted if one.window.wants_alignment and any(one.texts)], output)
        for one in accepted:
            outcomes[one.row] = Accepted(segments=self._segments(one), frames_done=one.frames_done)
        return [outcomes[index] for index in range(len(windows))]

    def _accepting(self, row: int, window: Window, attempt: Attempt) -> _Accepting:
        kept = best([*window.attempts, attempt], self._thresholds)
        found: list[Phrase] = []
        if kept.is_silence(self._thresholds):
            done = window.frames
        else:
            found, done = phrases(kept.tokens, first_timestamp=self._first_timestamp, frames=window.frames)
        end_of_text = self._tokenizer("en", window.task.value).eot
        return _Accepting(
            row=row,
            window=window,
            kept=kept,
            temperature=attempt.temperature,
            phrases=found,
            texts=[[token for token in phrase.tokens if token < end_of_text] for phrase in found],
            frames_done=done,
        )

    def _align(self, rows: Sequence[_Accepting], output: Any) -> None:
        """Has the model read the texts back, for all rows of one language and task at once: that gives the words' times
        and how probable each token is."""
        by_start: dict[tuple[int, ...], list[_Accepting]] = {}
        for row in rows:
            tokenizer = self._tokenizer(row.window.language, row.window.task.value)
            by_start.setdefault(tuple(tokenizer.sot_sequence), []).append(row)
        for start, group in by_start.items():
            part = output if len(group) == output.shape[0] else _storage(_to_array(output)[[row.row for row in group]])
            texts = [list(chain.from_iterable(row.texts)) for row in group]
            found = self._model.align(part, list(start), texts, [row.window.frames for row in group])
            for row, text, alignment in zip(group, texts, found, strict=True):
                if row.window.word_timestamps:
                    row.words = self._words(row, text, alignment)
                if row.window.token_logprobs:
                    row.logprobs = self._logprobs(row, alignment.text_token_probs)

    def _words(self, row: _Accepting, text: list[int], alignment: Any) -> list[tuple[Word, ...]]:
        tokenizer = self._tokenizer(row.window.language, row.window.task.value)
        words, parts = tokenizer.split_to_word_tokens([*text, tokenizer.eot])
        times = _token_times(alignment.alignments, len(text))
        aligned = [AlignedToken(*pair) for pair in zip(times, [*alignment.text_token_probs, 0.0], strict=True)]
        lengths = [len(tokens) for tokens in row.texts]
        found = words_of(words[:-1], [len(part) for part in parts[:-1]], aligned, lengths)
        return [held_within(words, phrase.start, phrase.end) for words, phrase in zip(found, row.phrases, strict=True)]

    def _logprobs(self, row: _Accepting, probabilities: Sequence[float]) -> list[tuple[TokenLogprob, ...]]:
        """Those of each phrase's tokens."""
        given = iter(probabilities)
        return [tuple(self._logprob(token, next(given)) for token in text) for text in row.texts]

    def _logprob(self, token: int, probability: float) -> TokenLogprob:
        written = token_bytes(self._hf_tokenizer.id_to_token(token))
        return TokenLogprob(
            token=written.decode(errors="replace"),
            logprob=round(math.log(probability), 6) if probability > 0 else _IMPOSSIBLE,
            bytes=tuple(written),
        )

    def _segments(self, row: _Accepting) -> tuple[Segment, ...]:
        window = row.window
        tokenizer = self._tokenizer(window.language, window.task.value)
        timeline = window.timeline
        offset = window.seek * SECONDS_PER_FRAME
        seek = round(timeline.of_word(offset, offset)[0] / SECONDS_PER_FRAME)
        found: list[Segment] = []
        none: list[tuple[Any, ...]] = [()] * len(row.phrases)
        for phrase, words, logprobs in zip(row.phrases, row.words or none, row.logprobs or none, strict=True):
            text = tokenizer.decode(phrase.tokens)
            if text.strip() and phrase.end > phrase.start:
                start, end = timeline.of_phrase(offset + phrase.start, offset + phrase.end)
                found.append(
                    Segment(
                        id=len(found),
                        seek=seek,
                        start=round(start, 3),
                        end=round(end, 3),
                        text=text,
                        tokens=phrase.tokens,
                        temperature=row.temperature,
                        avg_logprob=row.kept.avg_logprob,
                        compression_ratio=row.kept.compression_ratio,
                        no_speech_prob=row.kept.no_speech_prob,
                        words=tuple(_moved(word, offset, timeline) for word in words),
                        logprobs=logprobs,
                    )
                )
        return tuple(found)

    def _make_tokenizer(self, language: str, task: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(self._hf_tokenizer, self.is_multilingual, task=task, language=language)


@dataclass(slots=True, kw_only=True)
class _Accepting:
    """A row of a batch whose text is kept. ``temperature`` is that of the last attempt.

    ``texts`` are the phrases' tokens without timestamps.
    """

    row: int
    window: Window
    kept: Attempt
    temperature: float
    phrases: list[Phrase]
    texts: list[list[int]]
    frames_done: int
    words: list[tuple[Word, ...]] | None = None
    logprobs: list[tuple[TokenLogprob, ...]] | None = None


def temperatures(options: TranscriptionOptions) -> tuple[float, ...]:
    """What to try in turn for each window of a request."""
    return TEMPERATURES if options.temperature == 0 else (options.temperature,)


def _moved(word: Word, offset: float, timeline: Timeline) -> Word:
    start, end = timeline.of_word(offset + word.start, offset + word.end)
    return replace(word, start=round(start, 3), end=round(end, 3))


def _token_times(pairs: Sequence[tuple[int, int]], count: int) -> list[float]:
    """When each of ``count`` text tokens, and the end after them, begins: seconds; pairs are (token, position)."""
    times = [0.0] * (count + 1)
    before = -1
    for token, position in pairs:
        if token != before and token <= count:
            times[token] = position * SECONDS_PER_TIMESTAMP
            before = token
    return times


def _suppressed(tokenizer: Any) -> list[int]:
    """What must not be written: descriptions of sounds, and the tokens of prompts."""
    control = (tokenizer.transcribe, tokenizer.translate, tokenizer.sot, tokenizer.sot_prev, tokenizer.sot_lm)
    return sorted({*tokenizer.non_speech_tokens, *control, tokenizer.no_speech} - {None})


def _storage(array: Array) -> Any:
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(array))


def _to_array(output: Any) -> Array:
    """The encoder's output in this machine's memory, float32; a copy only where it has to be one."""
    import ctranslate2

    if output.device != "cpu":
        output = output.to_device(ctranslate2.Device.cpu)
    if output.dtype != ctranslate2.DataType.float32:
        output = output.to(ctranslate2.DataType.float32)
    array: Array = np.asarray(output)
    return array


def _present(value: T | None) -> T:
    assert value is not None  # noqa: S101  # it was filled in above
    return value


@contextmanager
def _failures_renamed() -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:  # what CTranslate2 raises
        if "out of memory" in str(exc):
            raise OutOfMemory(str(exc)) from exc
        raise TranscriptionFailed(f"The model failed ({exc}).") from exc
