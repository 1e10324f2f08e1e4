"""The options of a transcription and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Task(StrEnum):
    """Transcribe speech in its own language, or translate it into English."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


class Script(StrEnum):
    """A script of Chinese."""

    SIMPLIFIED = "simplified"
    TRADITIONAL = "traditional"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechDetection:
    """Parameters of voice activity detection, with the defaults of this service.

    ``threshold`` is the probability (0 to 1) above which a frame counts as speech, which ends below ``end_threshold``;
    None is 0.15 less. ``padding_ms`` of silence is kept around speech, and a silence ends it after ``min_silence_ms``.
    Speech shorter than ``min_speech_ms`` is left out.
    """

    threshold: float = 0.5
    padding_ms: int = 400
    min_silence_ms: int = 500
    end_threshold: float | None = None
    min_speech_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Diarization:
    """The fewest and the most speakers to tell apart by their voices; ``max_speakers`` None is no limit."""

    min_speakers: int = 1
    max_speakers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionOptions:
    """The options of one transcription.

    ``model`` is the name of a served model, None for the default. ``language`` is a code of
    :mod:`app.domain.languages`, None to detect it. ``languages`` are the codes among which it is detected, in each
    window if there are several; empty means all. Chinese is written in ``script``; None is that of the prompt or of the
    first sentences. With ``temperature`` 0 the model uses beam search, with fallbacks at higher temperatures for
    windows whose text is not acceptable; any other temperature is used as it is. ``no_speech_threshold``,
    ``log_prob_threshold`` and ``compression_ratio_threshold`` say what is acceptable (see
    :mod:`app.transcription.fallback`); None is the model's. ``beam_size`` None is the server's default.
    ``condition_on_previous_text`` puts the text of each window into the prompt of the next. ``multichannel``
    transcribes each channel separately instead of their mix. ``audio_track`` is that of a file with several, from 1;
    None is the default one. With ``diarization`` every segment and word has its speaker: a channel if there are
    several, else a voice. ``known_speakers`` are the names of the first channels, or of the voices of reference
    recordings. ``replacements`` are terms and what is written in their place (see :mod:`app.domain.replacements`).
    With ``only_language`` the transcript ends where the language of the recording is known.
    """

    model: str | None = None
    task: Task = Task.TRANSCRIBE
    language: str | None = None
    languages: tuple[str, ...] = ()
    script: Script | None = None
    prompt: str | None = None
    hotwords: str | None = None
    temperature: float = 0.0
    no_speech_threshold: float | None = None
    log_prob_threshold: float | None = None
    compression_ratio_threshold: float | None = None
    beam_size: int | None = None
    word_timestamps: bool = False
    token_logprobs: bool = False
    condition_on_previous_text: bool = False
    multichannel: bool = False
    diarization: Diarization | None = None
    known_speakers: tuple[str, ...] = ()
    replacements: tuple[tuple[str, str], ...] = ()
    audio_track: int | None = None
    vad_filter: bool = True
    speech_detection: SpeechDetection = SpeechDetection()
    only_language: bool = False

    @property
    def known_language(self) -> str | None:
        """The code of the spoken language, None if it has to be detected."""
        return self.languages[0] if len(self.languages) == 1 else self.language

    @property
    def tells_voices_apart(self) -> bool:
        """True if speakers are told apart, and not by their channels."""
        return self.diarization is not None and not self.multichannel


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word with its leading space. Times are seconds from the start of the audio.

    ``probability`` is the mean of its tokens' (0 to 1). ``channel`` counts from 0; None if the channels were mixed.
    ``speaker`` is a letter or a name; None if speakers were not told apart.
    """

    word: str
    start: float
    end: float
    probability: float
    channel: int | None = None
    speaker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """The natural logarithm of a token's probability, given the audio and the text before it.

    It is computed as Whisper computes the probabilities of words: the model reads the text without timestamps, and
    only text tokens are compared. ``bytes`` are UTF-8; a token can end in the middle of a character.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A phrase of the transcript. Times are seconds from the start of the audio.

    ``seek`` is where its decoding began, in units of 10 ms. ``temperature``, ``avg_logprob``, ``compression_ratio`` and
    ``no_speech_prob`` are those of the whole decoding (see :mod:`app.transcription.fallback`). ``uncertain`` text was
    not acceptable at any temperature. ``speaker`` is the one who speaks most of it. ``language`` is the code of the
    spoken language, None if that is the same in the whole transcript.
    """

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
    speaker: str | None = None
    uncertain: bool = False
    language: str | None = None

    @property
    def word_offsets(self) -> tuple[int, ...]:
        """The position in ``text`` of the first character of each word that is not a space, in code points."""
        offsets: list[int] = []
        position = 0
        for word in self.words:
            bare = word.word.strip()
            found = self.text.find(bare, position)
            offset = position if found < 0 else found  # a character that several words share is broken in each
            offsets.append(min(offset, len(self.text)))
            position = offsets[-1] + (len(bare) if found >= 0 else 0)
        return tuple(offsets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A time in which a speaker speaks, in seconds from the start of the audio. Those of several may overlap."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A complete transcript.

    ``language`` is the language that is spoken most, or in the first channel if the request named no candidates, as a
    full lowercase English name, and ``language_probability`` (0 to 1) what the model gave to it; None if it was not
    detected. ``languages`` are the codes of all that are spoken, the most spoken first; None if it is only one and the
    request named no candidates. ``duration`` is that of the audio in seconds. ``prompt_tokens`` are those of the
    request's prompt and hotwords, ``output_tokens`` those of the text without timestamps. ``warnings`` are sentences
    for the client about what could not be done as usual. ``turns`` are those of the voices that diarization tells
    apart, in order.
    """

    task: Task
    language: str
    duration: float
    segments: tuple[Segment, ...] = field(default=())
    warnings: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    language_probability: float | None = None
    languages: tuple[str, ...] | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()

    @property
    def written_language(self) -> str:
        """The language of the text, which is English for a translation."""
        return "english" if self.task is Task.TRANSLATE else self.language

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(logprob for segment in self.segments for logprob in segment.logprobs)
