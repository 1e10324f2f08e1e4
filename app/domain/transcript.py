"""What is asked of a transcription and what comes out of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self


class Task(StrEnum):
    """Write down what is said, in its own language or in English."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechDetection:
    """How speech is told from silence (Silero VAD's terms).

    ``threshold`` is the probability, 0 to 1, above which a frame counts as speech.
    """

    threshold: float = 0.5
    padding_ms: int = 400
    min_silence_ms: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionOptions:
    """What a request asks of the model.

    ``model`` is the name of one that is served, or None for the default.
    ``language`` is a code of :mod:`app.domain.languages`, or None to detect it. ``temperature`` 0 means greedy or
    beam search with hotter fallbacks for windows that fail; above 0 it is used as it is. ``beam_size`` None is
    the server's default. ``condition_on_previous_text`` has each window go on from the text of the one before;
    ``multichannel`` has each channel transcribed alone instead of their mixture.
    """

    model: str | None = None
    task: Task = Task.TRANSCRIBE
    language: str | None = None
    prompt: str | None = None
    hotwords: str | None = None
    temperature: float = 0.0
    beam_size: int | None = None
    word_timestamps: bool = False
    token_logprobs: bool = False
    condition_on_previous_text: bool = False
    multichannel: bool = False
    vad_filter: bool = True
    speech_detection: SpeechDetection = SpeechDetection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word as written, with its leading space. Times are seconds from the start of the audio.

    ``channel`` counts from 0 where channels were transcribed one by one.
    """

    word: str
    start: float
    end: float
    probability: float
    channel: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """How probable the model finds one token of the text: the natural logarithm, given the audio and what is before it.

    Whisper measures it as it does for words: the text is read back without timestamps, and only tokens of text are
    compared. ``bytes`` are those of UTF-8; a token may end in the middle of a character.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A phrase. Times are seconds from the start of the audio; ``seek`` is its window's start in units of 10 ms."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    channel: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A whole transcript. ``language`` is the full lowercase English name, ``duration`` that of the audio in s."""

    task: Task
    language: str
    duration: float
    segments: tuple[Segment, ...] = field(default=())

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()

    @property
    def written_language(self) -> str:
        """The language of the text, which a translation has in English."""
        return "english" if self.task is Task.TRANSLATE else self.language

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(one for segment in self.segments for one in segment.logprobs)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """The transcript of which ``to_dict`` made ``stored`` (also after a trip through JSON)."""
        segments = tuple(
            Segment(
                **{
                    **segment,
                    "tokens": tuple(segment["tokens"]),
                    "words": tuple(Word(**word) for word in segment["words"]),
                    "logprobs": tuple(
                        TokenLogprob(**{**one, "bytes": tuple(one["bytes"])}) for one in segment.get("logprobs", ())
                    ),
                }
            )
            for segment in stored["segments"]
        )
        return cls(
            task=Task(stored["task"]),
            language=stored["language"],
            duration=stored["duration"],
            segments=segments,
        )
