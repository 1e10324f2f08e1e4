"""One recording, listened to block by block; at its end, who speaks when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from app.diarization.chunks import HOP_SAMPLES, own_frames
from app.diarization.clustering import speaker_centroids
from app.diarization.filter_bank import HOP_SAMPLES as SPECTROGRAM_HOP
from app.diarization.filter_bank import log_mel
from app.diarization.heard import Heard
from app.diarization.models import CHUNK_SAMPLES, MIN_SPECTROGRAM_FRAMES, SAMPLE_RATE
from app.diarization.names import known_speakers, speaker_names
from app.diarization.turns import speaker_turns
from app.diarization.voice_windows import voice_windows
from app.domain.transcript import Turn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from app.diarization.models import VoiceModels
    from app.diarization.voice_windows import VoiceWindow

    Samples = npt.NDArray[np.int16]
    Vector = npt.NDArray[np.float32]

#: The samples that are best handed over at once, 10 s: the models take half a second for them on one core.
BLOCK_SAMPLES: Final = 2 * HOP_SAMPLES


class Conversation:
    """The state of one recording. Its methods block, and are called one at a time, in any thread."""

    def __init__(self, models: VoiceModels) -> None:
        self._models = models
        self._heard = Heard()
        self._pending = np.zeros(0, np.int16)
        self._samples = 0

    def hear(self, samples: Samples, *, is_last: bool = False) -> None:
        """Take the next samples (16 kHz, one channel), best in blocks of ``BLOCK_SAMPLES``; the last may be empty."""
        self._samples += len(samples)
        self._pending = np.concatenate([self._pending, samples])
        chunks: list[Samples] = []
        while len(self._pending) > CHUNK_SAMPLES:
            chunks.append(self._pending[:CHUNK_SAMPLES])
            self._pending = self._pending[HOP_SAMPLES:]
        if is_last and len(self._pending):
            chunks.append(np.pad(self._pending, (0, CHUNK_SAMPLES - len(self._pending))))
            self._pending = self._pending[:0]
        if chunks:
            self._add(np.stack(chunks).astype(np.float32) / np.float32(32768.0), has_last=is_last)
        self._pending = self._pending.copy()  # not a view of all that came before

    def voices(self) -> tuple[Vector, Vector]:
        """Return the embeddings of what was heard, shape ``(n, 192)``, and the seconds of speech of each."""
        return self._heard.embeddings, self._heard.seconds

    @property
    def nbytes(self) -> int:
        """The memory that what was heard takes, about 3 MB for an hour of speech."""
        return self._heard.nbytes + self._pending.nbytes

    def turns(
        self, *, min_speakers: int = 1, max_speakers: int | None = None, known: Mapping[str, Vector] | None = None
    ) -> tuple[Turn, ...]:
        """Return who speaks when, sorted by start, once the last samples were heard.

        ``known`` are the voices of speakers with a name, from :func:`app.diarization.references.voice_of`. The others
        are A, B and so on, in the order of their first turns.
        """
        centroids = speaker_centroids(*self.voices(), min_speakers=min_speakers, max_speakers=max_speakers)
        turns = speaker_turns(self._heard, centroids)
        names = speaker_names((turn.speaker for turn in turns), known_speakers(centroids, known or {}))
        duration = self._samples / SAMPLE_RATE  # the last chunk goes on
        return tuple(
            Turn(start=turn.start, end=min(turn.end, duration), speaker=names[turn.speaker])
            for turn in turns
            if turn.start < duration
        )

    def _add(self, chunks: Vector, *, has_last: bool) -> None:
        windows: list[list[VoiceWindow]] = []
        spectrograms: list[Vector] = []
        activities = self._models.segment(chunks)
        for index, (chunk, activity) in enumerate(zip(chunks, activities, strict=True)):
            is_first = self._heard.chunks + index == 0
            own = own_frames(is_first=is_first, is_last=has_last and index == len(chunks) - 1)
            windows.append(list(voice_windows(activity, own)))
            spectrograms += _spectrograms(chunk, windows[-1])
        ends = np.cumsum([len(of_chunk) for of_chunk in windows])
        embeddings = np.split(self._models.embed(spectrograms), ends[:-1])
        for activity, of_chunk, voices in zip(activities, windows, embeddings, strict=True):
            self._heard.add(activity, of_chunk, voices)


def _spectrograms(chunk: Vector, windows: Sequence[VoiceWindow]) -> list[Vector]:
    if not windows:
        return []
    spectrogram = log_mel(chunk)
    frames = [(window.start // SPECTROGRAM_HOP, window.end // SPECTROGRAM_HOP - 2) for window in windows]
    return [spectrogram[start : max(end, start + MIN_SPECTROGRAM_FRAMES)] for start, end in frames]
