"""Compare the texts of live transcription with those of a file, without waiting for the audio to be spoken.

    python -m benchmarks.live_accuracy MODEL FILE... [--references manifest.jsonl] [--seconds 600] [--guesses]

The files follow each other with a second of silence between them. A session with its default settings receives the
same audio as fast as its texts are done, so the result depends on no clock, unless there are ``--guesses``. The
references are JSON lines with the ``path`` of a recording and its ``reference``; without them the text of the file is
the reference. It writes nothing; results go into ``benchmarks/RESULTS.md`` by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from app.domain.events import discard_event
from app.domain.transcript import TranscriptionOptions
from app.realtime.audio import AudioDecoder, AudioFormat
from app.realtime.config import SessionConfig
from app.realtime.session import Session, SessionLimits
from app.transcription.admission import FrontEnd
from app.transcription.decoding import Decoder
from app.transcription.engine import WhisperTranscriber
from app.transcription.live import LiveDetector
from app.transcription.loading import ModelChoice, load
from app.transcription.models import ModelRegistry
from app.transcription.slots import Slots
from benchmarks.realtime import RATE, recordings_in_a_row
from benchmarks.word_errors import beginning_said, references, word_errors, words

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    import numpy as np
    import numpy.typing as npt

    from app.domain.transcript import Transcript
    from app.domain.usage import Usage
    from app.realtime.audio import Samples
    from app.transcription.live import GuessedWord, LiveTranscriber

T = TypeVar("T")

_PIECE_SAMPLES: Final = RATE // 10
#: The other tasks of a session take some turns of the event loop until the model has what they want of it.
_TURNS: Final = 20
_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"


@dataclass(slots=True)
class Live:
    """The texts of a session: final ones, and those of the deltas, of each item."""

    finals: dict[str, str] = field(default_factory=dict)
    shown: defaultdict[str, str] = field(default_factory=lambda: defaultdict(str))

    @property
    def text(self) -> str:
        return " ".join(self.finals.values())

    @property
    def changed_share(self) -> float:
        """The share of items whose deltas together differ from the final text."""
        different = sum(words(self.shown[item]) != words(text) for item, text in self.finals.items())
        return different / max(1, len(self.finals))


class _NoQuota:
    """The account of a key without a quota, whose usage nobody asks for."""

    def add(self, model: str, usage: Usage) -> None:
        """Do nothing."""

    def check(self) -> None:
        """Do nothing."""


class _Model:
    """A loaded model that counts what is on it, and has no guesses unless asked for them."""

    def __init__(self, live: LiveTranscriber, detector: LiveDetector, *, guesses: bool) -> None:
        self.model_registry = ModelRegistry("demo")
        self.is_idle = asyncio.Event()
        self.is_idle.set()
        self._running = 0
        self._live = live
        self._detector = detector
        self._guesses = guesses

    @asynccontextmanager
    async def live(self, options: TranscriptionOptions) -> AsyncIterator[_Model]:  # noqa: ARG002  # as the pool's
        yield self

    def live_detector(self) -> LiveDetector:
        return self._detector

    async def guess(self, samples: Samples, options: TranscriptionOptions, **others: Any) -> tuple[GuessedWord, ...]:
        if not self._guesses:
            return ()
        return await self._counted(self._live.guess(samples, options, **others))

    async def transcribe(self, samples: Samples, options: TranscriptionOptions, **others: Any) -> Transcript:
        return await self._counted(self._live.transcribe(samples, options, **others))

    async def _counted(self, work: Coroutine[Any, Any, T]) -> T:
        self._running += 1
        self.is_idle.clear()
        try:
            return await work
        finally:
            self._running -= 1
            if not self._running:
                self.is_idle.set()


class _Client:
    """A connection that sends audio whenever nothing of it is on the model, and collects texts."""

    def __init__(self, audio: npt.NDArray[np.int16], model: _Model) -> None:
        self.live = Live()
        self._pieces = iter(range(0, len(audio), _PIECE_SAMPLES))
        self._audio = audio
        self._model = model
        self._committed = 0

    async def receive(self) -> str | None:
        await self._wait()
        start = next(self._pieces, None)
        if start is None:
            while len(self.live.finals) < self._committed:
                await self._wait()
            return None
        content = base64.b64encode(self._audio[start : start + _PIECE_SAMPLES].tobytes()).decode()
        return json.dumps({"type": "input_audio_buffer.append", "audio": content})

    async def _wait(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await self._model.is_idle.wait()

    async def send(self, text: str) -> None:
        event = json.loads(text)
        match event["type"]:
            case "input_audio_buffer.committed":
                self._committed += 1
            case kind if kind == f"{_TRANSCRIPTION}.delta":
                self.live.shown[event["item_id"]] += event["delta"]
            case kind if kind == f"{_TRANSCRIPTION}.completed":
                self.live.finals[event["item_id"]] = event["transcript"]
            case "error" | "conversation.item.input_audio_transcription.failed":
                raise RuntimeError(event["error"]["message"])

    async def close(self, code: int, reason: str) -> None:
        """Do nothing."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.live_accuracy", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("model", help="the value of WHISPER_MODEL")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recordings of speech")
    parser.add_argument("--references", type=Path, help="JSON lines with a path and a reference for each recording")
    parser.add_argument("--seconds", type=float, default=600.0, help="the length of the audio (default 600)")
    parser.add_argument("--guesses", action="store_true", help="let the session guess while somebody speaks")
    arguments = parser.parse_args()
    audio = recordings_in_a_row(arguments.files, arguments.seconds)
    file, live = asyncio.run(transcribe_both(arguments.model, audio, guesses=arguments.guesses))
    spoken = words(file)
    if arguments.references is not None:
        spoken = beginning_said(words(references(arguments.references, arguments.files)), spoken)
    print(f"{len(audio) / RATE:.0f} s, {len(spoken)} words, {len(live.finals)} utterances\n")
    print("| | errors % (substituted, inserted, deleted) |\n|---|---|")
    print(f"| file | {word_errors(spoken, words(file))} |")
    print(f"| live | {word_errors(spoken, words(live.text))} |")
    if arguments.guesses:
        print(f"\n{100 * live.changed_share:.0f} % of the items have other words in their deltas than in the end.")
    return 0


async def transcribe_both(model: str, audio: npt.NDArray[np.int16], *, guesses: bool) -> tuple[str, Live]:
    """Return the text of audio (24 kHz) as a file, and its texts in a session."""
    front_end = FrontEnd(Decoder(max_seconds=1e5, min_free_bytes=0), slots=1)
    transcriber = WhisperTranscriber(
        load(ModelChoice(name=model, device="cpu")),
        front_end=front_end,
        slots=Slots(1),
        batch_size=4,
        on_death=_raise,
    )
    try:
        whole: Transcript = await transcriber.live.transcribe(_at_16_khz(audio), TranscriptionOptions())
        counted = _Model(transcriber.live, LiveDetector(front_end), guesses=guesses)
        client = _Client(audio, counted)
        limits = SessionLimits(session_seconds=1e6, idle_seconds=0)
        await Session(client, counted, SessionConfig(), account=_NoQuota(), limits=limits, emit=discard_event).run()
        return whole.text, client.live
    finally:
        await transcriber.close()
        front_end.close()


def _at_16_khz(audio: npt.NDArray[np.int16]) -> Samples:
    return AudioDecoder(AudioFormat.PCM).feed(audio.tobytes())


def _raise(exc: BaseException) -> None:
    raise exc


if __name__ == "__main__":
    sys.exit(main())
