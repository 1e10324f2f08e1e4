"""The guarded child process that turns any audio file into raw PCM; started by path, it imports nothing else.

It is a program of its own because the file is a stranger's: demuxers and decoders are a large amount of C,
and whatever they do to memory, processor time or themselves must end here. It answers in lines of JSON: ``decoded``
says how many samples of each channel can be read already, the last line how it ended.
"""

from __future__ import annotations

import errno
import importlib.util
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from av import AudioFrame, AudioResampler, AudioStream, Packet
    from av.container import InputContainer

SAMPLE_RATE: Final = 16_000
BYTES_PER_SAMPLE: Final = 2

#: Demuxers that only ever read the bytes they are given. Playlists, session descriptions and lists of other
#: files (hls, dash, sdp, concat) are absent on purpose: they open what the sender names.
FORMATS: Final = "wav,mp3,flac,ogg,aac,mov,matroska,mpegts,aiff,caf,amr,asf,w64,avi,flv,mpeg,au"

#: These hold their true length; elsewhere it is an estimate, or the dummy value of a streamed header.
FORMATS_WITH_LENGTH: Final = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flac", "ogg")

RATES: Final = range(4_000, 384_000 + 1)
MAX_CHANNELS: Final = 8

#: A demuxer that fails this often in a row has nothing more to give.
MAX_DEMUX_FAILURES: Final = 10_000

_WRITE_BUFFER: Final = 1 << 20
_READ_BUFFER: Final = 1 << 18
#: After so much audio what is written is said to be readable: a block of what follows.
_REPORT_SAMPLES: Final = 30 * SAMPLE_RATE


class Refused(Exception):
    """The file can't be used; ``kind`` is the answer's."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Wanted:
    """What is asked of the decoder: no more than ``max_seconds``, nothing after ``enough_seconds``, an end after
    ``silent_seconds`` of processor time that bring no sound, and ``min_free_bytes`` left free on the disk."""

    def __init__(
        self,
        *,
        max_seconds: float,
        enough_seconds: float | None,
        silent_seconds: float,
        separate_channels: bool,
        min_free_bytes: int,
    ) -> None:
        self.silent_seconds = silent_seconds
        self.min_free_bytes = min_free_bytes
        self.max_seconds = max_seconds
        self.enough_seconds = enough_seconds
        self.separate_channels = separate_channels


def load_sandbox() -> ModuleType:
    """The module beside this one, which an isolated program does not find by its name."""
    place = importlib.util.spec_from_file_location("sandbox", Path(__file__).with_name("sandbox.py"))
    assert place is not None  # noqa: S101  # the ending is Python's
    assert place.loader is not None  # noqa: S101  # likewise
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def load_decoders() -> None:
    """Everything that decoding would import on the way: afterwards no file can be opened any more."""
    import av.audio.codeccontext
    import av.audio.stream
    import av.logging
    import av.subtitles.codeccontext
    import av.subtitles.stream
    import av.video.codeccontext
    import av.video.stream

    av.logging.set_level(av.logging.ERROR)


class Patience:
    """Runs out where much processor time brings no sound, in seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.has_run_out = False
        self.renew()

    def renew(self) -> None:
        """Some sound came."""
        self._since = time.process_time()

    def lasts(self) -> bool:
        self.has_run_out = self.has_run_out or time.process_time() - self._since > self._seconds
        return not self.has_run_out


class NamelessFile:
    """The source without its name, from which FFmpeg would guess a format or look for neighbours.

    It ends where the patience does.
    """

    def __init__(self, file: BinaryIO, patience: Patience) -> None:
        self.tell = file.tell
        self._read = file.read
        self._seek = file.seek
        self._patience = patience

    def read(self, size: int) -> bytes:
        return self._read(size) if self._patience.lasts() else b""

    def seek(self, place: int, whence: int) -> int:
        """As FFmpeg's own files answer where a header sends it to before the beginning: by an error, not by raising."""
        try:
            return self._seek(place, whence)
        except (OSError, ValueError):
            return -errno.EINVAL


class Enough(Exception):
    """As much as was asked for has been decoded, and there is more."""


class PcmWriter:
    """Resamples frames of any kind to 16 kHz s16 and writes them, counting what comes OUT.

    All channels are mixed into one, or each is kept, interleaved; then the first frame says how many there are.
    ``report`` is told now and then how many samples of each channel lie in the file; ``damaged`` counts the places that
    were left out.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        max_samples: int,
        enough_samples: int | None,
        separate: bool,
        report: Callable[[int, int], None],
        min_free_bytes: int,
        patience: Patience,
    ) -> None:
        self._file = file
        self._patience = patience
        self._min_free_bytes = min_free_bytes
        self._max_samples = max_samples
        self._enough_samples = enough_samples
        self._report = report
        self._reported = 0
        self._resampler: AudioResampler | None = None
        self._frame_kind: tuple[str, str, int] | None = None
        self._layout = None if separate else "mono"
        self.channels = 1
        self.samples = 0
        self.damaged = 0

    def write(self, frame: AudioFrame) -> None:
        if not frame.samples:
            return
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._frame_kind:
            self.flush()
            self._resampler = self._resampler_for(frame)
            self._frame_kind = kind
        assert self._resampler is not None  # noqa: S101 - set with the first kind of frame
        frame.pts = None  # time stamps that jump would be refused, and are not needed
        self._store(self._resampler.resample(frame))

    def flush(self) -> None:
        """Write what the resampler still holds."""
        if self._resampler is not None:
            resampler, self._resampler, self._frame_kind = self._resampler, None, None
            self._store(resampler.resample(None))

    def _check_disk(self) -> None:
        disk = os.fstatvfs(self._file.fileno())
        if disk.f_bavail * disk.f_frsize < self._min_free_bytes:
            raise OSError(errno.ENOSPC, "the rest is to stay free")

    def _resampler_for(self, frame: AudioFrame) -> AudioResampler:
        from av import AudioResampler

        check_shape(frame.sample_rate, frame.layout.nb_channels)
        if self._layout is None:
            self._layout, self.channels = frame.layout.name, frame.layout.nb_channels
        return AudioResampler(format="s16", layout=self._layout, rate=SAMPLE_RATE, frame_size=SAMPLE_RATE)

    def _store(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            self._patience.renew()
            self.samples += frame.samples
            if self.samples > self._max_samples:
                raise Refused("too_long", "more samples came out than are allowed")
            self._file.write(memoryview(frame.planes[0])[: frame.samples * self.channels * BYTES_PER_SAMPLE])
        if self.samples - self._reported >= _REPORT_SAMPLES:
            self._file.flush()
            self._check_disk()
            self._report(self.samples, self.channels)
            self._reported = self.samples
        if self._enough_samples is not None and self.samples > self._enough_samples:
            raise Enough


def check_shape(rate: int, channels: int) -> None:
    """Refuse what no recorder makes: a file that claims 1 Hz becomes 16,000 times as long."""
    if rate not in RATES:
        raise Refused("undecodable", f"The sample rate of {rate} Hz is outside {RATES[0]} to {RATES[-1]} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise Refused("undecodable", f"The file claims {channels} channels, and 1 to {MAX_CHANNELS} are allowed")


def open_container(source: NamelessFile) -> InputContainer:
    import av
    from av.codec import Codec

    def is_audio_decoder(name: str) -> bool:
        try:
            return Codec(name, "r").type == "audio"
        except ValueError:
            return False

    return av.open(
        source,
        "r",
        buffer_size=_READ_BUFFER,
        metadata_errors="replace",
        container_options={
            "format_whitelist": FORMATS,
            "protocol_whitelist": "none",
            # No stream of pictures is decoded, not even a frame of it to learn its size.
            "codec_whitelist": ",".join(filter(is_audio_decoder, av.codecs_available)),
        },
    )


def pick_stream(container: InputContainer) -> AudioStream:
    from av.stream import Discard

    stream: Any = container.streams.best("audio")
    if stream is None:
        raise Refused("no_audio", "The file has no audio stream")
    if stream.codec_context is None:
        raise Refused("undecodable", "The sound in the file is of an unknown kind")
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    stream.codec_context.thread_count = 1  # threads would cost address space and win nothing
    found: AudioStream = stream
    return found


def check_claims(container: InputContainer, stream: AudioStream, *, max_seconds: float) -> None:
    """Refuse at once what the header itself says is too much; a header that says less is not believed."""
    context = stream.codec_context
    if context.sample_rate and context.layout.nb_channels:
        check_shape(context.sample_rate, context.layout.nb_channels)
    if container.format.name not in FORMATS_WITH_LENGTH:
        return
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (container.duration or 0) / 1_000_000
    if seconds > max_seconds:
        raise Refused("too_long", f"the header says {seconds:.0f} s")


def packets(container: InputContainer, stream: AudioStream) -> Iterator[Packet[AudioStream] | None]:
    """The stream's packets and the flushing one; None where the container is damaged, then what follows."""
    from av.error import FFmpegError

    failures = 0
    while failures < MAX_DEMUX_FAILURES:
        try:
            for packet in container.demux(stream):
                failures = 0
                yield packet
        except MemoryError:
            raise
        except (FFmpegError, ValueError):
            failures += 1
            yield None
        except IndexError:  # at the end PyAV flushes streams that came up on the way too, unknown to it: after ours
            return
        else:
            return


def decode(
    source: BinaryIO, destination: BinaryIO, *, wanted: Wanted, report: Callable[[int, int], None]
) -> dict[str, Any]:
    from av.error import FFmpegError

    patience = Patience(wanted.silent_seconds)
    try:
        container = open_container(NamelessFile(source, patience))
    except MemoryError:
        raise
    except (FFmpegError, ValueError) as exc:
        raise Refused("undecodable", "The file could not be decoded as audio") from exc
    with container:
        stream = pick_stream(container)
        check_claims(container, stream, max_seconds=wanted.max_seconds)
        writer = PcmWriter(
            destination,
            max_samples=int(wanted.max_seconds * SAMPLE_RATE),
            enough_samples=None if wanted.enough_seconds is None else int(wanted.enough_seconds * SAMPLE_RATE),
            separate=wanted.separate_channels,
            report=report,
            min_free_bytes=wanted.min_free_bytes,
            patience=patience,
        )
        ended = True
        try:
            write_all(packets(container, stream), writer, patience)
        except Enough:
            ended = False
        except MemoryError:  # as where a parser gathers hundreds of MiB of zeros in search of the next frame
            if not writer.samples:
                raise
            patience.has_run_out = True
        if ended:
            ended = flushed(writer)
        if not writer.samples:
            looked = f" in the first {wanted.silent_seconds:g} s of decoding" if patience.has_run_out else ""
            raise Refused("undecodable", f"No sound could be decoded from the file{looked}")
        return {
            "ok": True,
            "samples": writer.samples,
            "channels": writer.channels,
            "ended": ended,
            "corrupt_frames": writer.damaged,
            "gave_up": patience.has_run_out,
            "format": container.format.name,
            "codec": stream.codec_context.name,
        }


def write_all(coming: Iterator[Packet[AudioStream] | None], writer: PcmWriter, patience: Patience) -> None:
    """Writes the sound of these packets as long as the patience lasts."""
    from av.error import FFmpegError

    for packet in itertools.takewhile(lambda _: patience.lasts(), coming):
        try:
            frames = [] if packet is None else packet.decode()
            writer.damaged += packet is None
            for frame in frames:
                writer.write(frame)
        except MemoryError:
            raise
        except (FFmpegError, ValueError):
            writer.damaged += 1


def flushed(writer: PcmWriter) -> bool:
    """Whether the writer took its last samples without having enough."""
    try:
        writer.flush()
    except Enough:
        return False
    return True


def answer(
    source: str,
    destination: str,
    *,
    wanted: Wanted,
    report: Callable[[int, int], None],
    confine: Callable[[], list[str]],
) -> dict[str, Any]:
    """Decode, with every expected failure turned into its answer."""
    confined: list[str] = []
    try:
        with (
            Path(source).open("rb") as audio,
            Path(destination).open("wb", buffering=_WRITE_BUFFER) as pcm,
        ):
            confined = confine()
            if audio.peek(1):
                return {"confined": confined, **decode(audio, pcm, wanted=wanted, report=report)}
            failure = ("empty", "The file is empty")
    except Refused as exc:
        failure = (exc.kind, str(exc))
    except MemoryError:
        failure = ("undecodable", "Decoding needs more memory than is allowed")
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        failure = ("disk_full", "No disk space is left for the decoded audio")
    return {"ok": False, "kind": failure[0], "message": failure[1], "confined": confined}


def main() -> None:
    source, destination, limits = sys.argv[1:]
    given = json.loads(limits)
    sandbox = load_sandbox()
    sandbox.die_with(given["parent"])
    channels = MAX_CHANNELS if given["separate_channels"] else 1
    sandbox.limit_resources(
        memory_bytes=given["memory_bytes"],
        cpu_seconds=given["cpu_seconds"],
        file_bytes=int(given["max_seconds"] * SAMPLE_RATE) * BYTES_PER_SAMPLE * channels + _WRITE_BUFFER,
    )
    wanted = Wanted(
        max_seconds=given["max_seconds"],
        enough_seconds=given["enough_seconds"],
        silent_seconds=given["silent_seconds"],
        separate_channels=given["separate_channels"],
        min_free_bytes=given["min_free_bytes"],
    )
    # What a C library prints goes where the messages go; the answer has a stream of its own.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        load_decoders()

        def tell(line: dict[str, Any]) -> None:
            answers.write(json.dumps(line) + "\n")
            answers.flush()

        outcome = answer(
            source,
            destination,
            wanted=wanted,
            report=lambda samples, channels: tell({"decoded": samples, "channels": channels}),
            confine=lambda: sandbox.confine(given["parent"]),
        )
        tell(outcome)


if __name__ == "__main__":
    main()
