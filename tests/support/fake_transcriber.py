"""A scripted transcriber, without a model, which continues when the test says so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.transcript import Segment, Task, Transcript, Word
from app.domain.waveform import Waveform
from app.transcription.transcriber import FinishedWindow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from app.domain.transcript import TranscriptionOptions
    from app.transcription.transcriber import Listener


def a_segment(number: int, text: str, *, start: float, end: float) -> Segment:
    return Segment(
        id=number,
        seek=round(start * 100),
        start=start,
        end=end,
        text=text,
        tokens=(50364, 2425),
        temperature=0.0,
        avg_logprob=-0.25,
        compression_ratio=1.5,
        no_speech_prob=0.01,
        words=(Word(word=text, start=start, end=end, probability=0.9),),
    )


#: Two windows of a recording of 10 s.
GREETING: Final = Transcript(
    task=Task.TRANSCRIBE,
    language="german",
    duration=10.0,
    segments=(a_segment(0, " Grüße", start=0.5, end=4.0), a_segment(1, " an alle.", start=5.0, end=9.5)),
)


#: The waveform of the same recording.
WAVEFORM: Final = Waveform(duration=10.0, channels=(bytes(range(200)),))


class Checkpoint:
    """A point that every job passes, and where the test can hold them."""

    def __init__(self) -> None:
        self.arrivals = 0
        self._arrived = asyncio.Condition()
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def reached(self, times: int = 1) -> None:
        """Wait until this many jobs have passed or reached this point."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.arrivals >= times)

    async def pass_by(self) -> None:
        self.arrivals += 1
        async with self._arrived:
            self._arrived.notify_all()
        await self._open.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The arguments of a call of the transcriber."""

    source: Path
    options: TranscriptionOptions
    listener: Listener
    synchronous: bool
    references: tuple[Path, ...] = ()


class FakeTranscriber:
    """Behaves as a Transcriber does, at most ``slots`` jobs at once on its model.

    A job passes ``decoding``, takes a slot, passes ``on_model``, emits a window for each segment, and passes
    ``finishing``; one that is cancelled passes ``leaving``. ``undecodable`` and ``error`` are raised instead of
    going on. If voices are to be told apart, it has heard a quarter of the audio when all segments are there.
    """

    def __init__(self, *, slots: int = 3, transcript: Transcript = GREETING) -> None:
        self.transcript = transcript
        self.decoding, self.on_model, self.finishing, self.leaving = (Checkpoint() for _ in range(4))
        self.undecodable: Exception | None = None
        self.error: Exception | None = None
        self.calls: list[Call] = []
        self.most_active = 0
        self.cancelled = 0
        self._active = 0
        self._slots = asyncio.Semaphore(slots)

    @property
    def active(self) -> int:
        return self._active

    async def transcribe(
        self,
        source: Path,
        options: TranscriptionOptions,
        *,
        listener: Listener,
        synchronous: bool = False,
        references: Sequence[Path] = (),
    ) -> Transcript:
        call = Call(
            source=source,
            options=options,
            listener=listener,
            synchronous=synchronous,
            references=tuple(references),
        )
        self.calls.append(call)
        try:
            return await self._transcribe(call)
        except asyncio.CancelledError:
            self.cancelled += 1
            await self.leaving.pass_by()
            raise

    async def _transcribe(self, call: Call) -> Transcript:
        source, listener = call.source, call.listener
        listener.on_waiting()
        await listener.on_start()
        await asyncio.to_thread(source.stat)  # it may be gone
        await self.decoding.pass_by()
        if self.undecodable is not None:
            raise self.undecodable
        listener.on_decoded(self.transcript.duration)
        async with self._slots:
            self._active += 1
            self.most_active = max(self.most_active, self._active)
            try:
                listener.on_slot_granted()
                return await self._run(call)
            finally:
                self._active -= 1

    async def _run(self, call: Call) -> Transcript:
        listener = call.listener
        await self.on_model.pass_by()
        if self.error is not None:
            raise self.error
        for window in self.windows():
            listener.on_window(window)
        if call.options.tells_voices_apart:
            listener.on_heard(self.transcript.duration / 4)
            listener.on_text_done()
        listener.on_waveform(WAVEFORM)
        await self.finishing.pass_by()
        return self.transcript

    def windows(self) -> list[FinishedWindow]:
        """Return a window for each segment."""
        return [
            FinishedWindow(
                segments=(segment,),
                seconds_done=segment.end,
                duration=self.transcript.duration,
                language=self.transcript.language,
            )
            for segment in self.transcript.segments
        ]
