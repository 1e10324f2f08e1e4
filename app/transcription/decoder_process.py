"""The decoder process: a program that turns any audio file into raw PCM, in a sandbox.

It is a process of its own because the files come from strangers. Demuxers and decoders are a large amount of C code,
and whatever they do to memory, processor time or themselves must not reach the service.

The decoder server (``decoder_server.py``) forks it with a socket to the service. Over that comes the order: JSON with
``memory_bytes``, ``cpu_seconds`` and ``options`` (the fields of :class:`DecodeOptions`), and three open files: the
source, the destination and one for messages. The process answers with lines of JSON: ``decoded`` and ``channels``
tell how many samples of each channel can be read already, and the last line is the result. It imports nothing of this
project except what the server has loaded from beside it: ``media_source``, ``mixing`` and the sandbox.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import BufferedReader

    from av import AudioFrame, AudioStream, Packet
    from av.container import InputContainer

    from app.transcription.media_source import AnonymousFile, Extent, SilenceBudget, ogg_links
    from app.transcription.mixing import Resampler, resampler_for

    OnProgress = Callable[[int, int], None]

else:
    from media_source import AnonymousFile, Extent, SilenceBudget, ogg_links
    from mixing import resampler_for

SAMPLE_RATE: Final = 16_000
BYTES_PER_SAMPLE: Final = 2

#: Demuxers that only ever read the bytes they are given. Playlists, session descriptions and lists of other
#: files (hls, dash, sdp, concat) are left out on purpose: they open what the sender names.
FORMATS: Final = (
    "wav,mp3,flac,ogg,aac,mov,matroska,mpegts,aiff,caf,amr,asf,w64,avi,flv,mpeg,au,"
    "ac3,eac3,dts,dtshd,wv,tta,mpc,mpc8,dsf,nistsphere,voc,gsm,dss"
)

#: What files begin with that are not decoded, and what to call them in the message. RealMedia, Monkey's Audio, MXF and
#: other lossless formats are audio that FFmpeg reads, with demuxers or decoders that are too complex for files of
#: strangers. The others it does not read.
_REFUSED: Final = (
    (b"MAC ", "Monkey's Audio is not supported"),
    (b"ajkg", "Shorten is not supported"),
    (b"tBaK", "TAK is not supported"),
    (b"OFR ", "OptimFROG is not supported"),
    (b".RMF", "RealMedia is not supported"),
    (b".ra\xfd", "RealAudio is not supported"),
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", "MXF is not supported"),
    (b"\x03ds2", "Dictations in DSS Pro (.ds2) are not supported"),
    (b"MS_VOICE", "Recordings of Sony's voice recorders (.msv, .dvf) are not supported"),
    (b"#!SILK_V3", "SILK is not supported"),
    (b"\x02#!SILK_V3", "SILK is not supported"),
    (b"MThd", "The file is MIDI, which holds notes and no sound"),
    (b"#EXTM3U", "The file is a playlist, not audio"),
    (b"[playlist]", "The file is a playlist, not audio"),
    (b"data:audio/", "The file is a data URL, whose audio has to be decoded from base64 first"),
    (b"data:video/", "The file is a data URL, whose audio has to be decoded from base64 first"),
    (b"%PDF", "The file is a PDF document, not audio"),
    (b"PK\x03\x04", "The file is a ZIP archive or an office document, not audio"),
    (b"Rar!", "The file is a RAR archive, not audio"),
    (b"7z\xbc\xaf\x27\x1c", "The file is a 7z archive, not audio"),
    (b"\x1f\x8b", "The file is compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "The file is compressed with zstd"),
    (b"BZh", "The file is compressed with bzip2"),
    (b"\xfd7zXZ", "The file is compressed with xz"),
    (b"\x89PNG", "The file is a picture, not audio"),
    (b"\xff\xd8\xff", "The file is a picture, not audio"),
    (b"GIF8", "The file is a picture, not audio"),
    (b"{", "The file is a JSON document, not audio"),
    (b"<?xml", "The file is an XML document, not audio"),
    (b"<!DOCTYPE", "The file is a web page, not audio"),
    (b"<html", "The file is a web page, not audio"),
)
#: The brands of mp4 files that hold no sound that could be decoded.
_REFUSED_BRANDS: Final = {
    b"aax ": "The file is an audiobook of Audible (.aax), which is encrypted",
    b"aaxc": "The file is an audiobook of Audible (.aaxc), which is encrypted",
    b"heic": "The file is a picture, not audio",
    b"mif1": "The file is a picture, not audio",
    b"avif": "The file is a picture, not audio",
}
#: Line breaks that some clients write before the file, and what can follow them.
_LINE_BREAKS: Final = re.compile(rb"[\r\n]{1,16}(?=RIFF|ID3|OggS|fLaC|FORM|caff|....ftyp|\x1aE\xdf\xa3)")

#: Formats with an exact length in their header. In others it is an estimate, or the placeholder of a streamed file.
FORMATS_WITH_LENGTH: Final = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flac", "ogg")

RATES: Final = range(4_000, 384_000 + 1)
MAX_CHANNELS: Final = 32
#: Kept channels may take as much space as this many of the longest duration. More of them have to be shorter.
FULL_LENGTH_CHANNELS: Final = 8

#: The kinds of links of a chained file that are left out if others can be decoded.
REMEDIABLE: Final = ("undecodable", "damaged", "no_audio", "no_track")

#: A demuxer that fails this often in a row is not tried again.
MAX_DEMUX_FAILURES: Final = 10_000

_WRITE_BUFFER: Final = 1 << 20
_READ_BUFFER: Final = 1 << 18
_MAX_ORDER_BYTES: Final = 4096
_HEAD_BYTES: Final = 64
#: Containers that state the time of each packet. Those of MPEG streams jump where streams were joined.
TIMED_FORMATS: Final = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
#: Seconds by which sound can begin later than the pictures, or go on after a gap. Less is the delay of an encoder, more
#: a damaged time.
_MIN_DELAY: Final = 0.1
_MAX_DELAY: Final = 600.0
#: Progress is reported after each 30 s of audio, as much as the voice activity detection takes at once.
_REPORT_SAMPLES: Final = 30 * SAMPLE_RATE


class UnusableFile(Exception):
    """The file can't be decoded. ``kind`` selects the remedy that the service adds to the message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class StopReached(Exception):
    """As much as was asked for has been decoded, and there is more."""


class DecodeOptions(NamedTuple):
    """The extent of a decoding, and its limits.

    A file of more than ``max_seconds`` is refused. Decoding stops after ``stop_after_seconds`` of audio, if given, and
    after ``silent_seconds`` of processor time without any audio. ``min_free_bytes`` must stay free on the disk.
    ``track`` is the audio track to decode, from 1, or None for the best one.
    """

    max_seconds: float
    stop_after_seconds: float | None
    silent_seconds: float
    separate_channels: bool
    min_free_bytes: int
    track: int | None = None


def load_decoders() -> None:
    """Import everything that decoding needs, because no file can be opened in the sandbox."""
    import av.audio.codeccontext
    import av.audio.stream
    import av.logging
    import av.subtitles.codeccontext
    import av.subtitles.stream
    import av.video.codeccontext
    import av.video.stream

    av.logging.set_level(av.logging.ERROR)


class PcmWriter:
    """Resamples frames of any kind to 16 kHz s16 and writes them to a file.

    Sound that begins later than its container, or goes on after a gap, has silence before it. All channels are mixed
    into one. With ``separate_channels`` each is kept, interleaved, and the first frame determines how many there
    are. ``damaged`` counts the places that were left out, ``cancelled_seconds`` the time
    in which a channel replaces the mix. The limits apply to what is written, because what a file claims may be wrong.
    """

    def __init__(
        self,
        file: BinaryIO,
        options: DecodeOptions,
        *,
        budget: SilenceBudget,
        on_progress: OnProgress,
    ) -> None:
        self.channels = 1
        self.samples = 0
        self.damaged = 0
        self.cancelled_seconds = 0.0
        self._file = file
        self._budget = budget
        self._on_progress = on_progress
        self._min_free_bytes = options.min_free_bytes
        self._max_samples = int(options.max_seconds * SAMPLE_RATE)
        stop = options.stop_after_seconds
        self._stop_after_samples = None if stop is None else int(stop * SAMPLE_RATE)
        self._layout = None if options.separate_channels else "mono"
        self._reported = 0
        self._next_time = 0.0
        self._has_begun = False
        self._is_timed = False
        self._resampler: Resampler | None = None
        self._frame_kind: tuple[str, str, int] | None = None

    def write(self, frame: AudioFrame) -> None:
        """Write a frame, which may differ from the one before in format, channels and rate.

        Raises:
            UnusableFile: the frame has an absurd shape, or the audio is too long.
            StopReached: as much as was asked for has been written.
            OSError: the disk is full.
        """
        if not frame.samples:
            return
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        gap = self._gap_before(frame)
        if kind != self._frame_kind or gap:
            self.flush()
            self._resampler = self._resampler_for(frame)
            self._frame_kind = kind
        self._write_silence(gap)
        assert self._resampler is not None  # noqa: S101  # set with the first frame
        frame.pts = None  # resampling needs no timestamps and refuses those that jump
        self._store(self._resampler.resample(frame))

    def begin(self, container: InputContainer) -> None:
        """Prepare for the frames of a container, which follow those of the one before."""
        self._next_time = start_seconds(container)
        self._has_begun = False
        self._is_timed = container.format.name in TIMED_FORMATS

    def _gap_before(self, frame: AudioFrame) -> float:
        """Return the seconds without sound before a frame: packets that were lost, or left out because of silence."""
        gap = 0.0
        if frame.time is not None and (self._is_timed or not self._has_begun):
            gap = frame.time - self._next_time
        if gap >= _MIN_DELAY or not self._has_begun:
            self._next_time += gap
        self._has_begun = True
        self._next_time += frame.samples / frame.sample_rate
        return gap if _MIN_DELAY <= gap <= _MAX_DELAY else 0.0

    def _write_silence(self, seconds: float) -> None:
        from av import AudioFrame

        left = round(seconds * SAMPLE_RATE)
        while left > 0:
            frame = AudioFrame("s16", self._layout or "mono", min(left, SAMPLE_RATE))
            frame.planes[0].update(bytes(frame.planes[0].buffer_size))
            self._store([frame])
            left -= frame.samples

    def flush(self) -> None:
        """Write what the resampler still holds. Raises the same as :meth:`write`."""
        if self._resampler is not None:
            resampler, self._resampler, self._frame_kind = self._resampler, None, None
            self._store(resampler.resample(None))
            self.cancelled_seconds += getattr(resampler, "cancelled_seconds", 0.0)

    def _resampler_for(self, frame: AudioFrame) -> Resampler:
        check_shape(frame.sample_rate, frame.layout.nb_channels)
        if self._layout is None:
            self._layout, self.channels = frame.layout.name, frame.layout.nb_channels
            self._max_samples = min(self._max_samples, self._max_samples * FULL_LENGTH_CHANNELS // self.channels)
        return resampler_for(frame, layout=self._layout, rate=SAMPLE_RATE)

    def _store(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            self._budget.renew()
            self.samples += frame.samples
            if self.samples > self._max_samples:
                raise self._too_long()
            self._file.write(memoryview(frame.planes[0])[: frame.samples * self.channels * BYTES_PER_SAMPLE])
        if self.samples - self._reported >= _REPORT_SAMPLES:
            self._report()
        if self._stop_after_samples is not None and self.samples > self._stop_after_samples:
            raise StopReached

    def _too_long(self) -> UnusableFile:
        if self.channels <= FULL_LENGTH_CHANNELS:
            return UnusableFile("too_long", "The decoded audio is too long")
        seconds = self._max_samples // SAMPLE_RATE
        return UnusableFile(
            "channels_too_long",
            f"With `multichannel`, audio with {self.channels} channels must not be longer than {seconds} s",
        )

    def _report(self) -> None:
        self._file.flush()
        disk = os.fstatvfs(self._file.fileno())
        if disk.f_bavail * disk.f_frsize < self._min_free_bytes:
            raise OSError(errno.ENOSPC, "the remaining space is reserved")
        self._on_progress(self.samples, self.channels)
        self._reported = self.samples


def damage_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that PyAV raises for damaged files. MemoryError, which may be one, is no damage."""
    from av.error import FFmpegError

    return (FFmpegError, ValueError)


def check_shape(rate: int, channels: int) -> None:
    """Raise UnusableFile for what no recorder produces: a file that claims 1 Hz becomes 16,000 times as long."""
    if rate not in RATES:
        raise UnusableFile("rate", f"The sample rate must be {RATES[0]} to {RATES[-1]} Hz, got {rate} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise UnusableFile("channels", f"The file must have 1 to {MAX_CHANNELS} channels, got {channels}")


def open_container(source: AnonymousFile, head: bytes) -> InputContainer:
    """Open a file, which begins with ``head``, with the demuxers of ``FORMATS``, no protocols, and audio decoders only.

    Raises:
        UnusableFile: it is no file that these demuxers read.
    """
    import av

    try:
        return av.open(
            source,
            "r",
            buffer_size=_READ_BUFFER,
            metadata_errors="replace",
            container_options={
                "format_whitelist": FORMATS,
                "protocol_whitelist": "none",
                # No video stream is decoded, not even one frame to learn its size.
                "codec_whitelist": ",".join(filter(is_audio_decoder, av.codecs_available)),
            },
        )
    except MemoryError:
        raise
    except damage_errors() as exc:
        raise problem(head) from exc


def problem(head: bytes) -> UnusableFile:
    """Return the reason why a file that begins with ``head`` can't be decoded."""
    named = [message for magic, message in _REFUSED if head.lstrip().startswith(magic)]
    if head[4:8] == b"ftyp":
        named = [_REFUSED_BRANDS[head[8:12]]] if head[8:12] in _REFUSED_BRANDS else []
    if head[4:8] == b"ftyp" and not named:
        message = "The file is damaged or incomplete, perhaps because its recording or upload was interrupted"
        return UnusableFile("damaged", message)
    unnamed = (
        "The file could not be decoded as audio, because it is damaged or does not begin with the header of a format"
    )
    return UnusableFile("undecodable", next(iter(named), unnamed))


def is_audio_decoder(name: str) -> bool:
    from av.codec import Codec

    try:
        return Codec(name, "r").type == "audio"
    except ValueError:  # there is only an encoder of this name
        return False


def pick_stream(container: InputContainer, track: int | None) -> AudioStream:
    """Return the audio stream of the track, or the best one, and have all others skipped."""
    from av.stream import Discard

    best: Any = container.streams.best("audio")
    if best is None and container.streams.audio:
        raise UnusableFile("undecodable", "The audio in the file is damaged, encrypted or of an unknown codec")
    if best is None:
        raise UnusableFile("no_audio", "The file has no audio stream")
    if track is not None:
        tracks = container.streams.audio
        if track > len(tracks):
            raise UnusableFile("no_track", f"The file has {len(tracks)} audio tracks, and `audio_track` is {track}")
        best = tracks[track - 1]
    if best.codec_context is None:
        raise UnusableFile("undecodable", "The audio in the file has an unknown codec")
    for other in container.streams:
        if other.index != best.index:
            other.discard = Discard.all
    best.codec_context.thread_count = 1  # threads would take address space and are no faster
    stream: AudioStream = best
    return stream


def claimed_seconds(container: InputContainer, stream: AudioStream) -> float:
    """Return the length of the sound according to the header, or 0 if it states none."""
    if container.format.name not in FORMATS_WITH_LENGTH:
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1_000_000


def reaches(container: InputContainer, stream: AudioStream, seconds: float) -> bool:
    """Return True if the file holds sound of this time. The header of a truncated one claims what is missing.

    The container is at another place afterwards.
    """
    errors: tuple[type[Exception], ...] = (*damage_errors(), IndexError)  # see `packets`
    try:
        container.seek(int(seconds * 1_000_000), backward=False)
        packet = next(container.demux(stream))  # at the end it is an empty one
    except MemoryError:
        raise
    except errors:
        return False
    return bool(packet.size) and packet.pts is not None and packet.pts * packet.time_base >= seconds


def start_seconds(container: InputContainer) -> float:
    """Return the time at which the file begins, with its sound or with its pictures.

    Without a decoder for them, FFmpeg can misjudge when pictures begin. In Matroska the time of a file begins at 0.
    """
    if "matroska" in container.format.name and container.streams.video:
        return 0.0
    return (container.start_time or 0) / 1_000_000


def packets(container: InputContainer, stream: AudioStream) -> Iterator[Packet[AudioStream] | None]:
    """Yield the packets of a stream, the flushing one last, and None for each damaged place."""
    failures = 0
    while failures < MAX_DEMUX_FAILURES:
        try:
            for packet in container.demux(stream):
                failures = 0
                yield packet
        except MemoryError:
            raise
        except damage_errors():
            failures += 1
            yield None
        except IndexError:  # at the end PyAV flushes streams that appeared midway, which it does not know, after ours
            return
        else:
            return


def decode(
    source: BufferedReader, destination: BinaryIO, options: DecodeOptions, on_progress: OnProgress
) -> dict[str, Any]:
    """Decode an open file and return the result.

    Raises:
        UnusableFile: the file can't be decoded, or not within its limits.
        MemoryError: it takes too much memory.
        OSError: the disk is full.
    """
    head = source.peek(_HEAD_BYTES)
    if not head:
        raise UnusableFile("empty", "The file is empty")
    line_breaks = _LINE_BREAKS.match(head)
    start = line_breaks.end() if line_breaks else 0
    links = ogg_links(source, start) if head[start:].startswith(b"OggS") else [Extent(start)]
    budget = SilenceBudget(options.silent_seconds)
    writer = PcmWriter(destination, options, budget=budget, on_progress=on_progress)
    decoding = Decoding(source, options, writer, budget)
    for number, link in enumerate(links):
        try:
            decoding.add(link, head)
        except UnusableFile as exc:
            if exc.kind not in REMEDIABLE or (number == len(links) - 1 and not writer.samples):
                raise
            writer.damaged += 1
        if not decoding.is_complete or budget.is_spent:
            break
    return decoding.result(is_whole=len(links) == 1)


class Decoding:
    """The decoding of one file, which may consist of several links.

    ``is_complete`` is False if there was more than asked for.
    """

    def __init__(self, source: BinaryIO, options: DecodeOptions, writer: PcmWriter, budget: SilenceBudget) -> None:
        self._source = source
        self._options = options
        self._writer = writer
        self._budget = budget
        self.is_complete = True
        self._claimed = 0.0
        self._track = self._tracks = 1

    def add(self, link: Extent, head: bytes) -> None:
        """Decode a link of the file, which begins with ``head``.

        Raises:
            UnusableFile: it can't be decoded, or not within its limits.
            MemoryError: it takes too much memory.
            OSError: the disk is full.
        """
        if head[4:8] == b"ftyp" and head[8:12] in _REFUSED_BRANDS:
            raise problem(head)
        most = self._options.max_seconds
        with self._opened(link, head) as container:
            stream = pick_stream(container, self._options.track)
            claimed = claimed_seconds(container, stream)
            if claimed <= most:
                self._decode(container, stream, claimed)
                return
            if reaches(container, stream, most):
                raise UnusableFile("too_long", f"The header claims {claimed:.0f} s")
        with self._opened(link, head) as container:
            self._decode(container, pick_stream(container, self._options.track), claimed)

    def _opened(self, link: Extent, head: bytes) -> InputContainer:
        return open_container(AnonymousFile(self._source, self._budget, link), head)

    def _decode(self, container: InputContainer, stream: AudioStream, claimed: float) -> None:
        context = stream.codec_context
        if context.sample_rate and context.layout.nb_channels:
            check_shape(context.sample_rate, context.layout.nb_channels)
        self._writer.begin(container)
        self.is_complete = write_all(packets(container, stream), self._writer, self._budget)
        if not self._writer.samples:
            raise self._nothing(claimed)
        tracks = [audio.index for audio in container.streams.audio]
        self._track, self._tracks = tracks.index(stream.index) + 1, len(tracks)
        if stream.duration is not None or len(container.streams) == 1:  # or it may be the length of the pictures
            self._claimed = claimed

    def _nothing(self, claimed: float) -> UnusableFile:
        message = "No sound could be decoded from the file"
        if self._budget.is_spent:
            return UnusableFile("undecodable", f"{message} in the first {self._budget.seconds:g} s of decoding")
        if claimed:
            message = f"The file is damaged or incomplete: none of its {claimed:.0f} s could be decoded"
            return UnusableFile("damaged", message)
        return UnusableFile("undecodable", message)

    def result(self, *, is_whole: bool) -> dict[str, Any]:
        """Return the result for the service. The header speaks for the file if ``is_whole``, otherwise for a link."""
        writer = self._writer
        missing = self._claimed - writer.samples / SAMPLE_RATE if is_whole else 0.0
        return {
            "ok": True,
            "samples": writer.samples,
            "channels": writer.channels,
            "track": self._track,
            "tracks": self._tracks,
            "is_complete": self.is_complete,
            "corrupt_frames": writer.damaged,
            "cancelled_seconds": writer.cancelled_seconds,
            "missing_seconds": max(0.0, missing),
            "gave_up": self._budget.is_spent,
        }


def write_all(packets: Iterable[Packet[AudioStream] | None], writer: PcmWriter, budget: SilenceBudget) -> bool:
    """Write the audio of all packets. Return False if there was more than asked for."""
    try:
        write_packets(packets, writer, budget)
        writer.flush()
    except StopReached:
        return False
    return True


def write_packets(packets: Iterable[Packet[AudioStream] | None], writer: PcmWriter, budget: SilenceBudget) -> None:
    """Write the audio of packets until the budget is spent."""
    try:
        for packet in packets:
            if not budget.lasts():
                return
            write_packet(packet, writer)
    except MemoryError:  # a parser may collect hundreds of MiB of zeros while it looks for the next frame
        if not writer.samples:
            raise
        budget.is_spent = True


def write_packet(packet: Packet[AudioStream] | None, writer: PcmWriter) -> None:
    """Write the audio of a packet, and count it as damaged if it can't be decoded."""
    if packet is None:
        writer.damaged += 1
        return
    try:
        for frame in packet.decode():
            writer.write(frame)
    except MemoryError:
        raise
    except damage_errors():
        writer.damaged += 1


def decode_files(
    source: BufferedReader,
    destination: BinaryIO,
    options: DecodeOptions,
    *,
    on_progress: OnProgress,
    enter_sandbox: Callable[[], list[str]],
) -> dict[str, Any]:
    """Decode an open file in the sandbox and return the result, also if it is an expected failure."""
    sandbox: list[str] = []
    try:
        with source as audio, destination as pcm:
            sandbox = enter_sandbox()
            return {"sandbox": sandbox, **decode(audio, pcm, options, on_progress)}
    except UnusableFile as exc:
        kind, message = exc.kind, str(exc)
    except MemoryError:
        kind, message = "undecodable", "Decoding needs more memory than is allowed"
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        kind, message = "disk_full", "No disk space is left for the decoded audio"
    return {"ok": False, "sandbox": sandbox, "kind": kind, "message": message}


class Output:
    """Writes lines of JSON for the service to read."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def write(self, line: dict[str, Any]) -> None:
        # With write(2): the sandbox does not allow sendto(2).
        os.write(self._connection.fileno(), json.dumps(line).encode() + b"\n")

    def write_progress(self, samples: int, channels: int) -> None:
        self.write({"decoded": samples, "channels": channels})


def run(connection: socket.socket, parent: int) -> None:
    """Decode the file of the order that arrives over ``connection``. ``parent`` is the decoder server."""
    message, descriptors, _, _ = socket.recv_fds(connection, _MAX_ORDER_BYTES, 3)
    if not message:
        return  # the service no longer wants it
    source, destination, messages = descriptors
    # C libraries may print to standard output too.
    for standard in (1, 2):
        os.dup2(messages, standard)
    os.close(messages)
    order = json.loads(message)
    options = DecodeOptions(**order["options"])
    sandbox = sys.modules["sandbox"]
    channels = FULL_LENGTH_CHANNELS if options.separate_channels else 1
    sandbox.limit_resources(
        memory_bytes=order["memory_bytes"],
        cpu_seconds=order["cpu_seconds"],
        file_bytes=int(options.max_seconds * SAMPLE_RATE) * BYTES_PER_SAMPLE * channels + _WRITE_BUFFER,
    )
    output = Output(connection)
    output.write(
        decode_files(
            os.fdopen(source, "rb"),
            os.fdopen(destination, "wb", buffering=_WRITE_BUFFER),
            options,
            on_progress=output.write_progress,
            enter_sandbox=partial(sandbox.enter, parent),
        )
    )
