"""Files that nobody would send by accident: every one follows from a seed and its number alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.random import Generator

    Change = Callable[[bytearray, Generator, "Mapping[str, bytes]"], None]

#: What headers are read from, by all that matters of a file.
_HEAD: Final = 512
_BYTES: Final = (0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0x20, 0x0A)
_SIZES: Final = (0, 1, -1, 7, 8, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFF8, 2**62)
_LARGEST: Final = 1 << 20
#: The names that sizes, tables and other structure stand beside.
_MARKS: Final = (
    *(b"fmt ", b"data", b"fact", b"LIST", b"RIFF", b"COMM", b"SSND", b"desc", b"pakt", b"kuki", b"caff", b".snd"),
    *(b"moov", b"trak", b"mdia", b"stbl", b"stsd", b"stts", b"stsc", b"stsz", b"stco", b"elst", b"esds", b"dref"),
    *(b"mvhd", b"tkhd", b"mdhd", b"moof", b"traf", b"trun", b"tfhd", b"mdat", b"udta", b"meta", b"ilst", b"dOps"),
    *(b"OggS", b"OpusHead", b"\x01vorbis", b"\x03vorbis", b"\x05vorbis", b"fLaC", b"ID3", b"TSSE", b"Xing", b"LAME"),
    *(b"hdrl", b"strl", b"strh", b"strf", b"movi", b"idx1", b"FLV\x01", b"onMetaData", b"#!AMR", b"\x1a\x45\xdf\xa3"),
    *(b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75", b"\x18\x53\x80\x67", b"\x63\xa2", b"\x00\x00\x01"),
    *(
        b"\xa1\xdc\xab\x8c",
        b"\x91\x07\xdc\xb7",
        b"\x40\x9e\x69\xf8",
        b"\x47\x40",
        b"\x0b\x77",
        b"\xff\xfb",
        b"\xff\xf1",
    ),
)


class Mutant(NamedTuple):
    """``name`` says what it was made of."""

    name: str
    content: bytes


class Series:
    """Endless mutants: three of four are of ``originals``, which are whole files, the fourth of ``others``."""

    def __init__(self, originals: Mapping[str, bytes], others: Mapping[str, bytes], *, seed: int) -> None:
        self._originals = list(originals.items())
        self._others = list(others.items())
        self._all = dict(originals) | dict(others)
        self._seed = seed

    def __getitem__(self, number: int) -> Mutant:
        """One file with one to four changes."""
        random = np.random.default_rng((self._seed, number))
        of = self._originals if number % 4 else self._others
        kind, base = of[int(random.integers(len(of)))]
        content, names = bytearray(base), [kind]
        for _ in range(int(random.integers(1, 5))):
            change = _CHANGES[int(random.integers(len(_CHANGES)))]
            change(content, random, self._all)
            del content[_LARGEST:]
            content = content or bytearray(1)
            names.append(change.__name__.strip("_"))
        return Mutant(", ".join(names), bytes(content))


def _place(content: bytearray, random: Generator) -> int:
    """Where something is done: mostly in the head, else anywhere."""
    end = len(content) if random.random() < 0.4 else min(len(content), _HEAD)
    return int(random.integers(end))


def _stretch(content: bytearray, random: Generator) -> slice:
    start = _place(content, random)
    return slice(start, start + int(2 ** random.uniform(0, 13)))


def _number(random: Generator) -> bytes:
    """A size that a field may claim, in 2, 3, 4 or 8 bytes of either order."""
    size = int(random.choice((2, 3, 4, 4, 4, 8)))
    value = _SIZES[int(random.integers(len(_SIZES)))] & (1 << 8 * size) - 1
    return value.to_bytes(size, "big" if random.random() < 0.5 else "little")


def _flip_bits(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    for _again in range(int(random.integers(1, 30))):
        content[_place(content, random)] ^= 1 << int(random.integers(8))


def _overwrite_bytes(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    for _again in range(int(random.integers(1, 30))):
        content[_place(content, random)] = int(random.choice(_BYTES)) if random.random() < 0.5 else _any_byte(random)


def _any_byte(random: Generator) -> int:
    return int(random.integers(256))


def _claim_a_size(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    number, place = _number(random), _place(content, random)
    content[place : place + len(number)] = number


def _claim_a_size_at_a_mark(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    """A field beside a name that structure has: before it as in an mp4, after it as in a wav, or further on."""
    found = [(mark, content.find(mark)) for mark in _MARKS]
    there = [(mark, place) for mark, place in found if place >= 0]
    if not there:
        return
    mark, place = there[int(random.integers(len(there)))]
    number = _number(random)
    start = max(0, place + (-len(number) if random.random() < 0.4 else len(mark) + int(random.choice((0, 4, 8, 12)))))
    content[start : start + len(number)] = number


def _lie_about_a_length(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    """What looks like a size in the head grows or shrinks a little."""
    place = _place(content, random)
    order: Literal["big", "little"] = "big" if random.random() < 0.5 else "little"
    value = int.from_bytes(content[place : place + 4], order)
    if value < 1 << 24:
        content[place : place + 4] = max(0, value + int(random.integers(-64, 65))).to_bytes(4, order)


def _remove(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    del content[_stretch(content, random)]


def _repeat(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    part = _stretch(content, random)
    times = int(random.choice((1, 2, 10, 100)))
    content[part.start : part.start] = (bytes(content[part]) * times)[:_LARGEST]


def _insert(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    place = _place(content, random)
    length = int(2 ** random.uniform(0, 12))
    content[place:place] = random.bytes(length) if random.random() < 0.5 else bytes([_any_byte(random)]) * length


def _swap(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    one, other = _stretch(content, random), _stretch(content, random)
    content[one], content[other] = content[other], content[one]


def _truncate(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    del content[int(random.integers(len(content))) + 1 :]


def _splice(content: bytearray, random: Generator, bases: Mapping[str, bytes]) -> None:
    """The rest becomes that of another format."""
    other = bases[list(bases)[int(random.integers(len(bases)))]]
    content[_place(content, random) :] = other[int(random.integers(len(other))) if random.random() < 0.5 else 0 :]


def _paste(content: bytearray, random: Generator, bases: Mapping[str, bytes]) -> None:
    """A part of another format in the middle."""
    other = bytearray(bases[list(bases)[int(random.integers(len(bases)))]])
    content[_stretch(content, random)] = other[_stretch(other, random)]


_CHANGES: Final[tuple[Change, ...]] = (
    _flip_bits,
    _overwrite_bytes,
    _claim_a_size,
    _claim_a_size_at_a_mark,
    _claim_a_size_at_a_mark,
    _lie_about_a_length,
    _remove,
    _repeat,
    _insert,
    _swap,
    _truncate,
    _splice,
    _paste,
)
