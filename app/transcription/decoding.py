"""Decoding of any audio file to 16 kHz s16 PCM on disk, by a sandboxed process (see ``decoder_process.py``)."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import socket
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from app.domain.concurrency import shielded
from app.domain.errors import AudioTooLong, DecoderUnavailable, DiskFull, UndecodableAudio
from app.transcription.decoder_launcher import DecoderLauncher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

logger = logging.getLogger(__name__)

SAMPLE_RATE: Final = 16_000

#: The address space of a decoder process. Measured with av 18.1 on x86-64 Linux: Python and FFmpeg's libraries need
#: 128 MiB, and one hour of m4a, mp3, flac or webm is decoded within them (38 to 46 MB resident). The rest is for the
#: index of an mp4 of 12 h (24 bytes for each sound and picture, twice while it grows: some 200 MB).
#: A file of 5 s takes 0.11 to 0.17 s, nearly all of it to start the process. One hour takes, on one core, 1.1 s for
#: 16 kHz wav, 3.4 s for stereo flac, 5 s for stereo mp3, 7 s for opus in webm, 80 s for 192 kHz flac with 8 channels,
#: 160 s for WavPack with 32.
DEFAULT_MEMORY_BYTES: Final = 512 * 1024 * 1024
#: The longest time without new audio. The slowest audio that is accepted reports progress, after each 30 s of it, every
#: 1.3 s of processor time.
DEFAULT_STALL_SECONDS: Final = 120.0
#: The processor time without new audio after which the file is taken to end. A demuxer that looks for the next frame in
#: a GiB of zeros takes 6 s; reading past 2 GiB of video takes 2 s.
DEFAULT_SILENT_SECONDS: Final = 4.0

_SUPPORTED: Final = "wav, mp3, flac, ogg/opus, m4a/aac, mp4, webm, mkv, or another common format"
_CONVERT: Final = "convert it to wav, mp3 or flac and send it again."
_MAX_MESSAGE_BYTES: Final = 16_384
#: Every line that the decoder process writes is shorter.
_MAX_LINE_BYTES: Final = 4096
_RETRY_DISK_SECONDS: Final = 60
_MAX_CHANNELS: Final = 32
_BYTES_PER_SAMPLE: Final = 2
_MAX_TRACKS: Final = 10_000
#: A fifth of a second of a tone.
_SAMPLE: Final = Path(__file__).with_name("decoder_sample.flac")
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
#: Only this service may read what it writes.
_MODE: Final = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """The file ``pcm`` with raw little-endian s16 samples, 16 kHz, of interleaved channels.

    It is the audio track ``track``, from 1, of the file's ``tracks``. ``samples`` counts those of one channel,
    ``corrupt_frames`` the damaged places that were left out. For ``cancelled_seconds`` the loudest channel stands for
    the mix, in which the channels would have cancelled each other out. The header claims ``missing_seconds`` more than
    there are. ``is_complete`` is False if decoding stopped early as requested and there is more, and ``gave_up`` is
    True if it stopped because the file went on without any sound for longer than a limit.
    """

    pcm: Path
    samples: int
    channels: int
    track: int
    tracks: int
    is_complete: bool
    corrupt_frames: int
    cancelled_seconds: float
    missing_seconds: float
    gave_up: bool

    @property
    def duration(self) -> float:
        """The duration in seconds."""
        return self.samples / SAMPLE_RATE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exit:
    """The end of a decoder process: its exit status, last line of output and the beginning of standard error.

    The status is None if the server that started it has ended.
    """

    status: int | None
    result: bytes
    messages: bytes


class Decoder:
    """Decodes one file per call, each in a process of its own. The caller limits how many run at once.

    ``cpu_seconds`` is the processor time of a process, by default enough for ``max_seconds`` of the slowest audio that
    is accepted. ``stall_seconds`` is the longest time without new audio, and ``silent_seconds`` the processor time
    without new audio after which the file is taken to end. ``min_free_bytes`` must stay free on the disk.
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
        self._cpu_seconds = cpu_seconds or math.ceil(60 + max_seconds / 10)
        self._sandbox: list[str] | None = None
        self._launcher = DecoderLauncher()

    async def check(self) -> None:
        """Decode a bundled sample, to find out whether files can be decoded on this machine.

        Raises:
            DecoderUnavailable: they can't.
        """
        order = self._order(separate_channels=False, track=None, stop_after_seconds=None)
        try:
            with _Files() as files:
                await shielded(asyncio.to_thread(files.open, _SAMPLE, None))
                exit_ = await self._run(order, files, _ignore_progress)
                self._decoded(exit_, _SAMPLE, files.written_bytes)
        except (UndecodableAudio, DiskFull, OSError) as exc:
            raise DecoderUnavailable(f"A bundled sample can't be decoded: {exc}") from exc

    def close(self) -> None:
        """End all decoder processes."""
        self._launcher.close()

    async def decode(
        self,
        source: Path,
        destination: Path,
        *,
        separate_channels: bool = False,
        track: int | None = None,
        stop_after_seconds: float | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Decoded:
        """Write the samples of ``source`` to ``destination``, which is deleted if this fails.

        All channels of the audio track, from 1, or of the best one, are mixed into one, or each is kept. After
        ``stop_after_seconds`` of audio decoding stops. From time to time ``on_progress`` is called with how many
        samples of each channel can be read and the number of channels.

        Raises:
            UndecodableAudio: nothing could be decoded, or not within the limits of a process.
            AudioTooLong: there are more than ``max_seconds``.
            DiskFull: there is no space for the samples.
            DecoderUnavailable: no file can be decoded on this machine.
            OSError: ``source`` can't be read, which is not the sender's fault.
        """
        order = self._order(separate_channels=separate_channels, track=track, stop_after_seconds=stop_after_seconds)
        try:
            with _Files() as files:
                await shielded(asyncio.to_thread(files.open, source, destination))
                exit_ = await self._run(order, files, on_progress or _ignore_progress)
                return self._decoded(exit_, destination, files.written_bytes)
        except BaseException:
            await asyncio.to_thread(destination.unlink, missing_ok=True)
            raise

    def _order(self, *, separate_channels: bool, track: int | None, stop_after_seconds: float | None) -> bytes:
        """Return what a decoder process is to do, with its limits."""
        order = {
            "memory_bytes": self._memory_bytes,
            "cpu_seconds": self._cpu_seconds,
            "options": {
                "max_seconds": self._max_seconds,
                "stop_after_seconds": stop_after_seconds,
                "silent_seconds": self._silent_seconds,
                "separate_channels": separate_channels,
                "track": track,
                "min_free_bytes": self._min_free_bytes,
            },
        }
        return json.dumps(order).encode()

    async def _run(self, order: bytes, files: _Files, on_progress: Callable[[int, int], None]) -> _Exit:
        progress = _Progress(on_progress)
        try:
            exit_ = await self._run_once(order, files, progress)
            if exit_.status is None:  # the same bytes are written again
                exit_ = await self._run_once(order, files, progress)
        except TimeoutError:
            logger.warning("⚠️ The decoder was stopped because it made no progress for %gs", self._stall_seconds)
            raise UndecodableAudio(
                f"The file could not be decoded as audio (no progress for {self._stall_seconds:g} s): {_CONVERT}"
            ) from None
        if exit_.messages:
            logger.debug("Messages of the decoder: %s", exit_.messages.decode(errors="replace").strip())
        return exit_

    async def _run_once(self, order: bytes, files: _Files, progress: _Progress) -> _Exit:
        files.rewind()
        messages, theirs = socket.socketpair()
        messages.setblocking(False)  # noqa: FBT003  # its only parameter
        with messages:
            with theirs:
                connection = await self._launcher.launch(order, (*files.descriptors, theirs.fileno()))
            with connection:
                return await _wait(connection, messages, progress, stall_seconds=self._stall_seconds)

    def _decoded(self, exit_: _Exit, pcm: Path, written_bytes: int) -> Decoded:
        """Return what a process has decoded, or raise the reason why it has not."""
        if exit_.status is None:
            raise DecoderUnavailable("The decoder server ended twice while it decoded a file: send the file again.")
        if exit_.status < 0:
            name = _signal_name(-exit_.status)
            logger.warning("⚠️ The decoder was killed by %s", name)
            raise UndecodableAudio(
                f"The file could not be decoded as audio (the decoder was killed by {name}): {_CONVERT}"
            )
        result = _parse_result(exit_.result) if exit_.status == 0 else None
        if result is None or (result["ok"] and not self._is_plausible(result, written_bytes)):
            logger.error("The decoder failed with exit status %d", exit_.status)
            raise UndecodableAudio(f"The file could not be decoded as audio (the decoder failed): {_CONVERT}")
        self._log_sandbox(result["sandbox"])
        if not result["ok"]:
            raise self._refusal(result["kind"], result["message"])
        if result["corrupt_frames"]:
            logger.info("The audio has %d damaged places, which were left out", result["corrupt_frames"])
        if result["gave_up"]:
            logger.warning(
                "⚠️ The audio was taken to end after %.1f s, because no more was found in the rest of the file",
                result["samples"] / SAMPLE_RATE,
            )
        return Decoded(
            pcm=pcm,
            samples=result["samples"],
            channels=result["channels"],
            track=result["track"],
            tracks=result["tracks"],
            is_complete=result["is_complete"],
            corrupt_frames=result["corrupt_frames"],
            cancelled_seconds=result["cancelled_seconds"],
            missing_seconds=result["missing_seconds"],
            gave_up=result["gave_up"],
        )

    def _is_plausible(self, result: dict[str, Any], written_bytes: int) -> bool:
        """Return True if the file holds the claimed samples and there are no more than allowed."""
        samples, channels = int(result["samples"]), int(result["channels"])
        in_range = 0 < samples <= self._max_seconds * SAMPLE_RATE and 1 <= channels <= _MAX_CHANNELS
        in_range = in_range and 1 <= result["track"] <= result["tracks"] <= _MAX_TRACKS
        return in_range and samples * channels * _BYTES_PER_SAMPLE <= written_bytes

    def _log_sandbox(self, sandbox: list[str]) -> None:
        """Log which parts of the sandbox are effective, once and whenever they change."""
        if sandbox == self._sandbox:
            return
        self._sandbox = sandbox
        if "syscalls" in sandbox:
            logger.debug("Decoders run in a sandbox: %s", ", ".join(sandbox))
        else:
            logger.warning(
                "⚠️ This system does not support the decoders' sandbox (effective: %s). Use a container or a virtual "
                "machine if strangers can send audio.",
                ", ".join(sandbox) or "nothing",
            )

    def _refusal(self, kind: str, message: str) -> UndecodableAudio | AudioTooLong | DiskFull:
        match kind:
            case "empty":
                return UndecodableAudio("The file is empty: send a file with audio in it.")
            case "no_audio":
                return UndecodableAudio("The file has no audio stream: send a file with audio in it.")
            case "no_track":
                return UndecodableAudio(f"{message}: send one of them, or leave it out.")
            case "too_long":
                seconds = self._max_seconds
                return AudioTooLong(
                    f"The audio must not be longer than {seconds:g} s ({seconds / 3600:.3g} h): split it, or raise "
                    "MAX_AUDIO_SECONDS."
                )
            case "channels_too_long":
                return AudioTooLong(f"{message}: split it, leave `multichannel` out, or raise MAX_AUDIO_SECONDS.")
            case "damaged":
                return UndecodableAudio(f"{message}. Send the whole file, or another one.")
            case "rate":
                return UndecodableAudio(f"{message}: convert it to 16000 Hz and send it again.")
            case "channels":
                return UndecodableAudio(f"{message}: mix some of them, or send them in several files.")
            case "disk_full":
                return DiskFull(
                    f"{message}: try again later, or free some space.",
                    retry_after_seconds=_RETRY_DISK_SECONDS,
                )
            case _:
                return UndecodableAudio(f"{message}: send {_SUPPORTED}.")


def _ignore_progress(_samples: int, _channels: int) -> None:
    """Do nothing."""


class _Files:
    """The open source and destination of a decoding."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.descriptors: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, source: Path, destination: Path | None) -> None:
        """Open the source and create the destination, in memory if it is None."""
        opened = self._stack.enter_context(source.open("rb", buffering=0))
        created = _in_memory() if destination is None else os.open(destination, _CREATE, _MODE)
        self._stack.callback(os.close, created)
        self.descriptors = (opened.fileno(), created)

    @property
    def written_bytes(self) -> int:
        """The size of the destination."""
        return os.fstat(self.descriptors[1]).st_size

    def rewind(self) -> None:
        """Go back to the beginning of both; a process shares the position."""
        for descriptor in self.descriptors:
            with suppress(OSError):  # a pipe has no position
                os.lseek(descriptor, 0, os.SEEK_SET)


def _in_memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pcm")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class _Progress:
    """Passes on the progress of a process.

    Only a larger number of samples is progress: a process that foreign code controls may write anything.
    """

    def __init__(self, on_progress: Callable[[int, int], None]) -> None:
        self._on_progress = on_progress
        self._samples = 0

    def __call__(self, samples: int, channels: int) -> bool:
        """Return False if it is no progress."""
        if samples <= self._samples or not 1 <= channels <= _MAX_CHANNELS:
            return False
        self._samples = samples
        self._on_progress(samples, channels)
        return True


async def _wait(
    connection: socket.socket, messages: socket.socket, progress: _Progress, *, stall_seconds: float
) -> _Exit:
    """Wait for the end of a process. It has ended and been reaped when this returns or raises.

    Raises:
        TimeoutError: it made no progress for ``stall_seconds``.
    """
    loop = asyncio.get_running_loop()
    deadline = asyncio.timeout(stall_seconds)

    def renewing(samples: int, channels: int) -> None:
        if not deadline.expired() and progress(samples, channels):
            deadline.reschedule(loop.time() + stall_seconds)

    all_ended = asyncio.gather(_read_result(connection, renewing), _read_head(messages))
    try:
        async with deadline:
            (status, result), head = await asyncio.shield(all_ended)
    except BaseException:
        connection.shutdown(socket.SHUT_WR)  # which makes the server kill it
        await asyncio.shield(_read_rest(connection, after=all_ended))
        raise
    return _Exit(status=status, result=result, messages=head)


async def _read_result(connection: socket.socket, on_progress: Callable[[int, int], None]) -> tuple[int | None, bytes]:
    """Return the exit status and the last line that is neither that nor progress."""
    status: int | None = None
    last = b""
    async for line in _lines(connection):
        match _parse(line):
            case {"decoded": int(samples), "channels": int(channels)}:
                on_progress(samples, channels)
            case {"exit": int(ended)}:
                status = ended
            case _:
                last = line
    return status, last


async def _lines(connection: socket.socket) -> AsyncIterator[bytes]:
    """Yield lines, and only the end of one that is longer than the decoder process writes."""
    rest = b""
    while chunk := await _receive(connection, _MAX_LINE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[-_MAX_LINE_BYTES:]
        for line in lines:
            yield line


async def _read_head(connection: socket.socket) -> bytes:
    """Return the first bytes of the messages, after reading all of them so that the writer never blocks."""
    head = b""
    while chunk := await _receive(connection, _MAX_MESSAGE_BYTES):
        head += chunk[: _MAX_MESSAGE_BYTES - len(head)]
    return head


async def _read_rest(connection: socket.socket, *, after: asyncio.Future[Any]) -> None:
    await asyncio.gather(after, return_exceptions=True)
    while await _receive(connection, _MAX_LINE_BYTES):
        pass


async def _receive(connection: socket.socket, most: int) -> bytes:
    """Return the next bytes, or none at the end."""
    try:
        return await asyncio.get_running_loop().sock_recv(connection, most)
    except ConnectionResetError:  # the process ended before it read its order
        return b""


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _parse_result(line: bytes) -> dict[str, Any] | None:
    """Return the result in this line, or None if it has another form."""
    result = _parse(line)
    match result:
        case {"ok": False, "sandbox": list(), "kind": str(), "message": str()}:
            return result
        case {
            "ok": True,
            "sandbox": list(),
            "samples": int(),
            "channels": int(),
            "track": int(),
            "tracks": int(),
            "is_complete": bool(),
            "corrupt_frames": int(),
            "cancelled_seconds": float(),
            "missing_seconds": float(),
            "gave_up": bool(),
        }:
            return result
        case _:
            return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
