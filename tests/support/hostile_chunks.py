"""Files of chunks (wav, avi, aiff, caf, …) that claim or hold too much, and files that hold no audio."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from typing import TYPE_CHECKING, Final

from tests.support.hostile_frames import crc32, png

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.hostile_boxes import Parts

_GIB: Final = 1 << 30
_MOST: Final = 0xFFFF_FFFF
_SECOND: Final = bytes(32_000)
_FORM: Final = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)


def wav(*chunks: bytes, form: bytes = _FORM, size: int = _MOST) -> bytes:
    return b"RIFF" + struct.pack("<I", size) + b"WAVE" + chunk(b"fmt ", form) + b"".join(chunks)


def chunk(name: bytes, content: bytes = b"", *, size: int | None = None) -> bytes:
    """Return a RIFF chunk, with a wrong ``size`` if given."""
    return name + struct.pack("<I", len(content) if size is None else size) + content


def form(*, codec: int = 1, channels: int = 1, rate: int = 16_000, align: int = 2, bits: int = 16) -> bytes:
    return struct.pack("<HHIIHH", codec, channels, rate, rate * align & _MOST, align, bits)


def rf64(*, riff: int, data: int, samples: int, table: int) -> bytes:
    sizes = chunk(b"ds64", struct.pack("<QQQI", riff, data, samples, table))
    return (
        b"RF64"
        + struct.pack("<I", _MOST)
        + b"WAVE"
        + sizes
        + chunk(b"fmt ", _FORM)
        + chunk(b"data", _SECOND, size=_MOST)
    )


_DATA: Final = chunk(b"data", _SECOND)
WAVS: Final[dict[str, Callable[[], Parts]]] = {
    "wav as it should be": lambda: [wav(_DATA)],
    "wav of no data": lambda: [wav(chunk(b"data", _SECOND, size=0))],
    "wav of data of 4 GB": lambda: [wav(chunk(b"data", _SECOND, size=_MOST))],
    "wav of data of 2 GB": lambda: [wav(chunk(b"data", _SECOND, size=0x7FFF_FFFF))],
    "wav of a byte": lambda: [wav(chunk(b"data", b"\0"))],
    "wav of a form of 4 GB": lambda: [b"RIFF\xff\xff\xff\xffWAVE" + chunk(b"fmt ", _FORM, size=_MOST)],
    "wav of a form of a GiB": lambda: [b"RIFF\0\0\0\0WAVE" + chunk(b"fmt ", _FORM, size=_GIB), _GIB],
    "wav of 1 Hz": lambda: [wav(_DATA, form=form(rate=1))],
    "wav of 4 GHz": lambda: [wav(_DATA, form=form(rate=_MOST))],
    "wav of 65,535 channels": lambda: [wav(_DATA, form=form(channels=0xFFFF, align=0xFFFF))],
    "wav of blocks of nothing": lambda: [wav(_DATA, form=form(align=0, bits=0))],
    "wav of 65,535 bits": lambda: [wav(_DATA, form=form(align=0xFFFF, bits=0xFFFF))],
    "wav of adpcm in blocks of 65,535": lambda: [wav(_DATA, form=form(codec=17, align=0xFFFF, bits=4))],
    "wav of adpcm in blocks of 1": lambda: [wav(_DATA, form=form(codec=2, align=1, bits=4))],
    "wav with a title of 20 MB": lambda: [wav(chunk(b"LIST", b"INFO" + chunk(b"INAM", b"x" * 20_000_000)), _DATA)],
    "wav of 100,000 lists": lambda: [wav(chunk(b"LIST", b"INFO" + chunk(b"INAM", b"name")) * 100_000, _DATA)],
    "wav of 100,000 cues": lambda: [wav(chunk(b"cue ", bytes(2_400_004)), _DATA)],
    "wav in wav in wav": lambda: [wav(chunk(b"data", wav(chunk(b"data", wav(_DATA)))))],
    "wav with a hole of a GiB": lambda: [wav(chunk(b"data", size=_GIB)), _GIB],
    "wav whose data follows a GiB": lambda: [wav(chunk(b"junk", size=_GIB)), _GIB, _DATA],
    "wav that claims another codec each": lambda: [b"".join(wav(_DATA, form=form(codec=code)) for code in range(256))],
    "rf64 of no size": lambda: [rf64(riff=0, data=0, samples=0, table=0)],
    "rf64 of 2**63": lambda: [rf64(riff=2**63, data=2**63 - 1, samples=2**63 - 1, table=_MOST)],
    "rf64 of -1": lambda: [rf64(riff=2**64 - 1, data=2**64 - 1, samples=2**64 - 1, table=1)],
}


def _avi(streams: int, *, after: bytes = b"", frames: bytes = chunk(b"00wb", _SECOND)) -> bytes:
    strh = chunk(b"strh", b"auds" + bytes(16) + struct.pack("<IIIIIII", 2, 32_000, 0, _MOST, 0, 0, 2) + bytes(8))
    stream = chunk(b"LIST", b"strl" + strh + chunk(b"strf", _FORM) + after)
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", bytes(56)) + stream * streams)
    return b"RIFF" + struct.pack("<I", _MOST) + b"AVI " + header + chunk(b"LIST", b"movi" + frames)


def _flv(script: bytes) -> bytes:
    tag = b"\x12" + len(script).to_bytes(3, "big") + bytes(7) + script
    return b"FLV\x01\x04\0\0\0\x09" + bytes(4) + tag + struct.pack(">I", len(tag))


def _asf(count: int, size: int) -> bytes:
    head = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
    stream = bytes.fromhex("9107dcb7b7a9cf118ee600c00c205365")
    audio = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
    properties = stream + struct.pack("<Q", 94) + audio + bytes(16) + struct.pack("<QIIHI", 0, 16, 0, 1, 0) + _FORM
    return head + struct.pack("<QIBB", size, count, 1, 2) + properties * min(count, 200)


def _caf(rate: float, *chunks: tuple[bytes, int, bytes]) -> bytes:
    shape = struct.pack(">d4sIIIII", rate, b"lpcm", 0, 2, 1, 1, 16)
    listed = [(b"desc", len(shape), shape), *chunks, (b"data", -1, bytes(4) + _SECOND)]
    return b"caff\0\1\0\0" + b"".join(name + struct.pack(">q", size) + content for name, size, content in listed)


def _aiff(rate: bytes, *, offset: int = 0) -> bytes:
    common = b"COMM" + struct.pack(">IHIH", 18, 1, 16_000, 16) + rate
    return b"FORM\xff\xff\xff\xffAIFF" + common + b"SSND" + struct.pack(">III", len(_SECOND) + 8, offset, 0) + _SECOND


def _mpegts(programs: int) -> bytes:
    """Return a stream with this many programs, each an empty packet with its own identifier."""
    packets = []
    for pid in range(programs):
        section = b"\0\x00\xb0\x0d\0\1\xc1\0\0\0\1" + struct.pack(">H", 0xE000 | pid + 32)
        section += crc32(section[1:])
        packets.append((b"G\x40\0\x10" + section).ljust(188, b"\xff"))
        packets.append((b"G" + struct.pack(">H", 0x4000 | pid + 32) + b"\x10\0\0\1\xc0\0\0\x80\0\0").ljust(188, b"\0"))
    return b"".join(packets)


_RATE_80: Final = b"\x40\x0c\xfa\0\0\0\0\0\0\0"
OTHERS: Final[dict[str, Callable[[], Parts]]] = {
    "avi of 300 streams": lambda: [_avi(300)],
    "avi with a title of 20 MB": lambda: [_avi(1, after=chunk(b"strn", b"x" * 20_000_000))],
    "avi of indexes to itself": lambda: [
        _avi(1, after=chunk(b"indx", struct.pack("<HBBI4s", 4, 0, 0, 999, b"00wb") + bytes(16_000)))
    ],
    "avi of 500,000 empty chunks": lambda: [_avi(1, frames=chunk(b"00wb") * 500_000)],
    "avi with a hole of a GiB": lambda: [_avi(1), chunk(b"JUNK", size=_GIB), _GIB],
    "flv of objects 100,000 deep": lambda: [_flv(b"\2\0\x0aonMetaData" + b"\3\0\1a" * 100_000)],
    "flv of lists 100,000 deep": lambda: [_flv(b"\2\0\x0aonMetaData" + b"\x0a\0\0\0\1" * 100_000)],
    "flv of a list of 4 billion": lambda: [_flv(b"\2\0\x0aonMetaData\x08\xff\xff\xff\xff\0\1a\x0a\xff\xff\xff\xff")],
    "asf of 200 streams": lambda: [_asf(200, 20_000)],
    "asf of 4 billion objects": lambda: [_asf(_MOST, 2**63)],
    "caf of 0 Hz": lambda: [_caf(0.0)],
    "caf of a rate that is not a number": lambda: [_caf(float("nan"))],
    "caf of endless Hz": lambda: [_caf(float("inf"))],
    "caf of 2**62 packets": lambda: [_caf(16_000.0, (b"pakt", 24, struct.pack(">qqii", 2**62, 2**62, 0, 0)))],
    "caf of a chunk of -2": lambda: [_caf(16_000.0, (b"free", -2, b""))],
    "caf of a cookie of 2**62": lambda: [_caf(16_000.0, (b"kuki", 2**62, b""))],
    "caf of 4 billion comments": lambda: [_caf(16_000.0, (b"info", 4, b"\xff" * 4))],
    "aiff as it should be": lambda: [_aiff(_RATE_80)],
    "aiff of endless Hz": lambda: [_aiff(b"\x7f\xff\x80" + bytes(7))],
    "aiff of a rate that is not a number": lambda: [_aiff(b"\x7f\xff\xc0" + bytes(7))],
    "aiff of less than nothing": lambda: [_aiff(b"\xff" * 10)],
    "aiff that begins at 4 GB": lambda: [_aiff(_RATE_80, offset=_MOST)],
    "amr of no frames": lambda: [b"#!AMR\n"],
    "amr of an hour of nothing": lambda: [b"#!AMR\n" + b"\x7c" * 180_000],
    "amr of all frame types": lambda: [b"#!AMR\n" + bytes(range(256)) * 200],
    "au that begins at 4 GB": lambda: [struct.pack(">4sIIIII", b".snd", _MOST, _MOST, 3, 16_000, 1) + _SECOND],
    "au with a note of 20 MB": lambda: [
        struct.pack(">4sIIIII", b".snd", 20_000_024, _MOST, 3, 16_000, 1) + b"x" * 20_000_000 + _SECOND
    ],
    "mpegts of 4,000 programs": lambda: [_mpegts(4_000)],
    "mpegts of sync bytes": lambda: [b"G" * 2_000_000],
    "mpegts with a hole of a GiB": lambda: [_mpegts(5), _GIB],
    "mpeg of pack headers": lambda: [b"\0\0\1\xba" * 500_000],
    "a GiB of nothing": lambda: [_GIB],
    "zip bomb": lambda: [_zip(32 << 20)],
    "zip in zip": lambda: [_zip(32 << 20), _zip(1 << 20)],
    "gzip bomb": lambda: [gzip.compress(bytes(32 << 20), mtime=0)],
    "gzip of a wav": lambda: [gzip.compress(wav(_DATA), mtime=0)],
    "picture of 65,535 by 65,535": lambda: [png()],
}


def _zip(length: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("a.wav"), bytes(length), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


CHUNKS: Final = WAVS | OTHERS
