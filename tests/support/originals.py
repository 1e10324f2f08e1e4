"""One short file of every supported kind, with the same bytes whenever it is made."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import av
import numpy as np

from tests.support.audio import RATE, encode, sweep

if TYPE_CHECKING:
    from pathlib import Path


class Kind(NamedTuple):
    container: str
    codec: str
    rate: int = RATE
    layout: str = "mono"
    video: str | None = None
    bit_rate: int | None = None
    flags: str = ""

    def __str__(self) -> str:
        return "-".join(str(part) for part in (self.container, self.codec, self.video, self.flags) if part)


KINDS: Final = [
    Kind("wav", "pcm_s16le"),
    Kind("wav", "pcm_u8", rate=8_000),
    Kind("wav", "pcm_s24le", layout="stereo"),
    Kind("wav", "pcm_f32le"),
    Kind("wav", "pcm_mulaw", rate=8_000),
    Kind("wav", "adpcm_ima_wav"),
    Kind("wav", "adpcm_ms"),
    Kind("wav", "g722"),
    Kind("wav", "libmp3lame"),
    Kind("mp3", "libmp3lame", rate=44_100, layout="stereo"),
    Kind("mp2", "mp2", rate=48_000),
    Kind("flac", "flac", rate=44_100, layout="stereo"),
    Kind("ogg", "vorbis", rate=44_100, layout="stereo"),
    Kind("ogg", "libopus", rate=48_000),
    Kind("ogg", "flac"),
    Kind("adts", "aac", rate=44_100),
    Kind("ipod", "aac", rate=44_100),
    Kind("ipod", "alac"),
    Kind("mp4", "libopus", rate=48_000),
    Kind("mp4", "flac"),
    Kind("mp4", "aac", rate=44_100, flags="frag_keyframe+empty_moov"),
    Kind("mp4", "aac", rate=44_100, flags="faststart", video="mpeg4"),
    Kind("mov", "pcm_s16be"),
    Kind("3gp", "libopencore_amrnb", rate=8_000),
    Kind("matroska", "libopus", rate=48_000),
    Kind("matroska", "pcm_s16le"),
    Kind("matroska", "tta"),
    Kind("webm", "vorbis", layout="stereo"),
    Kind("webm", "libopus", rate=48_000, video="libvpx"),
    Kind("mpegts", "aac", rate=48_000),
    Kind("mpegts", "ac3", rate=48_000, video="mpeg2video"),
    Kind("mpeg", "mp2", rate=48_000),
    Kind("aiff", "pcm_s16be", rate=44_100),
    Kind("caf", "pcm_s16be"),
    Kind("caf", "alac"),
    Kind("amr", "libopencore_amrnb", rate=8_000),
    Kind("asf", "wmav1", bit_rate=32_000),
    Kind("asf", "wmav2", bit_rate=32_000),
    Kind("w64", "pcm_s16le"),
    Kind("avi", "libmp3lame", rate=44_100, video="mpeg4"),
    Kind("avi", "pcm_s16le"),
    Kind("flv", "aac", rate=44_100),
    Kind("flv", "libmp3lame", rate=44_100, video="flv"),
    Kind("au", "pcm_s16be"),
    Kind("au", "pcm_mulaw", rate=8_000),
    Kind("ac3", "ac3", rate=48_000, bit_rate=96_000),
    Kind("eac3", "eac3", rate=48_000, bit_rate=96_000),
    Kind("wv", "wavpack", layout="16 channels"),
    Kind("tta", "tta", rate=44_100),
    Kind("voc", "pcm_s16le"),
]


def raw_gsm() -> bytes:
    """Return a second of noise: frames of 33 bytes and 20 ms that begin with the same four bits (EN 300 961)."""
    random = np.random.default_rng(1)
    return b"".join(b"\xd0" + random.bytes(32) for _ in range(50))


def dss_dictation() -> bytes:
    """Return nearly a second of noise in DSS's standard play mode: blocks of 512 bytes with frames of 264 samples."""
    head = bytearray(1024)
    head[:4], head[0x26:0x3E] = b"\x02dss", b"261127120000261127120010"
    random = np.random.default_rng(1)
    return bytes(head) + b"".join(bytes(6) + random.integers(0, 0xFE, 506, dtype=np.uint8).tobytes() for _ in range(3))


def originals(folder: Path) -> dict[str, bytes]:
    """Return the content of the files by their kinds. They are made in ``folder``, one after another."""
    files = {str(kind): _original(folder / "original", kind) for kind in KINDS}
    chained = files["ogg-libopus"] + files["ogg-vorbis"] + files["ogg-flac"]
    return files | {"ogg-chained": chained, "gsm": raw_gsm(), "dss": dss_dictation()}


def _original(path: Path, kind: Kind) -> bytes:
    options = {"fflags": "+bitexact"} | ({"movflags": f"+{kind.flags}"} if kind.flags else {})
    encode(
        path,
        sweep(1),
        container=kind.container,
        codec=kind.codec,
        rate=kind.rate,
        layout=kind.layout,
        bit_rate=kind.bit_rate,
        options=options,
    )
    if kind.video:
        _add_pictures(path, kind.container, kind.video, options)
    content = path.read_bytes()
    path.unlink()
    return content


def _add_pictures(path: Path, container: str, codec: str, options: dict[str, str]) -> None:
    """Write the audio again after ten black video frames."""
    silent = path.rename(path.with_name("sound"))
    with av.open(str(silent)) as given, av.open(str(path), "w", format=container, options=options) as film:
        pictures: Any = film.add_stream(codec, rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound = film.add_stream_from_template(given.streams.audio[0])
        for number in range(10):
            black = av.VideoFrame.from_ndarray(np.zeros((72, 64), np.uint8), "yuv420p")
            black.pts, black.time_base = number, Fraction(1, 25)
            film.mux(pictures.encode(black))
        film.mux(pictures.encode(None))
        for packet in given.demux(audio=0):
            if packet.dts is not None:
                packet.stream = sound
                film.mux(packet)
    silent.unlink()
