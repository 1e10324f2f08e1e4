"""The part of a recording that is kept to tell its speakers apart: 3 bits a frame, an embedding a second of speech."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from app.diarization.models import CHUNK_FRAMES, EMBEDDING_SIZE, SAMPLE_RATE, SLOTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from app.diarization.voice_windows import VoiceWindow

    Activity = npt.NDArray[np.bool_]
    Embeddings = npt.NDArray[np.float32]

_BITS: Final = CHUNK_FRAMES * SLOTS


class Heard:
    """The local speakers of all chunks and the embeddings of their voices, which grows by 3 MB in an hour of speech.

    ``windows`` has a row for each embedding: its chunk, its slot, and the first and last sample in the chunk.
    """

    def __init__(self) -> None:
        self._activities: list[npt.NDArray[np.uint8]] = []
        self._windows: list[npt.NDArray[np.int32]] = []
        self._embeddings: list[Embeddings] = []

    def add(self, activity: Activity, windows: Sequence[VoiceWindow], embeddings: Embeddings) -> None:
        """Add the next chunk: its ``activity`` ``(589, 3)``, and an embedding for each of its windows."""
        chunk = len(self._activities)
        self._activities.append(np.packbits(activity))
        if windows:
            self._windows.append(np.array([(chunk, *window) for window in windows], np.int32))
            self._embeddings.append(embeddings)

    @property
    def chunks(self) -> int:
        return len(self._activities)

    def activity(self, chunk: int) -> Activity:
        """Return which local speakers speak in each frame of a chunk, shape ``(589, 3)``."""
        bits = np.unpackbits(self._activities[chunk], count=_BITS)
        return bits.reshape(CHUNK_FRAMES, SLOTS).astype(np.bool_)

    @property
    def windows(self) -> npt.NDArray[np.int32]:
        return np.concatenate([np.zeros((0, 4), np.int32), *self._windows])

    @property
    def seconds(self) -> npt.NDArray[np.float32]:
        """The length of each window."""
        windows = self.windows
        return ((windows[:, 3] - windows[:, 2]) / SAMPLE_RATE).astype(np.float32)

    @property
    def embeddings(self) -> Embeddings:
        return np.concatenate([np.zeros((0, EMBEDDING_SIZE), np.float32), *self._embeddings])

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for arrays in (self._activities, self._windows, self._embeddings) for array in arrays)
