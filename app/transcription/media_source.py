"""The source of a decoding as FFmpeg sees it: a file without a name, or a part of one.

The decoder process loads this module by its path, so it imports nothing of this project.
"""

from __future__ import annotations

import errno
import os
import time
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The first page of a stream in an Ogg file (RFC 3533): the capture pattern, version 0 and the flag for it.
_FIRST_PAGE: Final = b"OggS\0\2"
_PAGE_HEAD_BYTES: Final = 27
#: Recordings of radio stations have a link for each title.
_MAX_LINKS: Final = 10_000
#: A file of such pages alone has 70 million, which would take a minute.
_MAX_FIRST_PAGES: Final = 10 * _MAX_LINKS
_CHUNK_BYTES: Final = 1 << 20


class Extent(NamedTuple):
    """A part of a file in bytes, up to its end if ``end`` is None."""

    start: int = 0
    end: int | None = None


class SilenceBudget:
    """The processor time, in seconds, that may pass without any audio coming out."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_spent = False
        self.renew()

    def renew(self) -> None:
        """Start again, because audio came out."""
        self._since = time.process_time()

    def lasts(self) -> bool:
        """Return False once the time has passed, and from then on."""
        self.is_spent = self.is_spent or time.process_time() - self._since > self.seconds
        return not self.is_spent


class AnonymousFile:
    """The source without its name, from which FFmpeg would guess a format or look for neighbours.

    It consists of ``extent``, and appears to end when the budget is spent.
    """

    def __init__(self, file: BinaryIO, budget: SilenceBudget, extent: Extent) -> None:
        self._file = file
        self._budget = budget
        self._start, self._end = extent
        if file.seekable():  # a test may use a pipe
            file.seek(self._start)

    def tell(self) -> int:
        return self._file.tell() - self._start

    def read(self, size: int) -> bytes:
        if self._end is not None:
            size = max(0, min(size, self._end - self._file.tell()))
        return self._file.read(size) if self._budget.lasts() else b""

    def seek(self, offset: int, whence: int) -> int:
        """Move the position. For a position before the file return an error code, as FFmpeg's own files do."""
        if whence == os.SEEK_END and self._end is not None:
            offset, whence = offset + self._end - self._start, os.SEEK_SET
        if whence == os.SEEK_SET:
            offset += self._start
            if offset < self._start:
                return -errno.EINVAL
        try:
            return self._file.seek(offset, whence) - self._start
        except (OSError, ValueError):
            return -errno.EINVAL


def ogg_links(file: BinaryIO, start: int) -> list[Extent]:
    """Return the links of a chained Ogg file that begins at ``start``: files joined without a change.

    Radio stations and recorders write them. FFmpeg 8.1 reads past the first link only if the next one has the same
    codec, rate and channels.
    """
    starts: list[int] = []
    group_end = -1  # the streams of a link begin one after the other
    for page in islice(_first_pages(file, start), _MAX_FIRST_PAGES):
        if page != group_end:
            starts.append(page)
        group_end = _page_end(file, page)
        if len(starts) == _MAX_LINKS:
            break
    if not starts or starts[0] != start:
        return [Extent(start)]
    return [Extent(*extent) for extent in zip(starts, [*starts[1:], None], strict=True)]


def _first_pages(file: BinaryIO, start: int) -> Iterator[int]:
    """Yield where the first pages of streams begin."""
    overlap = len(_FIRST_PAGE) - 1
    file.seek(start)
    chunk = file.read(_CHUNK_BYTES)
    while chunk:
        found = chunk.find(_FIRST_PAGE)
        while found >= 0:
            yield start + found
            found = chunk.find(_FIRST_PAGE, found + 1)
        start += max(1, len(chunk) - overlap)
        file.seek(start)
        chunk = file.read(_CHUNK_BYTES)


def _page_end(file: BinaryIO, page: int) -> int:
    file.seek(page + _PAGE_HEAD_BYTES - 1)
    segments = file.read(1)
    lacing = file.read(segments[0] if segments else 0)
    return page + _PAGE_HEAD_BYTES + len(lacing) + sum(lacing)
