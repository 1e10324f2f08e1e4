"""Files of nested boxes (mp4, matroska) whose tables, depths and lengths are wrong or excessive."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The parts of a file: bytes, or a number for a hole of that many zeros.
Parts = list[bytes | int]

_RATE: Final = 16_000
_SOUND: Final = bytes(2 * _RATE)
_MOST: Final = 0xFFFF_FFFF


def box(name: str, *content: bytes, size: int | None = None) -> bytes:
    """Return an mp4 box, with a wrong ``size`` if given."""
    body = b"".join(content)
    return struct.pack(">I4s", (8 + len(body) if size is None else size) & _MOST, name.encode()) + body


def full(name: str, *content: bytes) -> bytes:
    return box(name, bytes(4), *content)


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


_STSD: Final = full(
    "stsd", numbers(1), box("sowt", bytes(6), struct.pack(">HHHIHHHHI", 1, 0, 0, 0, 1, 16, 0, 0, _RATE << 16))
)
_TABLES: Final = {
    "stts": full("stts", numbers(1, _RATE, 1)),
    "stsc": full("stsc", numbers(1, 1, _RATE, 1)),
    "stsz": full("stsz", numbers(2, _RATE)),
    "stco": full("stco", numbers(1, 32)),
}


def track(*, before: bytes = b"", kept_in: bytes | None = None, **tables: bytes) -> bytes:
    """Return a track with a second of silence.

    ``tables`` replace its sample tables, ``before`` are boxes before its media, and ``kept_in`` refers to another file
    with the audio.
    """
    chosen = _TABLES | tables
    stbl = box("stbl", _STSD, *chosen.values())
    dinf = box("dinf", full("dref", numbers(1), kept_in or box("url ", numbers(1))))
    minf = box("minf", full("smhd", bytes(4)), dinf, stbl)
    handler = full("hdlr", bytes(4), b"soun", bytes(13))
    mdia = box("mdia", full("mdhd", numbers(0, 0, _RATE, _RATE, 0)), handler, minf)
    return box("trak", full("tkhd", numbers(0, 0, 1, 0, _RATE), bytes(60)), before, mdia)


def mp4(*tracks: bytes, after: bytes = b"") -> Parts:
    moov = box("moov", full("mvhd", numbers(0, 0, _RATE, _RATE), bytes(80)), *tracks, after)
    return [box("ftyp", b"qt  ", bytes(4), b"qt  "), bytes(8), box("mdat", _SOUND), moov]


def nested(name: str, depth: int) -> bytes:
    """Return boxes nested this deep, 8 bytes for each."""
    return b"".join(struct.pack(">I4s", 8 * (depth - level), name.encode()) for level in range(depth))


def _fragments(number: int, samples: int) -> bytes:
    run = full("trun", numbers(samples, 0))
    one = box("moof", full("mfhd", numbers(1)), box("traf", full("tfhd", numbers(1)), run))
    return one * number


def _packed_movie(claimed: int, length: int) -> Parts:
    packed = zlib.compress(bytes(length), 9)
    cmov = box("cmov", box("dcom", b"zlib"), box("cmvd", numbers(claimed), packed))
    return [box("ftyp", b"qt  ", bytes(4), b"qt  "), box("moov", cmov)]


MP4: Final[dict[str, Callable[[], Parts]]] = {
    "mp4 as it should be": lambda: mp4(track()),
    "mp4 of 4 billion sizes in no bytes": lambda: mp4(track(stsz=full("stsz", numbers(0, _MOST)))),
    "mp4 of 4 billion equal sizes": lambda: mp4(track(stsz=full("stsz", numbers(1, _MOST)))),
    "mp4 of sizes of 4 GB": lambda: mp4(track(stsz=full("stsz", numbers(0, 4, *[_MOST] * 4)))),
    "mp4 of 4 billion samples in one entry": lambda: mp4(track(stts=full("stts", numbers(1, _MOST, _MOST)))),
    "mp4 of 2 million times": lambda: mp4(track(stts=full("stts", numbers(2_000_000), bytes(16_000_000)))),
    "mp4 of 4 billion times in no bytes": lambda: mp4(track(stts=full("stts", numbers(_MOST)))),
    "mp4 of 4 million chunks": lambda: mp4(track(stco=full("stco", numbers(4_000_000), bytes(16_000_000)))),
    "mp4 of 4 billion chunks in no bytes": lambda: mp4(track(stco=full("stco", numbers(_MOST)))),
    "mp4 of chunks that are everywhere": lambda: mp4(
        track(stco=full("co64", numbers(2, _MOST, _MOST, 0x7FFF_FFFF, 1)))
    ),
    "mp4 of chunks of 4 billion samples": lambda: mp4(track(stsc=full("stsc", numbers(1, 1, _MOST, 1)))),
    "mp4 of a million chunk lengths": lambda: mp4(track(stsc=full("stsc", numbers(1_000_000), bytes(12_000_000)))),
    "mp4 of a million edits": lambda: mp4(
        track(before=box("edts", full("elst", numbers(1_000_000), numbers(1, 0, 1 << 16) * 1_000_000)))
    ),
    "mp4 of 4 billion edits in no bytes": lambda: mp4(track(before=box("edts", full("elst", numbers(_MOST))))),
    "mp4 of empty edits": lambda: mp4(
        track(before=box("edts", full("elst", numbers(3), numbers(_MOST, _MOST, 1) * 3)))
    ),
    "mp4 of a thousand tracks": lambda: mp4(*[track()] * 1_000),
    "mp4 of boxes 100,000 deep": lambda: mp4(track(), after=nested("udta", 100_000)),
    "mp4 of movies 100,000 deep": lambda: [nested("moov", 100_000)],
    "mp4 of a moov of a GiB": lambda: [box("ftyp", b"isom", bytes(4)), struct.pack(">I4s", 1 << 30, b"moov"), 1 << 30],
    "mp4 of a moov that claims all": lambda: [box("ftyp", b"isom", bytes(4)), box("moov", track(), size=_MOST)],
    "mp4 of a box of 2**63": lambda: [box("ftyp", b"isom", bytes(4)), struct.pack(">I4sQ", 1, b"mdat", 2**63 - 1)],
    "mp4 of a box of no size": lambda: [box("ftyp", b"isom", bytes(4)), box("moov", track(), size=0)],
    "mp4 whose index follows a GiB": lambda: [
        *mp4()[:3],
        struct.pack(">I4s", 8 + (1 << 30), b"free"),
        1 << 30,
        mp4(track())[3],
    ],
    "mp4 with a cover of 60 MB": lambda: mp4(track(), after=_cover(60_000_000)),
    "mp4 with a title of 10 MB": lambda: mp4(track(), after=box("udta", box("name", b"x" * 10_000_000))),
    "mp4 with 255 chapters": lambda: mp4(track(), after=box("udta", _chapters(255))),
    "mp4 of 50,000 fragments": lambda: [*mp4(track(), after=_extends()), _fragments(50_000, 0)],
    "mp4 of a fragment of 4 billion samples": lambda: [*mp4(track(), after=_extends()), _fragments(1, _MOST)],
    "mp4 whose index is packed": lambda: _packed_movie(64 << 20, 64 << 20),
    "mp4 whose packed index claims 4 GB": lambda: _packed_movie(_MOST, 1 << 20),
}


def _cover(length: int) -> bytes:
    picture = box("data", numbers(13, 0), bytes(length))
    return box("udta", full("meta", full("hdlr", bytes(4), b"mdirappl", bytes(10)), box("ilst", box("covr", picture))))


def _chapters(number: int) -> bytes:
    return full("chpl", bytes(4), bytes([number]), (bytes(8) + b"\xff" + b"c" * 255) * number)


def external_tracks(target: str) -> Iterator[tuple[str, Parts]]:
    """Yield movies whose audio is in another file or at an address."""
    yield "track behind a url", mp4(track(kept_in=full("url ", target.encode() + b"\0")))
    yield "track behind a urn", mp4(track(kept_in=full("urn ", b"a\0" + target.encode() + b"\0")))
    yield "track behind an alias", mp4(track(kept_in=full("alis", alias(target))))


def alias(path: str) -> bytes:
    """Return a Macintosh alias as FFmpeg reads it: fixed fields, then the absolute path as item 2."""
    name = path.rpartition("/")[2].encode()
    fixed = bytes(10) + b"\x01" + b"V".ljust(27, b"\0") + bytes(12)
    fixed += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + struct.pack(">hh", 1, 1) + bytes(16)
    item = ("V" + path.replace("/", ":")).encode()
    return fixed + struct.pack(">hH", 2, len(item)) + item + bytes(len(item) % 2) + struct.pack(">hH", -1, 0)


def _extends() -> bytes:
    return box("mvex", full("trex", numbers(1, 1, 1, 2, 0)))


def element(name: int, *content: bytes, size: int | None = None) -> bytes:
    """Return a matroska element, with a wrong ``size`` if given; -1 stands for an unknown size."""
    body = b"".join(content)
    length = len(body) if size is None else size
    coded = b"\x01" + b"\xff" * 7 if length == -1 else (length | 1 << 56).to_bytes(8, "big")
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + coded + body


def number(name: int, value: int) -> bytes:
    return element(name, value.to_bytes(8, "big"))


_SEGMENT, _INFO, _TRACKS, _TRACK, _CLUSTER, _BLOCK = 0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0x1F43B675, 0xA3
_HEAD: Final = element(0x1A45DFA3, element(0x4282, b"matroska"), number(0x4287, 4), number(0x4285, 2))


def mkv_track(index: int = 1, *more: bytes) -> bytes:
    sound = element(0xE1, element(0xB5, struct.pack(">d", _RATE)), number(0x9F, 1), number(0x6264, 16))
    return element(
        _TRACK,
        number(0xD7, index),
        number(0x73C5, index),
        number(0x83, 2),
        element(0x86, b"A_PCM/INT/LIT"),
        sound,
        *more,
    )


def mkv(*before: bytes, tracks: bytes | None = None, block: bytes = b"\x81\0\0\x80" + _SOUND) -> Parts:
    """Return a file with a second of silence in one block, and elements before its cluster."""
    info = element(_INFO, number(0x2AD7B1, 1_000_000))
    cluster = element(_CLUSTER, number(0xE7, 0), element(_BLOCK, block))
    return [
        _HEAD,
        element(_SEGMENT, info, element(_TRACKS, mkv_track() if tracks is None else tracks), *before, cluster),
    ]


def deep(name: int, depth: int) -> bytes:
    """Return elements nested this deep, each of the right length."""
    head = 8 + (name.bit_length() + 7) // 8
    return b"".join(element(name, size=head * (depth - level - 1)) for level in range(depth))


def _subtitles(index: int) -> bytes:
    return element(_TRACK, number(0xD7, index), number(0x73C5, index), number(0x83, 17), element(0x86, b"S_TEXT/UTF8"))


def _packed(length: int) -> tuple[bytes, bytes]:
    """Return a track whose blocks are compressed with zlib, and one block of ``length`` zeros."""
    encoding = element(0x6D80, element(0x6240, number(0x5033, 0), element(0x5034, number(0x4254, 0))))
    return mkv_track(1, encoding), b"\x81\0\0\x80" + zlib.compress(bytes(length), 9)


def _packed_mkv(length: int) -> Parts:
    tracks, block = _packed(length)
    return mkv(tracks=tracks, block=block)


def _stripped_mkv() -> Parts:
    """Return a file in which header stripping adds a megabyte to each block."""
    stripping = element(0x5034, number(0x4254, 3), element(0x4255, bytes(1 << 20)))
    tracks = mkv_track(1, element(0x6D80, element(0x6240, number(0x5033, 0), stripping)))
    blocks = element(_BLOCK, b"\x81\0\0\x80\0\0") * 20_000
    return [*mkv(tracks=tracks), element(_CLUSTER, number(0xE7, 0), blocks)]


MATROSKA: Final[dict[str, Callable[[], Parts]]] = {
    "mkv as it should be": mkv,
    "mkv with subtitles": lambda: mkv(tracks=mkv_track() + _subtitles(2)),
    "mkv of a thousand tracks": lambda: mkv(tracks=b"".join(mkv_track(index + 1) for index in range(1_000))),
    "mkv of tags 3,000 deep": lambda: mkv(element(0x1254C367, element(0x7373, deep(0x67C8, 3_000)))),
    "mkv of chapters 3,000 deep": lambda: mkv(element(0x1043A770, element(0x45B9, deep(0xB6, 3_000)))),
    "mkv of segments in segments": lambda: [_HEAD, deep(_SEGMENT, 3_000)],
    "mkv of 50,000 chapters": lambda: mkv(
        element(
            0x1043A770, element(0x45B9, *(element(0xB6, number(0x73C4, i), number(0x91, i)) for i in range(50_000)))
        )
    ),
    "mkv of 100,000 cues to itself": lambda: mkv(
        element(0x1C53BB6B, element(0xBB, number(0xB3, 0), element(0xB7, number(0xF7, 1), number(0xF1, 0))) * 100_000)
    ),
    "mkv of a seek head that finds itself": lambda: mkv(
        element(0x114D9B74, element(0x4DBB, element(0x53AB, b"\x11\x4d\x9b\x74"), number(0x53AC, 0)) * 1_000)
    ),
    "mkv of an attachment of 60 MB": lambda: mkv(
        element(
            0x1941A469,
            element(0x61A7, element(0x466E, b"a"), element(0x4660, b"a/b"), element(0x465C, bytes(60_000_000))),
        )
    ),
    "mkv of an attachment of 2**56": lambda: mkv(element(0x1941A469, element(0x61A7, element(0x465C, size=2**56 - 2)))),
    "mkv of a title of 20 MB": lambda: mkv(element(_INFO, element(0x7BA9, b"x" * 20_000_000))),
    "mkv of sizes that nobody knows": lambda: [
        _HEAD,
        element(_SEGMENT, element(_TRACKS, mkv_track(), size=-1), size=-1),
    ],
    "mkv of sizes of eight bytes of ones": lambda: [element(0x1A45DFA3, element(0x42F3, b"\xff" * 8), size=2**56 - 2)],
    "mkv with a hole of a GiB": lambda: [
        _HEAD,
        element(_SEGMENT, size=-1),
        element(0xEC, size=1 << 30),
        1 << 30,
        *mkv()[1:],
    ],
    "mkv of packed blocks": lambda: _packed_mkv(32 << 20),
    "mkv of stripped blocks": _stripped_mkv,
    "mkv of laces that lie": lambda: mkv(block=b"\x81\0\0\x82\xff" + b"\xff" * 300 + _SOUND),
    "mkv of laces of ebml that lie": lambda: mkv(block=b"\x81\0\0\x86\xff\x01" + b"\xff" * 7 + _SOUND),
    "mkv of a rate that is not a number": lambda: mkv(
        tracks=element(
            _TRACK,
            number(0xD7, 1),
            number(0x83, 2),
            element(0x86, b"A_PCM/FLOAT/IEEE"),
            element(0xE1, element(0xB5, b"\x7f\xf8" + bytes(6))),
        )
    ),
}
