"""Whisper on CTranslate2: encode windows, detect their languages, decode them into segments.

The libraries are imported when a model is loaded, so that the server can respond before that.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from app.domain.errors import TranscriptionFailed
from app.domain.languages import LANGUAGES
from app.transcription.accepted_decoding import AcceptedDecoding
from app.transcription.alignment_lag import KNOWN_SPEECH, known_words, lag_of
from app.transcription.continuation import MAX_CONTINUATIONS, before_skipped_speech, continued, unfinished_phrase
from app.transcription.fallback import (
    BEST_OF,
    TEMPERATURES,
    Decoding,
    Thresholds,
    best_decoding,
    temperatures_after,
    without_loop,
)
from app.transcription.features import LogMel
from app.transcription.heap import return_free_memory
from app.transcription.language_detection import LanguageGuess, likeliest, plausible_languages
from app.transcription.segments import SECONDS_PER_FRAME, SECONDS_PER_TIMESTAMP, split_phrases
from app.transcription.window import ENCODER_FRAMES
from app.transcription.word_times import aligned_tokens, are_usable, split_words, words_of_phrases

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from app.domain.transcript import TranscriptionOptions
    from app.transcription.device import Device
    from app.transcription.segments import Phrase
    from app.transcription.window import Array, Window

logger = logging.getLogger(__name__)

#: Prompt and text together; the prompt may take half of it.
_MAX_TOKENS: Final = 448
MAX_PROMPT_TOKENS: Final = _MAX_TOKENS // 2 - 1
#: The start of a transcript: its language and its task.
_START_TOKENS: Final = 3
#: The longest text of a second of audio: fast speech in a script whose characters take three tokens each, as in Tamil.
_TOKENS_PER_SECOND: Final = 40
#: The longest text of no audio, with its timestamps.
_LEAST_TOKENS: Final = 16
#: The text of a window starts within its first second, in timestamps of 20 ms.
_MAX_INITIAL_TIMESTAMP: Final = 50
#: CTranslate2 4.8 divides by half of the number of frames when it aligns, and kills the process if that is 0
#: (CTranslate2#2065).
_MIN_ALIGNED_FRAMES: Final = 2
#: The text with which a device is tried.
_ALIGNED_TEXT: Final = " this is a test"
#: The tokens of each window in a rehearsal. Speech has about 100 in 30 s.
_REHEARSED_TOKENS: Final = 32
#: The number of windows that can always be decoded side by side in further languages.
_MIN_SIDE_BY_SIDE: Final = 4
#: Tokenizers kept, one for each language and task.
_TOKENIZERS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackNeeded:
    """A decoding that is not acceptable, the temperatures to decode the window at again, and the encoder's output."""

    decoding: Decoding
    temperatures: tuple[float, ...]
    encoded: Array


class OutOfMemory(Exception):
    """The device has no memory for a batch of this size."""


class WhisperModel:
    """A loaded model on one device.

    Its methods block: call them in a thread, and only one at a time, except :meth:`features` and :meth:`prompt`. They
    raise OutOfMemory if the device has too little memory, so that a smaller batch may fit, and TranscriptionFailed if
    CTranslate2 raises another error.
    """

    def __init__(self, model: Any, *, name: str, device: Device, beam_size: int, thresholds: Thresholds) -> None:
        self.name = name
        self.device = device
        self.beam_size = beam_size
        self.thresholds = thresholds
        self._model = model.model
        self._aligner = model.model
        self._hf_tokenizer = model.hf_tokenizer
        self._log_mel = LogMel(model.feature_extractor.mel_filters)
        self.first_timestamp: int = model.hf_tokenizer.token_to_id("<|notimestamps|>") + 1
        #: The input of the encoder, which is used again: the first access to 24 MB of new memory takes 40 ms.
        self._stacked = np.empty((0, 0, 0), np.float32)
        self._tokenizer = lru_cache(_TOKENIZERS)(self._make_tokenizer)

    @property
    def is_multilingual(self) -> bool:
        """True unless the model only knows English."""
        return bool(self._model.is_multilingual)

    @property
    def languages(self) -> frozenset[str]:
        """The codes of the languages for which the vocabulary has a token."""
        known = (code for code in LANGUAGES if self._hf_tokenizer.token_to_id(f"<|{code}|>") is not None)
        return frozenset(known)

    def features(self, audio: npt.NDArray[np.float32]) -> Array:
        """Return the log-mel spectrogram, shape ``(n_mels, frames)``, of up to 30 s of audio.

        ``audio`` are samples at 16 kHz between -1 and 1. Any thread may call this.
        """
        return self._log_mel(audio)

    def prompt(self, options: TranscriptionOptions, previous: Sequence[int] = ()) -> tuple[int, ...]:
        """Return the tokens before ``<|startoftranscript|>``: hotwords, then the prompt, then ``previous`` text.

        If they exceed ``MAX_PROMPT_TOKENS``, the first of the hotwords and the last of the others are kept, at least
        half of the tokens for each.
        """
        hotwords = self._text_tokens(options.hotwords)
        context = [*self._text_tokens(options.prompt), *previous]
        hotwords = hotwords[: max(MAX_PROMPT_TOKENS // 2, MAX_PROMPT_TOKENS - len(context))]
        context = context[-(MAX_PROMPT_TOKENS - len(hotwords)) :]
        start: int = self._tokenizer("en", options.task.value).sot_prev
        return (start, *hotwords, *context) if hotwords or context else ()

    def beginning(self, phrases: Sequence[Phrase], *, end: float) -> tuple[int, ...]:
        """Return the tokens with which a window's text begins if these phrases are said until ``end`` (seconds)."""
        end_of_text = self._tokenizer("en", "transcribe").eot
        tokens: list[int] = []
        for phrase in phrases:
            text = (token for token in phrase.tokens if token < end_of_text)
            tokens += [self._timestamp(phrase.start), *text, self._timestamp(phrase.end)]
        return (*tokens, self._timestamp(end))

    def _timestamp(self, seconds: float) -> int:
        return self.first_timestamp + round(seconds / SECONDS_PER_TIMESTAMP)

    def _text_tokens(self, text: str | None) -> list[int]:
        """Return the tokens of a text without control tokens, which would steer the model."""
        if not text:
            return []
        tokenizer = self._tokenizer("en", "transcribe")
        return [token for token in tokenizer.encode(" " + text.strip()) if token < tokenizer.eot]

    def encode(self, windows: Sequence[Window]) -> None:
        """Set ``encoded`` of all windows in one pass of the encoder, and what it says of languages that are unknown."""
        with _translated_errors():
            output = self._encode(windows)
            self._detect_languages(windows, output)
            for window, row in zip(windows, _to_array(output), strict=True):
                window.encoded = row.copy() if len(windows) > 1 else row

    def decode(self, windows: Sequence[Window]) -> list[AcceptedDecoding | FallbackNeeded]:
        """Decode windows that share a key, after encoding those that are not encoded; return one outcome for each."""
        if self.device.kind == "cpu" and len(windows) > 1:
            return_free_memory()  # what encoding needed, before decoding needs more
        with _translated_errors():
            output = self._encoder_output(windows)
            self._detect_languages(windows, output)
            decodings = self._generate(windows, output)
            self._choose_languages(windows, decodings, output)
            self._continue(windows, decodings, output)
            return self._outcomes(windows, decodings, output)

    def alignment_problem(self) -> str | None:
        """Return the reason why this device can't align words with audio, or None if it can.

        CTranslate2 4.8 fails on GPUs of the Turing generation (CTranslate2#2064), and with some models it puts every
        token at one time in float16.
        """
        tokenizer = self._tokenizer("en", "transcribe")
        text = tokenizer.encode(_ALIGNED_TEXT)
        noise = np.random.default_rng(0).uniform(-1, 1, (1, self._model.n_mels, ENCODER_FRAMES)).astype(np.float32)
        encoded = self._model.encode(_storage(noise))
        try:
            (alignment,) = self._model.align(encoded, list(tokenizer.sot_sequence), [text], [ENCODER_FRAMES])
        except RuntimeError as exc:
            if _is_out_of_memory(exc):
                raise
            return str(exc)
        tokens = aligned_tokens(alignment.alignments, alignment.text_token_probs)
        return None if are_usable(tokens) else "every token is at the same time"

    @cached_property
    def _alignment_lag(self) -> float:
        """The lag of the alignment in seconds, which takes the time of one window to measure."""
        from faster_whisper.audio import decode_audio

        tokenizer = self._tokenizer("en", "transcribe")
        words = known_words()
        text = tokenizer.encode("".join(word.word for word in words))
        features = self._log_mel(decode_audio(str(KNOWN_SPEECH)))
        frames = features.shape[1]
        encoded = self._model.encode(_storage(np.pad(features, ((0, 0), (0, ENCODER_FRAMES - frames)))[np.newaxis]))
        if self._aligner is not self._model:
            encoded = _storage(_to_array(encoded))
        (alignment,) = self._aligner.align(encoded, list(tokenizer.sot_sequence), [text], [frames])
        tokens = aligned_tokens(alignment.alignments, alignment.text_token_probs)
        if not are_usable(tokens):
            return 0.0
        (aligned,) = words_of_phrases([split_words(tokenizer, text)], tokens)
        return lag_of(aligned, words)

    def align_with(self, model: Any) -> None:
        """Let another model of faster-whisper with the same weights align words, for example one on the CPU."""
        self._aligner = model.model

    def rehearse(self, windows: int) -> float:
        """Return the seconds that a batch of silence takes, decoded to ``_REHEARSED_TOKENS`` tokens a window."""
        began = time.monotonic()
        tokenizer = self._tokenizer("en", "transcribe")
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        with _translated_errors():
            self._model.generate(
                self._model.encode(_storage(np.zeros((windows, self._model.n_mels, ENCODER_FRAMES), np.float32))),
                [prompt] * windows,
                beam_size=self.beam_size,
                max_length=2 * _REHEARSED_TOKENS,  # CTranslate2 generates up to half of it
                suppress_tokens=[tokenizer.eot],
            )
        return time.monotonic() - began

    def _encoder_output(self, windows: Sequence[Window]) -> Any:
        """Return the encoder's output for all windows, and take it away from them, to keep it in memory only once.

        It stays on the device if all of it is computed now.
        """
        to_encode = [window for window in windows if window.encoded is None]
        if len(to_encode) == len(windows):
            return self._encode(windows)
        if to_encode:
            self.encode(to_encode)
        output = _storage(np.stack([cast("Array", window.encoded) for window in windows]))
        for window in windows:
            window.encoded = None
        return output

    def _encode(self, windows: Sequence[Window]) -> Any:
        if len(self._stacked) < len(windows):
            self._stacked = np.empty((len(windows), self._model.n_mels, ENCODER_FRAMES), np.float32)
        features = self._stacked[: len(windows), :, : windows[0].encoder_frames]
        for row, window in zip(features, windows, strict=True):
            row[:, : window.frames] = window.features
            row[:, window.frames :] = 0
        return self._model.encode(_storage(features))

    def _detect_languages(self, windows: Sequence[Window], output: Any) -> None:
        """Set ``language`` of the windows without one, or only ``guesses`` if it is uncertain."""
        unknown = [index for index, window in enumerate(windows) if window.language is None and not window.guesses]
        if not unknown:
            return
        if not self.is_multilingual:
            for index in unknown:
                windows[index].language = "en"
                windows[index].guesses = (LanguageGuess("en", 1.0),)
            return
        rows = output if len(unknown) == len(windows) else _storage(_to_array(output)[unknown])
        for index, ranking in zip(unknown, self._model.detect_language(rows), strict=True):
            window = windows[index]
            window.guesses = guesses = plausible_languages(ranking, window.candidates)
            if len(guesses) == 1 or window.guess:
                window.language = guesses[0].code

    def _choose_languages(self, windows: Sequence[Window], decodings: list[Decoding], output: Any) -> None:
        """Decode windows of uncertain language in their other languages too, and keep the likeliest text of each."""
        others = [
            (index, guess.code)
            for index, window in enumerate(windows)
            if window.language is None
            for guess in window.guesses[1:]
        ]
        texts = {index: [decodings[index]] for index, _ in others}
        size = max(len(windows), _MIN_SIDE_BY_SIDE)  # the memory of this batch, unless it is very small
        for first in range(0, len(others), size):
            batch = others[first : first + size]
            encoded = _rows(output, [index for index, _ in batch])
            generated = self._generate([windows[index] for index, _ in batch], encoded, [code for _, code in batch])
            for (index, _), decoding in zip(batch, generated, strict=True):
                texts[index].append(decoding)
        for index, candidates in texts.items():
            window = windows[index]
            best = likeliest(window.guesses, candidates, self._thresholds(window))
            window.language = window.guesses[best].code
            decodings[index] = candidates[best]

    def _continue(self, windows: Sequence[Window], decodings: list[Decoding], output: Any) -> None:
        """Let the model go on, side by side, with the texts that stop before the end of the speech."""
        left = {index for index, window in enumerate(windows) if not window.guess}
        for _ in range(MAX_CONTINUATIONS):
            phrases = {
                index: phrase
                for index in sorted(left)
                if (phrase := self._unfinished(windows[index], decodings[index]))
            }
            if not phrases:
                return
            left = set(phrases)
            chosen = [windows[index] for index in phrases]
            results = self._run_model(
                _rows(output, list(phrases)),
                chosen,
                [window.language or "" for window in chosen],
                list(phrases.values()),
            )
            for (index, phrase), result in zip(phrases.items(), results, strict=True):
                tokens = result.sequences_ids[0]
                decoding = continued(
                    decodings[index],
                    tokens[len(phrase) :],
                    result.scores[0] * len(tokens),
                    first_timestamp=self.first_timestamp,
                    thresholds=self._thresholds(windows[index]),
                    decode=self._tokenizer(windows[index].language, windows[index].task.value).decode,
                )
                if decoding is None:
                    left.discard(index)
                else:
                    decodings[index] = decoding

    def _unfinished(self, window: Window, decoding: Decoding) -> tuple[int, ...] | None:
        return unfinished_phrase(
            window, decoding, first_timestamp=self.first_timestamp, thresholds=self._thresholds(window)
        )

    def _thresholds(self, window: Window) -> Thresholds:
        return window.thresholds or self.thresholds

    def _generate(
        self, windows: Sequence[Window], output: Any, languages: Sequence[str] | None = None
    ) -> list[Decoding]:
        """Decode each window in its language or, where that is uncertain, its first guess, or in ``languages``."""
        if languages is None:
            languages = [window.language or window.guesses[0].code for window in windows]
        results = self._run_model(output, windows, languages, [window.beginning for window in windows])
        return [
            _decoding(
                result,
                window.temperature,
                self._tokenizer(code, window.task.value),
                known=0 if window.guess else len(window.beginning),
            )
            for result, window, code in zip(results, windows, languages, strict=True)
        ]

    def _run_model(
        self,
        output: Any,
        windows: Sequence[Window],
        languages: Sequence[str],
        beginnings: Sequence[Sequence[int]],
    ) -> Any:
        """Return CTranslate2's results for windows, whose texts start with the tokens of their ``beginnings``."""
        key = windows[0].key
        sampling = {"num_hypotheses": BEST_OF, "sampling_topk": 0, "sampling_temperature": key.temperature}
        tokenizers = [self._tokenizer(code, window.task.value) for window, code in zip(windows, languages, strict=True)]
        prompts = [
            [*window.prompt, *tokenizer.sot_sequence, *beginning]
            for window, tokenizer, beginning in zip(windows, tokenizers, beginnings, strict=True)
        ]
        return self._model.generate(
            output,
            prompts,
            beam_size=key.beam_size,
            max_length=_max_length(windows),
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=_suppressed_tokens(tokenizers[0]),
            max_initial_timestamp_index=_MAX_INITIAL_TIMESTAMP,
            **(sampling if key.temperature > 0 else {}),
        )

    def _outcomes(
        self, windows: Sequence[Window], decodings: Sequence[Decoding], output: Any
    ) -> list[AcceptedDecoding | FallbackNeeded]:
        outcomes: list[AcceptedDecoding | FallbackNeeded] = []
        array: Array | None = None
        for index, (window, decoding) in enumerate(zip(windows, decodings, strict=True)):
            left = temperatures_after(decoding, window.remaining_temperatures, self._thresholds(window))
            if not left:
                outcomes.append(self._accept(window, decoding))
            else:
                array = _to_array(output) if array is None else array
                outcomes.append(FallbackNeeded(decoding=decoding, temperatures=left, encoded=array[index].copy()))
        self._align(windows, outcomes, output)
        return outcomes

    def _accept(self, window: Window, decoding: Decoding) -> AcceptedDecoding:
        thresholds = self._thresholds(window)
        best = best_decoding([*window.decodings, decoding], thresholds)
        uncertain = not best.is_acceptable(thresholds)
        if best.is_repetitive(thresholds):
            best = replace(best, tokens=without_loop(best.tokens, first_timestamp=self.first_timestamp))
        phrases: list[Phrase] = []
        frames_done = window.frames
        if window.guess:
            uncertain = uncertain or best.is_silence(thresholds)
        elif not (best.is_silence(thresholds) or (uncertain and not window.has_speech)):
            tokens = before_skipped_speech(window, best.tokens, first_timestamp=self.first_timestamp)
            phrases, frames_done = split_phrases(tokens, first_timestamp=self.first_timestamp, frames=window.frames)
        return AcceptedDecoding(
            decoding=best,
            temperature=decoding.temperature,
            uncertain=uncertain,
            phrases=phrases,
            frames_done=frames_done,
            tokenizer=self._tokenizer(window.language, window.task.value),
            seek=window.seek,
            timeline=window.timeline,
            word_timestamps=window.word_timestamps,
            token_logprobs=window.token_logprobs,
            new_seconds=window.new_seconds,
        )

    def _align(
        self, windows: Sequence[Window], outcomes: Sequence[AcceptedDecoding | FallbackNeeded], output: Any
    ) -> None:
        """Align accepted texts with the audio where a window wants it, in one pass for each language and task."""
        groups: dict[tuple[int, ...], dict[int, AcceptedDecoding]] = {}
        for index, (window, outcome) in enumerate(zip(windows, outcomes, strict=True)):
            if not isinstance(outcome, AcceptedDecoding) or not (window.wants_alignment and outcome.text_tokens):
                continue
            if window.frames >= _MIN_ALIGNED_FRAMES:
                groups.setdefault(tuple(outcome.tokenizer.sot_sequence), {})[index] = outcome
        for start, group in groups.items():
            encoded = _rows(output, list(group), copied=self._aligner is not self._model)
            texts = [accepted.text_tokens for accepted in group.values()]
            try:
                alignments = self._aligner.align(
                    encoded, list(start), texts, [windows[index].frames for index in group]
                )
            except RuntimeError as exc:
                if _is_out_of_memory(exc) or any(windows[index].token_logprobs for index in group):
                    raise
                logger.warning("⚠️ This device can't align words (%s); their times are estimated", exc)
                continue
            for accepted, alignment in zip(group.values(), alignments, strict=True):
                accepted.alignment = alignment
                if accepted.word_timestamps:
                    accepted.alignment_lag = self._alignment_lag

    def _make_tokenizer(self, language: str, task: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(self._hf_tokenizer, self.is_multilingual, task=task, language=language)


def temperatures(options: TranscriptionOptions, *, has_speech: bool) -> tuple[float, ...]:
    """Return the temperatures to decode at.

    There are no fallbacks if the request sets one above 0, if nobody speaks, or if only the language counts.
    """
    has_fallbacks = options.temperature == 0 and has_speech and not options.only_language
    return TEMPERATURES if has_fallbacks else (options.temperature,)


def _max_length(windows: Sequence[Window]) -> int:
    """Return CTranslate2's ``max_length``, for a text of at most half of it and of what the prompt leaves of it.

    No speech has more tokens than this; a text that repeats itself goes on until the limit.
    """
    seconds = max(window.frames for window in windows) * SECONDS_PER_FRAME
    text = min(_MAX_TOKENS // 2, _LEAST_TOKENS + math.ceil(seconds * _TOKENS_PER_SECOND))
    prompt = len(windows[0].prompt) + _START_TOKENS
    return min(_MAX_TOKENS, max(2 * text, prompt + text))


def _decoding(result: Any, temperature: float, tokenizer: Any, *, known: int) -> Decoding:
    """Return the decoding of a result whose first ``known`` tokens have a probability of 1."""
    tokens = tuple(result.sequences_ids[0])
    return Decoding(
        tokens=tokens,
        text=tokenizer.decode(tokens).strip(),
        temperature=temperature,
        # CTranslate2 averages over the tokens alone; the thresholds also count the end of text.
        avg_logprob=result.scores[0] * len(tokens) / (len(tokens) - known + 1) if tokens else -math.inf,
        no_speech_prob=result.no_speech_prob,
    )


def _suppressed_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that may not be generated: descriptions of sounds, and control tokens."""
    control = (tokenizer.transcribe, tokenizer.translate, tokenizer.sot, tokenizer.sot_prev, tokenizer.sot_lm)
    return sorted({*tokenizer.non_speech_tokens, *control, tokenizer.no_speech} - {None})


def _storage(array: Array) -> Any:
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(array))


def _rows(output: Any, indexes: Sequence[int], *, copied: bool = False) -> Any:
    """Return the encoder's output for some windows: as it is for all of them, unless it must be ``copied``."""
    if not copied and list(indexes) == list(range(output.shape[0])):
        return output
    return _storage(_to_array(output)[list(indexes)])


def _to_array(output: Any) -> Array:
    """Return the encoder's output as float32 in host memory, copied only if it is elsewhere or of another type."""
    import ctranslate2

    if output.device != "cpu":
        output = output.to_device(ctranslate2.Device.cpu)
    if output.dtype != ctranslate2.DataType.float32:
        output = output.to(ctranslate2.DataType.float32)
    array: Array = np.asarray(output)
    return array


def _is_out_of_memory(exc: RuntimeError) -> bool:
    return "out of memory" in str(exc)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:  # CTranslate2 raises no other type
        if _is_out_of_memory(exc):
            raise OutOfMemory(str(exc)) from exc
        raise TranscriptionFailed(f"The model failed ({exc}).") from exc
