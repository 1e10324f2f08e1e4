"""All hostile files: handwritten ones and any number of mutants."""

from __future__ import annotations

import itertools
from functools import cache, partial
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.support.hostile_boxes import MATROSKA, MP4, external_tracks
from tests.support.hostile_chunks import CHUNKS
from tests.support.hostile_frames import FRAMES, vorbis
from tests.support.hostile_lists import lists, reference_movies
from tests.support.mutations import MutantSeries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.honeypot import Honeypot
    from tests.support.hostile_boxes import Parts

_MADE: Final = CHUNKS | FRAMES | MP4 | MATROSKA
_SMALL: Final = 1 << 16


class HostileFile(NamedTuple):
    """A file that is built when it is needed. One that ``is_list`` has no audio of its own."""

    name: str
    parts: Callable[[], Parts]
    is_list: bool = False


def handwritten_files(honeypot: Honeypot, originals: dict[str, bytes], *, large: bool = True) -> Iterator[HostileFile]:
    """Yield all handwritten files. Those with a GiB of data are only included if ``large``."""
    for name, content in lists():
        yield HostileFile(name, partial(_whole, content), is_list=True)
    for target in (f"{honeypot.folder}/loud.mov", "loud.mov", f"http://127.0.0.1:{honeypot.tcp}/a.mov"):
        for name, content in reference_movies(target):
            yield HostileFile(f"{name} to {target}", partial(_whole, content), is_list=True)
        for name, parts in external_tracks(target):
            yield HostileFile(f"{name} to {target}", partial(list, parts))
    for name, make in _MADE.items():
        if large or "a GiB" not in name:
            yield HostileFile(name, make)
    yield HostileFile("vorbis of two hours", partial(_two_hours, originals["ogg-vorbis"]))


def _whole(content: bytes) -> Parts:
    return [content]


def _two_hours(original: bytes) -> Parts:
    return [vorbis(original, pages=1_300)]


def mutant_series(originals: dict[str, bytes], *, seed: int) -> MutantSeries:
    """Return the mutants of the supported formats and of the small handwritten files."""
    return MutantSeries(originals, _small_files(), seed=seed)


@cache
def _small_files() -> dict[str, bytes]:
    small = dict(itertools.islice(lists(), 0, None, 4))
    for name, make in _MADE.items():
        parts = [] if "a GiB" in name else make()
        if 0 < sum(part if isinstance(part, int) else len(part) for part in parts) < _SMALL:
            small[name] = b"".join(bytes(part) for part in parts)
    return small


def mutants(series: MutantSeries, numbers: range) -> Iterator[HostileFile]:
    """Yield the mutants of a series with these numbers."""
    for number in numbers:
        mutant = series[number]
        yield HostileFile(f"mutant {number} ({mutant.name})", partial(_whole, mutant.content))


def fuzzed_files(
    honeypot: Honeypot, originals: dict[str, bytes], *, files: int, seed: int, large: bool
) -> Iterator[HostileFile]:
    """Yield this many files: the handwritten ones, evenly selected to about a half if they are more, then mutants."""
    handwritten = list(handwritten_files(honeypot, originals, large=large))
    handwritten = handwritten[:: max(1, 2 * len(handwritten) // files)]
    yield from handwritten
    yield from mutants(mutant_series(originals, seed=seed), range(files - len(handwritten)))
