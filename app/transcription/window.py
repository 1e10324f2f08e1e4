"""A window of speech on its way through the model, and the conversion of its times to times of the recording."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from app.transcription.vad import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from app.domain.transcript import Segment, Task
    from app.transcription.accepted_decoding import AcceptedDecoding
    from app.transcription.fallback import Decoding, Thresholds
    from app.transcription.language_detection import LanguageGuess
    from app.transcription.vad import Span

    Array = npt.NDArray[np.float32]

#: The silence that voice activity detection keeps at each end of a span, by default.
_EDGE_SECONDS: Final = 0.4
_SECONDS_PER_SAMPLE: Final = 1 / SAMPLE_RATE
#: The input of the encoder: 30 s in frames of 10 ms.
ENCODER_FRAMES: Final = 3000
#: A guess is encoded in multiples of 5 s, with at least that much silence at its end. Encoding 10 s takes a sixth of
#: the time of 30 s (base, CPU) and nearly always says the same; without the silence, the text often repeats itself.
_GUESS_FRAMES: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeKey:
    """The properties that all windows of one batch share when they are decoded.

    CTranslate2 requires ``<|startoftranscript|>`` at the same index of every prompt, and one beam size, temperature and
    number of encoded frames for the batch. Languages and tasks can differ.
    """

    beam_size: int
    temperature: float
    prompt_length: int
    encoder_frames: int = ENCODER_FRAMES


@dataclass(frozen=True, slots=True)
class Timeline:
    """The positions of a window's ``spans`` in the recording.

    It converts seconds of the window to seconds of the recording, which has silence between the spans that the window
    left out. The spans themselves have up to 0.4 s of silence at their edges. A phrase that starts in the silence at
    the end of a span belongs to the next span, and one that ends in the silence at the start of a span belongs to the
    previous one; otherwise it would seem to last through everything between them. Nobody speaks during ``pauses``, in
    samples of the recording as well.
    """

    spans: tuple[Span, ...]
    pauses: tuple[Span, ...] = ()

    def pauses_after(self, seconds: float) -> list[tuple[float, float]]:
        """Return the starts and ends of the pauses after a time of the window, in seconds from that time.

        Pauses on both sides of what was left out between two spans are one.
        """
        pauses: list[tuple[float, float]] = []
        for index, span in enumerate(self.spans):
            offset = self._start_of(index) - span.start / SAMPLE_RATE - seconds
            for pause in self.pauses:
                start = max(0.0, max(pause.start, span.start) / SAMPLE_RATE + offset)
                end = min(pause.end, span.end) / SAMPLE_RATE + offset
                if end <= start:
                    continue
                if pauses and start - pauses[-1][1] < _SECONDS_PER_SAMPLE:
                    start, _ = pauses.pop()
                pauses.append((start, end))
        return pauses

    def times(self, start: float, end: float) -> tuple[float, float]:
        """Return a start and an end; at a border between spans the start is in the second one, the end in the first."""
        return self._in_recording(start, self._span_at(start)), self._in_recording(end, self._span_at(end, as_end=True))

    def phrase_times(self, start: float, end: float) -> tuple[float, float]:
        """Return the start and end of a phrase, which can extend over several spans."""
        first = self._span_at(start)
        last = max(first, self._span_at(end, as_end=True))
        if first < last and self._start_of(first + 1) - start <= _EDGE_SECONDS:
            first += 1
            start = max(start, self._start_of(first))
        if first < last and end - self._start_of(last) <= _EDGE_SECONDS:
            last -= 1
            end = min(end, self._start_of(last + 1))
        return self._in_recording(start, first), self._in_recording(end, last)

    def word_times(self, start: float, end: float) -> tuple[float, float]:
        """Return the start and end of a word, which is held within the span of its middle."""
        span = self._span_at((start + end) / 2)
        low, high = self._start_of(span), self._start_of(span + 1)
        start, end = min(max(start, low), high), min(max(end, low), high)
        return self._in_recording(start, span), self._in_recording(end, span)

    def _span_at(self, seconds: float, *, as_end: bool = False) -> int:
        """Return the index of the span at a time; on a border the second one, or the first one ``as_end``."""
        for index in range(len(self.spans) - 1):
            border = self._start_of(index + 1)
            if seconds < border or (as_end and seconds == border):
                return index
        return len(self.spans) - 1

    def _start_of(self, index: int) -> float:
        """Return the seconds at which a span starts in the window; after the last one, at which the window ends."""
        return sum(span.samples for span in self.spans[:index]) / SAMPLE_RATE

    def _in_recording(self, seconds: float, index: int) -> float:
        return self.spans[index].start / SAMPLE_RATE + seconds - self._start_of(index)


@dataclass(slots=True, kw_only=True, eq=False)
class Window:
    """At most 30 s of one channel: ``spans`` of the recording, without the silence between them.

    ``has_speech`` is False if voice activity detection found none in it. Nobody speaks during ``pauses``.
    ``features`` is the log-mel spectrogram, shape ``(n_mels, frames)``, from frame ``seek`` of the window on;
    everything before it has been decoded as ``accepted``. ``encoded`` is the encoder's output for it, shape
    ``(positions, width)``, or None. ``decodings`` are those that were not acceptable. ``guesses`` are the languages
    that the model heard, the most probable first; if there are several, the first decoding chooses ``language``. If
    there are ``candidates``, it is one of these, whatever is spoken in other windows. With ``only_language`` nothing
    else counts. ``temperatures`` are for each part of the window, ``remaining_temperatures`` for the present one;
    ``thresholds`` None are the model's. The text of the first part begins with the tokens ``beginning``, and what is
    said before ``new_seconds`` of the window becomes no segment. A ``guess`` is decoded once, as a whole, and only its
    tokens are kept. Only one owner at a time changes a window: the front end, the scheduler, or the thread of the
    device that it is on.
    """

    channel: int
    number: int
    spans: tuple[Span, ...]
    features: Array
    task: Task
    beam_size: int
    temperatures: tuple[float, ...]
    thresholds: Thresholds | None = None
    has_speech: bool = True
    pauses: tuple[Span, ...] = ()
    prompt: tuple[int, ...] = ()
    guess: bool = False
    beginning: tuple[int, ...] = ()
    new_seconds: float = 0.0
    word_timestamps: bool = False
    token_logprobs: bool = False
    only_language: bool = False
    language: str | None = None
    candidates: tuple[str, ...] = ()
    guesses: tuple[LanguageGuess, ...] = ()
    seek: int = 0
    encoded: Array | None = None
    decodings: list[Decoding] = field(default_factory=list)
    accepted: list[AcceptedDecoding] = field(default_factory=list)
    remaining_temperatures: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.remaining_temperatures = self.temperatures

    @property
    def start(self) -> int:
        """The first sample, in samples of the recording."""
        return self.spans[0].start

    @property
    def wants_alignment(self) -> bool:
        """True if its text has to be aligned with the audio, for the times of words or for log probabilities."""
        return self.word_timestamps or self.token_logprobs

    @property
    def is_heard(self) -> bool:
        """True if nothing but the language counts, and the encoder has told it."""
        return self.only_language and self.language is not None

    @property
    def shares_language(self) -> bool:
        """True while its language is that of its channel, and not known."""
        return self.language is None and not self.candidates

    @property
    def uncertain_language(self) -> LanguageGuess | None:
        """The chosen language if it was not certain from the sound alone."""
        if len(self.guesses) < 2:
            return None
        return next((guess for guess in self.guesses if guess.code == self.language), None)

    @property
    def has_text(self) -> bool:
        """True if an accepted decoding has any text."""
        return any(accepted.text_tokens for accepted in self.accepted)

    @property
    def timeline(self) -> Timeline:
        return Timeline(self.spans, self.pauses)

    @property
    def frames(self) -> int:
        """The number of frames (10 ms each) that are not transcribed yet."""
        return int(self.features.shape[1])

    @property
    def encoder_frames(self) -> int:
        """The frames that the encoder takes, silence at the end included."""
        if not self.guess:
            return ENCODER_FRAMES
        return min(ENCODER_FRAMES, (max(1, -(-self.frames // _GUESS_FRAMES)) + 1) * _GUESS_FRAMES)

    @property
    def temperature(self) -> float:
        """The temperature of the next decoding."""
        return self.remaining_temperatures[0]

    @property
    def key(self) -> DecodeKey:
        """The key of the next decoding. Beam search is only used at temperature 0, as in Whisper."""
        beam_size = self.beam_size if self.temperature == 0 else 1
        return DecodeKey(
            beam_size=beam_size,
            temperature=self.temperature,
            prompt_length=len(self.prompt),
            encoder_frames=self.encoder_frames,
        )

    @property
    def has_estimated_words(self) -> bool:
        """True if the times of some words could not be measured."""
        return any(accepted.has_estimated_words for accepted in self.accepted)

    def fall_back(self, decoding: Decoding, temperatures: tuple[float, ...], encoded: Array) -> None:
        """Keep an unacceptable decoding, the temperatures that are left, and the encoder's output."""
        self.decodings.append(decoding)
        self.remaining_temperatures = temperatures
        self.encoded = encoded

    def accept(self, decoding: AcceptedDecoding) -> bool:
        """Keep a decoding and skip the frames that it covers. Return True if any are left."""
        self.accepted.append(decoding)
        self.seek += decoding.frames_done
        self.beginning = ()
        self.features = self.features[:, decoding.frames_done :]
        self.decodings.clear()
        self.remaining_temperatures = self.temperatures
        self.encoded = None
        return self.frames > 0

    def segments(self) -> tuple[Segment, ...]:
        """Return the segments of the accepted decodings. It takes a while, and no device."""
        return tuple(segment for accepted in self.accepted for segment in accepted.segments())
