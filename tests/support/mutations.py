"""Mutants of media files. Each is determined by a seed and its number alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.random import Generator

    Change = Callable[[bytearray, Generator, "Mapping[str, bytes]"], None]

#: The size of the head of a file, in which most changes are made.
_HEAD: Final = 512
_BYTES: Final = (0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0x20, 0x0A)
_SIZES: Final = (0, 1, -1, 7, 8, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFF8, 2**62)
_LARGEST: Final = 1 << 20
#: Names beside which sizes, tables and other structure are found.
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
    """A changed file, and a name that lists its original and the changes."""

    name: str
    content: bytes


class MutantSeries:
    """An infinite series of mutants: three of four are made of ``originals``, the fourth of ``others``."""

    def __init__(self, originals: Mapping[str, bytes], others: Mapping[str, bytes], *, seed: int) -> None:
        self._originals = list(originals.items())
        self._others = list(others.items())
        self._all = dict(originals) | dict(others)
        self._seed = seed

    def __getitem__(self, number: int) -> Mutant:
        """Return the mutant of this number, with one to four changes."""
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


def _position(content: bytearray, random: Generator) -> int:
    """Return a random position, mostly in the head."""
    end = len(content) if random.random() < 0.4 else min(len(content), _HEAD)
    return int(random.integers(end))


def _random_slice(content: bytearray, random: Generator) -> slice:
    start = _position(content, random)
    return slice(start, start + int(2 ** random.uniform(0, 13)))


def _number(random: Generator) -> bytes:
    """Return a size that a field may claim, in 2, 3, 4 or 8 bytes of either byte order."""
    size = int(random.choice((2, 3, 4, 4, 4, 8)))
    value = _SIZES[int(random.integers(len(_SIZES)))] & (1 << 8 * size) - 1
    return value.to_bytes(size, "big" if random.random() < 0.5 else "little")


def _flip_bits(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    for _again in range(int(random.integers(1, 30))):
        content[_position(content, random)] ^= 1 << int(random.integers(8))


def _overwrite_bytes(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    for _again in range(int(random.integers(1, 30))):
        content[_position(content, random)] = int(random.choice(_BYTES)) if random.random() < 0.5 else _any_byte(random)


def _any_byte(random: Generator) -> int:
    return int(random.integers(256))


def _claim_a_size(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    number, position = _number(random), _position(content, random)
    content[position : position + len(number)] = number


def _claim_a_size_at_a_mark(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    """Overwrite a field near a known name: before it as in mp4, after it as in wav, or a little later."""
    found = [(mark, content.find(mark)) for mark in _MARKS]
    there = [(mark, position) for mark, position in found if position >= 0]
    if not there:
        return
    mark, position = there[int(random.integers(len(there)))]
    number = _number(random)
    start = max(
        0, position + (-len(number) if random.random() < 0.4 else len(mark) + int(random.choice((0, 4, 8, 12))))
    )
    content[start : start + len(number)] = number


def _lie_about_a_length(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    """Increase or decrease something that looks like a size a little."""
    position = _position(content, random)
    order: Literal["big", "little"] = "big" if random.random() < 0.5 else "little"
    value = int.from_bytes(content[position : position + 4], order)
    if value < 1 << 24:
        content[position : position + 4] = max(0, value + int(random.integers(-64, 65))).to_bytes(4, order)


def _remove(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    del content[_random_slice(content, random)]


def _repeat(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    part = _random_slice(content, random)
    times = int(random.choice((1, 2, 10, 100)))
    content[part.start : part.start] = (bytes(content[part]) * times)[:_LARGEST]


def _insert(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    position = _position(content, random)
    length = int(2 ** random.uniform(0, 12))
    content[position:position] = random.bytes(length) if random.random() < 0.5 else bytes([_any_byte(random)]) * length


def _swap(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    one, other = _random_slice(content, random), _random_slice(content, random)
    content[one], content[other] = content[other], content[one]


def _truncate(content: bytearray, random: Generator, _: Mapping[str, bytes]) -> None:
    del content[int(random.integers(len(content))) + 1 :]


def _splice(content: bytearray, random: Generator, bases: Mapping[str, bytes]) -> None:
    """Replace the rest by that of another file."""
    other = bases[list(bases)[int(random.integers(len(bases)))]]
    content[_position(content, random) :] = other[int(random.integers(len(other))) if random.random() < 0.5 else 0 :]


def _paste(content: bytearray, random: Generator, bases: Mapping[str, bytes]) -> None:
    """Replace a part by a part of another file."""
    other = bytearray(bases[list(bases)[int(random.integers(len(bases)))]])
    content[_random_slice(content, random)] = other[_random_slice(other, random)]


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
