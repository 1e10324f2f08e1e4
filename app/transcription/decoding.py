"""Any audio file becomes 16 kHz s16 PCM on disk, in a guarded child (see ``decoder_process.py``)."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import AudioTooLong, DiskFull, UndecodableAudio

if TYPE_CHECKING:
    from asyncio import StreamReader
    from asyncio.subprocess import Process
    from collections.abc import Callable

logger = logging.getLogger(__name__)

SAMPLE_RATE: Final = 16_000

#: Address space of a child. Measured with av 18.1 on x86-64 Linux: Python and FFmpeg's libraries need 128 MiB,
#: and one hour of m4a, mp3, flac or webm still decodes within them (38 to 46 MB resident). The rest is for the
#: index of an mp4 of 12 h (24 bytes for each sound and picture, twice while it grows: some 200 MB).
#: A child takes 0.11 to 0.17 s for a file of 5 s, nearly all of it to start, and for one hour of 16 kHz wav
#: 1.1 s, stereo flac 3.4 s, stereo mp3 5 s, opus in webm 7 s, 192 kHz flac with eight channels 80 s of one core.
DEFAULT_MEMORY_BYTES: Final = 512 * 1024 * 1024

_PROGRAM: Final = Path(__file__).with_name("decoder_process.py")
_SUPPORTED: Final = "wav, mp3, flac, ogg/opus, m4a/aac, mp4, webm, mkv, aiff, caf, amr, wma, avi, flv and mpeg-ts"
_MAX_OUTPUT_BYTES: Final = 16_384
#: A line of the child's answer is shorter.
_MAX_LINE_BYTES: Final = 4096
_DISK_RETRY_SECONDS: Final = 60
_MOST_CHANNELS: Final = 8
_SAMPLE_BYTES: Final = 2
#: So long nothing may come out of a child. The slowest audio that is accepted gives a sign of life, each 30 s of it,
#: every 0.7 s of a core.
DEFAULT_STALL_SECONDS: Final = 120.0
#: After so much processor time in which no sound came out, the file is taken to end there. A GiB of zeros in which a
#: demuxer looks for the next frame takes 6 s; to read past 2 GiB of pictures takes 2 s.
DEFAULT_SILENT_SECONDS: Final = 4.0

#: Where a Python that was moved finds its own libraries. Nothing else of our environment goes along.
_INHERITED: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
#: Python asks for it at its start, and would look into the list of users without it.
_HOME: Final = {"HOME": "/"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Raw little-endian s16 samples, 16 kHz, of interleaved channels, in the file ``pcm``.

    ``samples`` counts those of one channel, ``corrupt_frames`` the damaged places that were left out. ``is_complete``
    is False where only a beginning was wanted and there is more.
    """

    pcm: Path
    samples: int
    channels: int
    is_complete: bool
    corrupt_frames: int

    @property
    def duration(self) -> float:
        """In seconds."""
        return self.samples / SAMPLE_RATE


class Decoder:
    """Decodes one file per call, each in a child of its own; how many run at once is the caller's to limit.

    ``cpu_seconds`` is the processor time a child may use, by default enough for ``max_seconds`` of the
    slowest audio that is accepted; ``stall_seconds`` how long nothing may come out of it; ``silent_seconds`` how much
    of its processor time may bring no sound until the file is taken to end. ``min_free_bytes`` must stay free on the
    disk that it writes to.
    """

    def __init__(
        self,
        *,
        max_seconds: float,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        cpu_seconds: int | None = None,
        stall_seconds: float = DEFAULT_STALL_SECONDS,
        silent_seconds: float = DEFAULT_SILENT_SECONDS,
        min_free_bytes: int = 0,
    ) -> None:
        self._max_seconds = max_seconds
        self._min_free_bytes = min_free_bytes
        self._memory_bytes = memory_bytes
        self._stall_seconds = stall_seconds
        self._silent_seconds = silent_seconds
        self._confined: list[str] | None = None
        self._cpu_seconds = cpu_seconds or math.ceil(60 + max_seconds / 10)

    async def decode(
        self,
        source: Path,
        destination: Path,
        *,
        separate_channels: bool = False,
        enough_seconds: float | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Decoded:
        """Write the samples of ``source`` to ``destination``, which does not exist afterwards if this fails.

        All channels are mixed into one, or each is kept. After ``enough_seconds`` of audio the rest is left.
        ``on_progress`` is told of how many samples can be read so far, and of how many channels.

        Raises:
            UndecodableAudio: nothing could be decoded, or not within the child's limits.
            AudioTooLong: more than ``max_seconds``.
            DiskFull: there is no space for the samples.
            OSError: ``source`` itself can't be looked at, which is no fault of the file's sender.
        """
        await asyncio.to_thread(source.stat)
        wanted = {
            "parent": os.getpid(),
            "max_seconds": self._max_seconds,
            "enough_seconds": enough_seconds,
            "silent_seconds": self._silent_seconds,
            "separate_channels": separate_channels,
            "memory_bytes": self._memory_bytes,
            "cpu_seconds": self._cpu_seconds,
            "min_free_bytes": self._min_free_bytes,
        }
        try:
            code, answer = await self._run_child(source, destination, wanted, on_progress or _unheard)
            return self._judge(code, answer, destination, await asyncio.to_thread(_size, destination))
        except BaseException:
            await asyncio.to_thread(destination.unlink, missing_ok=True)
            raise

    async def _run_child(
        self, source: Path, destination: Path, wanted: dict[str, Any], on_progress: Callable[[int, int], None]
    ) -> tuple[int, bytes]:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", _PROGRAM, source, destination, json.dumps(wanted)),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            limit=_MAX_LINE_BYTES,
            env=_HOME | {name: os.environ[name] for name in _INHERITED if name in os.environ},
            close_fds=True,
            umask=0o077,  # what it writes is for this service only
            start_new_session=True,  # the terminal's Ctrl-C is for the service, which drains
        )
        try:
            code, answer, messages = await _outcome(child, on_progress, stall_seconds=self._stall_seconds)
        except TimeoutError:
            logger.warning("⚠️ The decoder was stopped: nothing came out of it for %gs", self._stall_seconds)
            raise UndecodableAudio(
                f"The file could not be decoded as audio (nothing came out of it for {self._stall_seconds:g} s): "
                "convert it to wav, mp3 or flac and send it again."
            ) from None
        if messages:
            logger.debug("The decoder said: %s", messages.decode(errors="replace").strip())
        return code, answer

    def _is_possible(self, outcome: dict[str, Any], written_bytes: int) -> bool:
        """Whether the samples that the child says it has written are in the file, and no more than may be."""
        samples, channels = int(outcome["samples"]), int(outcome["channels"])
        in_range = 0 < samples <= self._max_seconds * SAMPLE_RATE and 1 <= channels <= _MOST_CHANNELS
        return in_range and samples * channels * _SAMPLE_BYTES <= written_bytes

    def _judge(self, code: int, answer: bytes, destination: Path, written_bytes: int) -> Decoded:
        if code < 0:
            name = _signal_name(-code)
            logger.warning("⚠️ The decoder was killed by %s", name)
            raise UndecodableAudio(
                f"The file could not be decoded as audio (the decoder was killed by {name}): "
                "convert it to wav, mp3 or flac and send it again."
            )
        outcome = _answered(answer) if code == 0 else None
        if outcome is None or (outcome["ok"] and not self._is_possible(outcome, written_bytes)):
            logger.error("The decoder failed with exit status %d", code)
            raise UndecodableAudio(
                "The file could not be decoded as audio (the decoder failed): "
                "convert it to wav, mp3 or flac and send it again."
            )
        self._note(outcome["confined"])
        if not outcome["ok"]:
            raise self._refusal(outcome["kind"], outcome["message"])
        if outcome["corrupt_frames"]:
            logger.info("The audio has %d damaged places, which were left out", outcome["corrupt_frames"])
        if outcome["gave_up"]:
            logger.warning(
                "⚠️ The audio was taken to end after %.1f s: what follows in the file is no sound that can be found",
                outcome["samples"] / SAMPLE_RATE,
            )
        return Decoded(
            pcm=destination,
            samples=outcome["samples"],
            channels=outcome["channels"],
            is_complete=outcome["ended"],
            corrupt_frames=outcome["corrupt_frames"],
        )

    def _note(self, confined: list[str]) -> None:
        """Says once, or when it is another, what holds a decoder."""
        if confined == self._confined:
            return
        self._confined = confined
        if "syscalls" in confined:
            logger.debug("Decoders are confined: %s", ", ".join(confined))
        else:
            logger.warning(
                "⚠️ This system does not let decoders be confined (%s): let strangers send audio to a container or a "
                "virtual machine only",
                ", ".join(confined) or "in no way",
            )

    def _refusal(self, kind: str, message: str) -> UndecodableAudio | AudioTooLong | DiskFull:
        match kind:
            case "empty":
                return UndecodableAudio("The file is empty: send a non-empty audio file.")
            case "no_audio":
                return UndecodableAudio("The file has no audio stream: send a file with sound in it.")
            case "too_long":
                seconds = self._max_seconds
                return AudioTooLong(
                    f"The audio is longer than the allowed {seconds:g} s ({seconds / 3600:.3g} h): "
                    "split it, or raise MAX_AUDIO_SECONDS."
                )
            case "disk_full":
                return DiskFull(
                    f"{message}: try again later, or free some space.",
                    retry_after_seconds=_DISK_RETRY_SECONDS,
                )
            case _:
                return UndecodableAudio(f"{message}: supported are {_SUPPORTED}.")


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _unheard(_samples: int, _channels: int) -> None:
    """For who waits for the end."""


async def _outcome(
    child: Process, on_progress: Callable[[int, int], None], *, stall_seconds: float
) -> tuple[int, bytes, bytes]:
    """Exit status, last answer and stderr; the child is dead and reaped however this ends.

    Raises:
        TimeoutError: it gave no sign of life for ``stall_seconds``.
    """
    assert child.stdout is not None  # noqa: S101 - both were asked for
    assert child.stderr is not None  # noqa: S101
    loop = asyncio.get_running_loop()
    deadline = asyncio.timeout(stall_seconds)

    most = 0

    def heard(samples: int, channels: int) -> None:
        nonlocal most
        if samples <= most or not 1 <= channels <= _MOST_CHANNELS:  # no sign of life, whatever it is
            return
        most = samples
        if not deadline.expired():
            deadline.reschedule(loop.time() + stall_seconds)
            on_progress(samples, channels)

    conversation = asyncio.gather(child.wait(), _last_answer(child.stdout, heard), _head(child.stderr))
    try:
        async with deadline:
            return await asyncio.shield(conversation)
    finally:
        if child.returncode is None:
            child.kill()
        await asyncio.shield(asyncio.gather(child.wait(), conversation, return_exceptions=True))


async def _last_answer(stream: StreamReader, on_progress: Callable[[int, int], None]) -> bytes:
    """The line that says how it ended; what comes before it is progress."""
    last = b""
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than any that the child writes: it is not itself any more
            last = b""
            continue
        if not line:
            return last
        match _parsed(line):
            case {"decoded": int(samples), "channels": int(channels)}:
                on_progress(samples, channels)
            case _:
                last = line


async def _head(stream: StreamReader) -> bytes:
    """The first of what comes; all of it is read, so that the writer never waits."""
    head = b""
    while chunk := await stream.read(_MAX_OUTPUT_BYTES):
        head += chunk[: _MAX_OUTPUT_BYTES - len(head)]
    return head


def _parsed(answer: bytes) -> dict[str, Any] | None:
    try:
        outcome = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return outcome if isinstance(outcome, dict) else None


def _answered(answer: bytes) -> dict[str, Any] | None:
    """The child's last line, if it is one: what a stranger's bytes have taken over may say anything."""
    outcome = _parsed(answer)
    match outcome:
        case {"ok": False, "confined": list(), "kind": str(), "message": str()}:
            return outcome
        case {
            "ok": True,
            "confined": list(),
            "samples": int(),
            "channels": int(),
            "ended": bool(),
            "corrupt_frames": int(),
            "gave_up": bool(),
        }:
            return outcome
        case _:
            return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
