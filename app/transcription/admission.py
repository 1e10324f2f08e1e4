"""The front end of a transcription, from the file to windows, and the bound on it.

Admission limits how much PCM lies on disk and how many decoder processes run, without making short recordings wait
behind long ones. A limited number of transcriptions are decoded completely; they then share the model. While a
transcription waits for that, the first minute of its file may be decoded as a preview. If the recording ends within
that minute, the transcription goes on to the model at once, ahead of the long ones.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from app.domain.concurrency import in_executor

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.transcription.decoding import Decoder
    from app.transcription.diarizer import Diarizer

P = ParamSpec("P")
T = TypeVar("T")

#: A core decodes an hour of compressed audio in 1 to 7 s and finds the windows of an hour in 9 s, and a large GPU takes
#: an hour every 10 s. Up to this many cores work for it.
_MAX_CORES: Final = 16
#: Decoder processes may wait for the disk, so there are some on a small machine too.
_MIN_DECODERS: Final = 4
#: One of the decoder processes is reserved for previews.
_PREVIEW_DECODERS: Final = 1
#: Transcriptions that may be decoded completely besides those that hold a slot.
_AHEAD: Final = 4
#: Short transcriptions that may be decoded by a preview besides those that hold a slot.
_SHORT_AHEAD: Final = 8
#: A recording is short if it ends within this time.
PREVIEW_SECONDS: Final = 60.0
#: Synchronous requests that may overtake a job before the job is admitted.
_MAX_OVERTAKEN: Final = 4


class Grant(Enum):
    """The part of its file that an admitted transcription may decode."""

    WHOLE_FILE = auto()
    PREVIEW = auto()


class _Resource(Enum):
    """A resource of which admission has a limited number."""

    WHOLE_FILE = auto()
    DECODER = auto()
    SHORT_FILE = auto()
    PREVIEW_DECODER = auto()
    CONVERSATION = auto()
    SHORT_CONVERSATION = auto()


_NEEDED: Final = {
    Grant.WHOLE_FILE: (_Resource.WHOLE_FILE, _Resource.DECODER),
    Grant.PREVIEW: (_Resource.SHORT_FILE, _Resource.PREVIEW_DECODER),
}
#: The same if speakers are told apart by their voices, which takes longer than the text on a GPU.
_NEEDED_BY_VOICES: Final = {
    Grant.WHOLE_FILE: (*_NEEDED[Grant.WHOLE_FILE], _Resource.CONVERSATION),
    Grant.PREVIEW: (*_NEEDED[Grant.PREVIEW], _Resource.SHORT_CONVERSATION),
}


class Candidate:
    """A transcription that waits for admission or has been admitted."""

    def __init__(self, admission: Admission, *, synchronous: bool, by_voices: bool) -> None:
        self._admission = admission
        self.synchronous = synchronous
        self._by_voices = by_voices
        self.may_preview = True
        self.grant: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self.held: set[_Resource] = set()

    def needed(self, grant: Grant) -> tuple[_Resource, ...]:
        """Return the resources that it needs for a grant."""
        return (_NEEDED_BY_VOICES if self._by_voices else _NEEDED)[grant]

    async def admitted(self) -> Grant:
        """Wait for admission and return how much of the file may be decoded."""
        return await asyncio.shield(self.grant)

    def requeue(self) -> None:
        """Wait for the whole file to be admitted, because the preview did not reach the end of the recording."""
        self.may_preview = False
        self.grant = asyncio.get_running_loop().create_future()
        self._admission.requeue(self)

    def release_decoder(self) -> None:
        """Let another transcription be decoded."""
        self._admission.release_decoder(self)

    def release_file(self) -> None:
        """Let another transcription take its place before the model, while only its speakers are still unknown."""
        self._admission.release_file(self)

    def leave(self) -> None:
        """Leave the queue and release everything that is held. Further calls have no effect."""
        self._admission.leave(self)


class Admission:
    """Two queues, one of synchronous requests and one of jobs, and the resources that they wait for.

    Synchronous requests are admitted first, but a job waits for a few of them at most. ``slots`` is the number of
    transcriptions that use the models at once, ``decoders`` that of decoder processes. As many recordings as are
    transcribed at once may, besides, only be heard for their voices.
    """

    def __init__(self, *, slots: int, decoders: int) -> None:
        self._free = {
            _Resource.WHOLE_FILE: slots + _AHEAD,
            _Resource.DECODER: decoders - _PREVIEW_DECODERS,
            _Resource.SHORT_FILE: slots + _SHORT_AHEAD,
            _Resource.PREVIEW_DECODER: _PREVIEW_DECODERS,
            _Resource.CONVERSATION: slots + _AHEAD,
            _Resource.SHORT_CONVERSATION: slots + _SHORT_AHEAD,
        }
        self._synchronous: deque[Candidate] = deque()
        self._jobs: deque[Candidate] = deque()
        self._overtaken = 0

    def enqueue(self, *, synchronous: bool, by_voices: bool = False) -> Candidate:
        """Add a transcription, whose speakers may have to be told apart ``by_voices``, to the end of its queue."""
        candidate = Candidate(self, synchronous=synchronous, by_voices=by_voices)
        self._queue_of(candidate).append(candidate)
        self._admit()
        return candidate

    def requeue(self, candidate: Candidate) -> None:
        """Take everything back from an admitted transcription and put it at the head of its queue."""
        self._release(candidate, *_Resource)
        self._queue_of(candidate).appendleft(candidate)
        self._admit()

    def release_decoder(self, candidate: Candidate) -> None:
        """Take the decoder back from a transcription whose file has been decoded."""
        self._release(candidate, _Resource.DECODER, _Resource.PREVIEW_DECODER)
        self._admit()

    def release_file(self, candidate: Candidate) -> None:
        """Take the place of its file back from a transcription whose text is there."""
        self._release(candidate, _Resource.WHOLE_FILE, _Resource.SHORT_FILE)
        self._admit()

    def leave(self, candidate: Candidate) -> None:
        """Remove a transcription, whether it waits or has been admitted."""
        queue = self._queue_of(candidate)
        if candidate in queue:
            queue.remove(candidate)
        self._release(candidate, *_Resource)
        self._admit()

    def _queue_of(self, candidate: Candidate) -> deque[Candidate]:
        return self._synchronous if candidate.synchronous else self._jobs

    def _release(self, candidate: Candidate, *resources: _Resource) -> None:
        for resource in candidate.held.intersection(resources):
            candidate.held.remove(resource)
            self._free[resource] += 1

    def _admit(self) -> None:
        while self._admit_one(Grant.WHOLE_FILE) or self._admit_one(Grant.PREVIEW):
            pass

    def _admit_one(self, grant: Grant) -> bool:
        """Grant this to the next transcription. Return False if there is none for which the resources are free."""
        candidate = self._next(grant)
        if candidate is None:
            return False
        self._queue_of(candidate).remove(candidate)
        for resource in candidate.needed(grant):
            self._free[resource] -= 1
            candidate.held.add(resource)
        candidate.grant.set_result(grant)
        return True

    def _next(self, grant: Grant) -> Candidate | None:
        synchronous = self._first(self._synchronous, grant)
        job = self._first(self._jobs, grant)
        if synchronous is None or job is None:
            return synchronous or job
        if self._overtaken < _MAX_OVERTAKEN:
            self._overtaken += 1
            return synchronous
        self._overtaken = 0
        return job

    def _first(self, queue: deque[Candidate], grant: Grant) -> Candidate | None:
        """Return the first transcription in a queue that can have this grant now."""
        if not all(self._free[resource] for resource in _NEEDED[grant]):
            return None
        return next((candidate for candidate in queue if self._can_have(candidate, grant)), None)

    def _can_have(self, candidate: Candidate, grant: Grant) -> bool:
        may_have = candidate.may_preview or grant is not Grant.PREVIEW
        return may_have and all(self._free[resource] for resource in candidate.needed(grant))


def usable_cores() -> int:
    """Return the number of cores that the front end uses."""
    return min(_MAX_CORES, len(os.sched_getaffinity(0)))


class FrontEnd:
    """Admission, the decoder, the threads that turn a file into windows, and the diarizer, if there is one.

    ``slots`` is the number of transcriptions that use the models at once.
    """

    def __init__(self, decoder: Decoder, *, slots: int, diarizer: Diarizer | None = None) -> None:
        self.decoder = decoder
        self.diarizer = diarizer
        self.admission = Admission(slots=slots, decoders=max(_MIN_DECODERS, usable_cores()))
        self._executor = ThreadPoolExecutor(usable_cores(), thread_name_prefix="front-end")
        self._soon = ThreadPoolExecutor(usable_cores(), thread_name_prefix="features")

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run a blocking function in one of the threads and return its future result."""
        return in_executor(self._executor, function, *args, **kwargs)

    def run_soon(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run a short function, after which a window is ready, without waiting behind the searches of all files."""
        return in_executor(self._soon, function, *args, **kwargs)

    def close(self) -> None:
        """Stop the threads without waiting for what they compute now, and the decoder processes."""
        for executor in (self._executor, self._soon):
            executor.shutdown(wait=False, cancel_futures=True)
        if self.diarizer is not None:
            self.diarizer.close()
        self.decoder.close()
