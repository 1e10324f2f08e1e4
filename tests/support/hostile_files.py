"""All hostile files: those that were thought of, and mutants without end."""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.support.hostile_boxes import MATROSKA, MP4, external_tracks
from tests.support.hostile_chunks import CHUNKS
from tests.support.hostile_frames import FRAMES, vorbis
from tests.support.hostile_lists import lists, reference_movies
from tests.support.mutations import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.foreign_place import Place
    from tests.support.hostile_boxes import Parts

_MADE: Final = CHUNKS | FRAMES | MP4 | MATROSKA
_SMALL: Final = 1 << 16


class Hostile(NamedTuple):
    """A file to be made. One that ``is_list`` has no sound of its own."""

    name: str
    parts: Callable[[], Parts]
    is_list: bool = False


def handmade(here: Place, whole: dict[str, bytes], *, large: bool = True) -> Iterator[Hostile]:
    """Everything that was thought of; what has a GiB to be read only where ``large``."""
    for name, content in lists():
        yield Hostile(name, lambda content=content: [content], is_list=True)  # type: ignore[misc]
    for target in (f"{here.folder}/loud.mov", "loud.mov", f"http://127.0.0.1:{here.tcp}/a.mov"):
        for name, content in reference_movies(target):
            yield Hostile(f"{name} to {target}", lambda content=content: [content], is_list=True)  # type: ignore[misc]
        for name, parts in external_tracks(target):
            yield Hostile(f"{name} to {target}", lambda parts=parts: parts)  # type: ignore[misc]
    for name, make in _MADE.items():
        if large or "a GiB" not in name:
            yield Hostile(name, make)
    yield Hostile("vorbis of two hours", lambda: [vorbis(whole["ogg-vorbis"], pages=1_300)])


def series(whole: dict[str, bytes], *, seed: int) -> Series:
    """Mutants of the supported formats, and of what was thought of, where it is small."""
    return Series(whole, _small(), seed=seed)


@cache
def _small() -> dict[str, bytes]:
    small = dict(itertools.islice(lists(), 0, None, 4))
    for name, make in _MADE.items():
        parts = [] if "a GiB" in name else make()
        if 0 < sum(part if isinstance(part, int) else len(part) for part in parts) < _SMALL:
            small[name] = b"".join(bytes(part) for part in parts)
    return small


def mutants(from_: Series, numbers: range) -> Iterator[Hostile]:
    for number in numbers:
        made = from_[number]
        yield Hostile(f"mutant {number} ({made.name})", lambda content=made.content: [content])  # type: ignore[misc]


def everything(here: Place, whole: dict[str, bytes], *, files: int, seed: int, large: bool) -> Iterator[Hostile]:
    """So many files: first those that were thought of."""
    made = list(itertools.islice(handmade(here, whole, large=large), files))
    yield from made
    yield from mutants(series(whole, seed=seed), range(files - len(made)))
