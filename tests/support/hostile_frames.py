"""Files of frames (mp3, aac, flac, ogg) that claim too much, hold too much, or hide their content."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.support.hostile_boxes import Parts

_GIB: Final = 1 << 30
_MOST: Final = 0xFFFF_FFFF
_MP3_FRAME: Final = b"\xff\xfb\x90\xc4" + bytes(413)
_ADTS_FRAME: Final = b"\xff\xf1\x60\x40\x01\x7f\xfc\x01\x18\x20\x07"


def id3(content: bytes, *, size: int | None = None, version: int = 4, flags: int = 0) -> bytes:
    return b"ID3" + bytes([version, 0, flags]) + syncsafe(len(content) if size is None else size) + content


def syncsafe(value: int) -> bytes:
    return bytes(value >> shift & 0x7F for shift in (21, 14, 7, 0))


def id3_frame(name: bytes, content: bytes, *, flags: int = 0, size: int | None = None) -> bytes:
    return name + syncsafe(len(content) if size is None else size) + flags.to_bytes(2, "big") + content


def _chapter(index: int) -> bytes:
    return id3_frame(b"CHAP", f"{index}\0".encode() + struct.pack(">IIII", index, index + 1, _MOST, _MOST))


def _packed_frame() -> bytes:
    packed = zlib.compress(bytes(32 << 20), 9)
    return id3_frame(b"TIT2", syncsafe(32 << 20) + packed, flags=9)


_MP3: Final = _MP3_FRAME * 80
TAGS: Final[dict[str, Callable[[], Parts]]] = {
    "mp3 as it should be": lambda: [_MP3],
    "tag that claims 256 MB": lambda: [id3(b"", size=(1 << 28) - 1), _MP3],
    "tag of 256 MB of nothing": lambda: [id3(b"", size=(1 << 28) - 1), (1 << 28) - 1, _MP3],
    "10,000 tags": lambda: [id3(b"") * 10_000, _MP3],
    "10,000 chapters": lambda: [id3(b"".join(map(_chapter, range(10_000)))), _MP3],
    "packed tag of 32 MB": lambda: [id3(_packed_frame()), _MP3],
    "packed tag that claims 256 MB": lambda: [
        id3(id3_frame(b"TIT2", b"\x7f" * 4 + zlib.compress(b"a"), flags=9)),
        _MP3,
    ],
    "picture of 30 MB": lambda: [id3(id3_frame(b"APIC", b"\0image/png\0\3\0" + png() + bytes(30_000_000))), _MP3],
    "picture that claims 256 MB": lambda: [id3(id3_frame(b"APIC", b"\0image/png\0\3\0", size=(1 << 28) - 1)), _MP3],
    "private frames, 50,000 of them": lambda: [id3(id3_frame(b"PRIV", b"a\0b") * 50_000), _MP3],
    "mp3 that claims 4 billion frames": lambda: [_MP3_FRAME[:36] + b"Xing\0\0\0\x0f" + b"\xff" * 8 + bytes(369), _MP3],
    "mp3 with a hole of a GiB": lambda: [_MP3, _GIB, _MP3],
    "mp3 of headers": lambda: [_MP3_FRAME[:4] * 500_000],
    "aac with a hole of a GiB": lambda: [_ADTS_FRAME * 100, _GIB],
    "aac of empty frames": lambda: [b"\xff\xf1\x60\x40\x00\xff\xfc" * 500_000],
    "aac of headers": lambda: [b"\xff\xf1" * 1_000_000],
}


def png(width: int = 65_535, height: int = 65_535) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


@cache
def _table(bits: int, polynomial: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 & 1 else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return tuple(table)


def crc(content: bytes, *, bits: int, polynomial: int) -> bytes:
    value, table, mask = 0, _table(bits, polynomial), (1 << bits) - 1
    for byte in content:
        value = (value << 8 ^ table[value >> bits - 8 ^ byte]) & mask
    return value.to_bytes(bits // 8, "big")


def flac(*blocks: tuple[int, bytes, int | None], hours: float = 0.01, claimed: int = 0) -> bytes:
    """Return silence in constant frames of 65,535 samples at 8 kHz (RFC 9639), after metadata ``blocks``."""
    rate, length = 8_000, 65_535
    info = (
        struct.pack(">HH", length, length) + bytes(6) + (rate << 44 | 15 << 36 | claimed).to_bytes(8, "big") + bytes(16)
    )
    parts = [b"fLaC", b"\0\0\0\x22", info]
    for kind, content, size in (*blocks, (1, b"", None)):
        last = 0x80 if kind == 1 else 0
        parts += [bytes([kind | last]), (len(content) if size is None else size).to_bytes(3, "big"), content]
    for index in range(max(1, int(hours * 3600 * rate / length))):
        head = b"\xff\xf8\x74\x08" + chr(index).encode("utf-8", "surrogatepass") + struct.pack(">H", length - 1)
        frame = head + crc(head, bits=8, polynomial=0x07) + bytes(3)
        parts.append(frame + crc(frame, bits=16, polynomial=0x8005))
    return b"".join(parts)


_MIRRORED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def crc32(content: bytes) -> bytes:
    """Return the checksum of Ogg and MPEG. It is computed by zlib, whose checksum is the same for mirrored bits."""
    mirrored = zlib.crc32(content.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return mirrored.to_bytes(4, "little").translate(_MIRRORED)


FLACS: Final[dict[str, Callable[[], Parts]]] = {
    "flac as it should be": lambda: [flac()],
    "flac of a day": lambda: [flac(hours=24)],
    "flac of a day that says so": lambda: [flac(hours=24, claimed=24 * 3600 * 8_000)],
    "flac that claims 100 days": lambda: [flac(claimed=2**36 - 1)],
    "flac with a picture of 16 MB": lambda: [flac((6, _flac_picture(16_000_000), None))],
    "flac with a picture that claims 4 GB": lambda: [flac((6, _flac_picture(100)[:28] + b"\xff" * 8, None))],
    "flac with 4 billion comments": lambda: [flac((4, struct.pack("<II", 0, _MOST), None))],
    "flac with comments of 16 MB": lambda: [
        flac((4, struct.pack("<III", 0, 1, 16_000_000) + b"A=" + b"x" * 15_999_998, None))
    ],
    "flac with 900,000 seek points": lambda: [flac((3, bytes(18 * 900_000), None))],
    "flac with a block of 16 MB that is not there": lambda: [flac((2, b"", 0xFFFFFF))],
    "flac of 2,000 sheets": lambda: [flac(*[(5, bytes(396), None)] * 2_000)],
    "flac with a hole of a GiB": lambda: [flac(), _GIB, flac()],
}


def _flac_picture(length: int) -> bytes:
    return (
        struct.pack(">II", 3, 9)
        + b"image/png"
        + struct.pack(">IIIIII", 0, 65_535, 65_535, 24, 0, length)
        + png().ljust(length, b"\0")
    )


def ogg_page(packets: Iterable[bytes], *, serial: int = 1, sequence: int = 0, granule: int = 0, kind: int = 0) -> bytes:
    """Return a page of at most 255 packets, each of fewer than 255 bytes."""
    listed = list(packets)
    head = struct.pack("<4sBBqIII", b"OggS", 0, kind, granule, serial, sequence, 0)
    page = head + bytes([len(listed)]) + bytes(map(len, listed)) + b"".join(listed)
    return page[:22] + crc32(page)[::-1] + page[26:]


def opus(packets: Iterable[list[bytes]], *, serial: int = 1, tags: bytes = bytes(8), jump: int = 0) -> bytes:
    """Return a stream of pages of 120 ms packets. The granule position of each page grows by ``jump`` samples more."""
    head = b"OpusHead\x01\x01" + struct.pack("<HIhB", 312, 48_000, 0, 0)
    pages = [ogg_page([head], serial=serial, kind=2), ogg_page([b"OpusTags" + tags], serial=serial, sequence=1)]
    granule = 0
    for sequence, page in enumerate(packets, start=2):
        granule = min(granule + 5_760 * len(page) + jump, 2**63 - 1)
        pages.append(ogg_page(page, serial=serial, sequence=sequence, granule=granule))
    return b"".join(pages)


#: 120 ms of nothing: six frames without a byte.
_QUIET: Final = b"\xfb\x06"
OGGS: Final[dict[str, Callable[[], Parts]]] = {
    "opus as it should be": lambda: [opus([[_QUIET] * 10])],
    "opus of a day": lambda: [opus([[_QUIET] * 255] * 2_824)],
    "opus of 300,000 years": lambda: [opus([[_QUIET]] * 10, jump=2**59)],
    "opus of granules before the beginning": lambda: [opus([[_QUIET]] * 10, jump=-(2**40))],
    "opus with 4 billion tags": lambda: [opus([[_QUIET]], tags=struct.pack("<II", 0, _MOST))],
    "opus with a vendor of 4 GB": lambda: [opus([[_QUIET]], tags=struct.pack("<II", _MOST, 0))],
    "opus of 2,000 chained streams": lambda: [opus([[_QUIET]], serial=1) * 2_000],
    "opus of 2,000 streams after another": lambda: [b"".join(opus([[_QUIET]], serial=i) for i in range(2_000))],
    "ogg of 1,000 streams at once": lambda: [
        b"".join(
            ogg_page([b"OpusHead\x01\x01" + struct.pack("<HIhB", 0, 48_000, 0, 0)], serial=i, kind=2)
            for i in range(1_000)
        ),
        opus([[_QUIET]], serial=5_000),
    ],
    "ogg of empty pages": lambda: [ogg_page([], kind=2) * 100_000],
    "ogg of pages of empty packets": lambda: [opus([[b""] * 255] * 1_000)],
    "ogg with a hole of a GiB": lambda: [opus([[_QUIET] * 10]), _GIB],
    "ogg of captures": lambda: [b"OggS" * 500_000],
}


def vorbis(original: bytes, *, pages: int) -> bytes:
    """Return the headers of a stream followed by pages of packets without audio."""
    headers, place = b"", 0
    while original[place + 6 : place + 14] == bytes(8):
        count = original[place + 26]
        length = 27 + count + sum(original[place + 27 : place + 27 + count])
        headers += original[place : place + length]
        place += length
    serial, sequence = struct.unpack_from("<II", original, 14)
    long = b"\x02" + bytes(1)
    return headers + b"".join(
        ogg_page([long] * 255, serial=serial, sequence=sequence + 2 + index, granule=(index + 1) * 255 * 1_024)
        for index in range(pages)
    )


FRAMES: Final = TAGS | FLACS | OGGS
