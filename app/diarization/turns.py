"""The turns of the speakers, from a decision on who speaks in each frame.

The segmentation says how many people speak in a frame. Where one does, the embeddings of the windows around it say who
that is. Where two do, they are the speakers of the local slots that are active, known from the windows in which each of
those spoke alone. It is decided a few minutes at a time, so memory doesn't depend on the length of a recording.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from app.diarization.chunks import HOP_FRAMES, frame_edge, own_frames
from app.diarization.models import CHUNK_FRAMES, FRAME_SAMPLES, SAMPLE_RATE
from app.diarization.slots import SlotSpeakers
from app.diarization.voice_windows import runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from app.diarization.heard import Heard

    Activity = npt.NDArray[np.bool_]
    Array = npt.NDArray[np.float32]

#: Chunks that are decided at once: five minutes.
_BLOCK_CHUNKS: Final = 60
#: Cosines, times this, become the probabilities of speakers by softmax.
_SHARPNESS: Final = 12.0
#: The least probability of the second of two speakers.
_MIN_SECOND: Final = 0.2
#: Silence within a turn is at most this long, in seconds.
_MAX_GAP_SECONDS: Final = 0.5
#: A shorter turn, in seconds, is a mistake: without them the error rate is lower.
_MIN_TURN_SECONDS: Final = 0.2


class SpeakerTurn(NamedTuple):
    """A turn of the speaker with the index ``speaker``, in seconds."""

    start: float
    end: float
    speaker: int


def speaker_turns(heard: Heard, centroids: Array) -> list[SpeakerTurn]:
    """Return the turns of the speakers with these ``centroids`` ``(speakers, 192)``, sorted by their start.

    Without any, all speech is too short to know a voice by, and is that of one speaker.
    """
    likely = _probabilities(heard.embeddings @ centroids.T) if len(centroids) else np.ones((0, 1), np.float32)
    windows = heard.windows
    spans: list[list[tuple[int, int]]] = [[] for _ in range(likely.shape[1])]
    for first in range(0, heard.chunks, _BLOCK_CHUNKS):
        end = min(first + _BLOCK_CHUNKS, heard.chunks)
        chosen = slice(*np.searchsorted(windows[:, 0], [first - 2, end + 1]))
        block = _Block(heard, first, end, windows[chosen], likely[chosen])
        for speaker, is_speaking in enumerate(block.decide().T):
            spans[speaker] += (runs(is_speaking) + first * HOP_FRAMES).tolist()
    turns = [
        SpeakerTurn(frame_edge(start) / SAMPLE_RATE, frame_edge(end) / SAMPLE_RATE, speaker)
        for speaker, parts in enumerate(spans)
        for start, end in _joined(parts)
        if (end - start) * FRAME_SAMPLES >= _MIN_TURN_SECONDS * SAMPLE_RATE
    ]
    return sorted(turns)


def _probabilities(cosines: Array) -> Array:
    likely = np.exp(_SHARPNESS * (cosines - cosines.max(axis=1, keepdims=True)))
    probabilities: Array = likely / likely.sum(axis=1, keepdims=True)
    return probabilities


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans of frames with short gaps between them; those of neighbouring blocks have none."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and (start - joined[-1][1]) * FRAME_SAMPLES < _MAX_GAP_SECONDS * SAMPLE_RATE:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


@cache
def _taper(frames: int) -> Array:
    """Return the weights of a window's frames, shape ``(frames, 1)``; those in its middle count most."""
    weights: Array = np.hanning(frames + 2)[1:-1, np.newaxis].astype(np.float32) + np.float32(0.05)
    return weights


class _Block:
    """The frames from the start of chunk ``first`` to that of chunk ``end``, or to the end of the recording.

    The chunk before reaches into the block, and its neighbours and those of the last one know more about their slots.
    ``windows`` are those of all these chunks, with the probabilities of the speakers of each.
    """

    def __init__(self, heard: Heard, first: int, end: int, windows: npt.NDArray[np.int32], likely: Array) -> None:
        self._heard = heard
        self._chunks = range(max(0, first - 1), end)
        self._offset = self._chunks.start * HOP_FRAMES
        self._begin = first * HOP_FRAMES - self._offset
        total = (end - 1 - self._chunks.start) * HOP_FRAMES + CHUNK_FRAMES
        self._end = total if end == heard.chunks else end * HOP_FRAMES - self._offset
        self._windows = windows
        self._likely = likely
        self._slots = SlotSpeakers(heard, windows, likely)
        alone = likely.shape[1] == 1  # everything is evidence of the only speaker
        self._evidence = np.full((total, likely.shape[1]), float(alone), np.float32)

    def decide(self) -> npt.NDArray[np.bool_]:
        """Return who speaks in each frame, shape ``(frames, speakers)``."""
        self._add_windows()
        self._add_slots()
        people = self._count_people()
        by_evidence = np.argsort(-self._evidence, axis=1, kind="stable")
        result = np.zeros(self._evidence.shape, np.bool_)
        for rank, least in enumerate((0.0, _MIN_SECOND)[: self._evidence.shape[1]]):
            speaker = by_evidence[:, rank]
            frames = np.flatnonzero(
                (people > rank) & (np.take_along_axis(self._evidence, speaker[:, None], 1)[:, 0] > least)
            )
            result[frames, speaker[frames]] = True
        return result[self._begin : self._end]

    def _add_windows(self) -> None:
        for (chunk, _, start, end), likely in zip(self._windows.tolist(), self._likely, strict=True):
            if chunk not in self._chunks:
                continue
            first = (chunk - self._chunks.start) * HOP_FRAMES + start // FRAME_SAMPLES
            frames = min((end - start) // FRAME_SAMPLES + 1, len(self._evidence) - first)  # samples go on after frames
            self._evidence[first : first + frames] += _taper(frames) * likely

    def _add_slots(self) -> None:
        """Add what is known of the active slots to frames in which several people speak, or that no window covers."""
        for chunk, frames, activity in self._activities():
            own_start, own_end = own_frames(is_first=chunk == 0, is_last=chunk == self._heard.chunks - 1)
            count = activity.sum(axis=1)
            is_open = (count > 1) | ((count == 1) & (self._evidence[frames].sum(axis=1) == 0))
            is_open[:own_start] = is_open[own_end:] = False
            for slot, likely in self._slots.of(chunk, activity).items():
                self._evidence[frames][is_open & activity[:, slot]] += likely

    def _count_people(self) -> npt.NDArray[np.intp]:
        """Return how many people speak in each frame, by the chunks that it is in."""
        taper = np.hamming(CHUNK_FRAMES).astype(np.float32)
        people = np.zeros(len(self._evidence), np.float32)
        weight = np.zeros(len(self._evidence), np.float32)
        for _, frames, activity in self._activities():
            people[frames] += activity.sum(axis=1) * taper
            weight[frames] += taper
        counts: npt.NDArray[np.intp] = np.rint(people / weight).astype(np.intp)
        return counts

    def _activities(self) -> Iterator[tuple[int, slice, Activity]]:
        """Yield each chunk, its frames in the block, and which of its slots speak in them."""
        for chunk in self._chunks:
            first = (chunk - self._chunks.start) * HOP_FRAMES
            yield chunk, slice(first, first + CHUNK_FRAMES), self._heard.activity(chunk)
