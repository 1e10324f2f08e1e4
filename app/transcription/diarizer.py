"""Speakers told apart by their voices: a recording is heard in blocks while it is decoded, beside its transcription.

The models compute in threads of the lowest priority. All requests share them: each has one block at a time in the
queue, so that long recordings take turns, and a request that is cancelled holds a thread for one block at most. Short
recordings have threads of their own, so that they don't wait behind long ones.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from app.diarization.conversation import BLOCK_SAMPLES, Conversation
from app.diarization.models import VoiceModels
from app.diarization.references import voice_of
from app.domain.concurrency import in_executor
from app.domain.errors import UndecodableAudio, UnusableReference
from app.transcription.admission import PREVIEW_SECONDS
from app.transcription.decoding import SAMPLE_RATE
from app.transcription.device import lower_thread_priority
from app.transcription.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from app.domain.transcript import Diarization, Turn
    from app.transcription.decoding import Decoder

    #: The voice of a speaker, as :func:`app.diarization.references.voice_of` returns it.
    Voice = npt.NDArray[np.float32]

#: The lengths of a reference, in seconds, as OpenAI documents them, and how far an encoder may miss them.
_SHORTEST_REFERENCE: Final = 2.0
_LONGEST_REFERENCE: Final = 10.0
_TOLERANCE: Final = 0.2
#: The niceness of the models' threads. Beside those of Whisper on the CPU, which have 3, Linux gives them 6 % of a core
#: while all cores are busy.
_NICENESS: Final = 15
_SHORT_SAMPLES: Final = round(PREVIEW_SECONDS * SAMPLE_RATE)


class Diarizer:
    """Tells speakers apart with the models in ``folder``, which are loaded on first use, in ``threads`` threads."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        self._folder = folder
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="voices")
        self._soon = ThreadPoolExecutor(threads, thread_name_prefix="short-voices")
        self._loading = threading.Lock()
        self._models: VoiceModels | None = None

    async def turns(
        self,
        recording: Recording,
        diarization: Diarization,
        *,
        known: Mapping[str, Voice],
        on_heard: Callable[[float], None],
    ) -> tuple[Turn, ...]:
        """Return the turns of the speakers in a recording of one channel, which may still be decoded.

        ``known`` has the voices of speakers by their names. ``on_heard`` is called with the seconds that were heard
        so far.

        Raises:
            ModelUnavailable: the models can't be loaded.
        """
        await recording.wait_beyond(_SHORT_SAMPLES)
        executor = self._soon if recording.samples <= _SHORT_SAMPLES else self._executor
        conversation = Conversation(await in_executor(executor, self._load))
        position = 0
        ended = False
        while not ended:
            available = await recording.wait_beyond(position + BLOCK_SAMPLES - 1)
            end = min(available, position + BLOCK_SAMPLES)
            ended = recording.is_complete and end == available
            await in_executor(executor, _hear, conversation, recording, position, end, is_last=ended)
            position = end
            on_heard(position / SAMPLE_RATE)
        return await in_executor(
            executor,
            conversation.turns,
            min_speakers=diarization.min_speakers,
            max_speakers=diarization.max_speakers,
            known=known,
        )

    async def voices(self, names: Sequence[str], references: Sequence[Path], *, decoder: Decoder) -> dict[str, Voice]:
        """Return the voices of known speakers by their names, from a reference recording of each.

        Scratch files are written beside the references.

        Raises:
            UnusableReference: a reference can't be decoded, is too short or too long, or nobody speaks in it.
            ModelUnavailable: the models can't be loaded.
        """
        voices = {}
        for number, (name, reference) in enumerate(zip(names, references, strict=True), start=1):
            voices[name] = await self._voice(number, reference, decoder)
        return voices

    def close(self) -> None:
        """Stop the threads without waiting for the blocks that they hear now."""
        for executor in (self._executor, self._soon):
            executor.shutdown(wait=False, cancel_futures=True)

    async def _voice(self, number: int, reference: Path, decoder: Decoder) -> Voice:
        recording = Recording(reference.with_name(reference.name + ".pcm"))
        try:
            longest = _LONGEST_REFERENCE + _TOLERANCE
            decoded = await decoder.decode(reference, recording.path, stop_after_seconds=longest)
            if not decoded.is_complete or not _SHORTEST_REFERENCE - _TOLERANCE <= decoded.duration <= longest:
                length = f"{decoded.duration:.1f} s" if decoded.is_complete else "more"
                raise _unusable(number, f"must be 2 to 10 s long, got {length}")
            return await in_executor(self._soon, self._voice_of, recording, decoded.samples)
        except UndecodableAudio as exc:
            raise _unusable(number, f"can't be decoded ({str(exc).rstrip('.')})") from exc
        except ValueError as exc:
            raise _unusable(number, "has no speech") from exc
        finally:
            await asyncio.to_thread(recording.discard)

    def _voice_of(self, recording: Recording, samples: int) -> Voice:
        return voice_of(self._load(), recording.read(0, 0, samples))

    def _load(self) -> VoiceModels:
        """Return the models, loaded once. Blocks."""
        with self._loading:
            if self._models is None:
                with ThreadPoolExecutor(1, initializer=lower_thread_priority, initargs=(_NICENESS,)) as loader:
                    self._models = loader.submit(VoiceModels.load, self._folder, threads=self._threads).result()
            return self._models


def _hear(conversation: Conversation, recording: Recording, start: int, end: int, *, is_last: bool) -> None:
    conversation.hear(recording.read(0, start, end), is_last=is_last)


def _unusable(number: int, problem: str) -> UnusableReference:
    return UnusableReference(
        f"`known_speaker_references` number {number} {problem}: send 2 to 10 s in which only this speaker speaks."
    )
