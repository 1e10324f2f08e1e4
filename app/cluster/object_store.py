"""The object store behind ``SPOOL_URL``: S3, or a shared folder. The one module that imports obstore."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, S3Store

from app.domain.errors import ServiceError, SpoolUnavailable
from app.domain.redaction import without_queries
from app.jobs.audio import ReceivedAudio, StoredAudio, new_hash
from app.jobs.space import disk_full
from app.jobs.spool import sync_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from obstore import BytesStream, WritableFile

logger = logging.getLogger(__name__)

#: The size of the parts in which large objects arrive. S3 takes up to 10,000 parts of at least 5 MiB.
_PART_BYTES: Final = 8 * 1024 * 1024
#: The parts of an object that are on their way at once; each takes `_PART_BYTES` of memory.
_PARTS_AT_ONCE: Final = 1
#: The least that is read from the network at once.
_CHUNK_BYTES: Final = 1024 * 1024
#: The names that are listed or deleted by one request.
_PAGE_OBJECTS: Final = 1000
_RETRY_AFTER_SECONDS: Final = 10
#: A request that fails is repeated for this long; after that its caller waits, or its client does.
RETRY_SECONDS: Final = 10.0
#: No request waits longer than this for the next bytes. There is no other limit: slow clients are read to slowly.
_READ_TIMEOUT: Final = timedelta(seconds=30)
_FULL_DISK: Final = re.compile(r"\(os error (28|122)\)")
#: Status codes that are no passing trouble, where obstore has no exception for them, and S3's own codes.
_REFUSAL: Final = re.compile(r"status code: 4(?!08|29)")
_CODE: Final = re.compile(r"<Code>([A-Za-z]+)</Code>")
#: obstore's names of files in a shared folder that have not arrived completely.
_STAGED: Final = re.compile(r".+#[0-9]+")
_AWAY: Final = "The server's object store can't be reached now: try again later."
_REFUSED: Final = "The server's object store refuses its requests: try again later, or ask the server's operator."


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object's name, and when it was written."""

    name: str
    modified: datetime


class ObjectStore:
    """Objects by name, below ``url``, which is ``s3://bucket/prefix`` or ``file:///folder``.

    S3 is set up by the standard ``AWS_*`` variables. Requests that fail are repeated for ``retry_seconds``. All methods
    block, and raise SpoolUnavailable if the store can't be reached; those that write to a folder raise DiskFull if it
    is full.

    Raises:
        ServiceError: the URL is no such URL.
    """

    def __init__(self, url: str, *, retry_seconds: float = RETRY_SECONDS) -> None:
        parts = urlsplit(url)
        is_plain = not (parts.query or parts.fragment or "@" in parts.netloc)
        self._url = url if is_plain else "one with credentials, a query or a fragment"
        self._folder: Path | None = None
        self._store: S3Store | LocalStore
        if is_plain and parts.scheme == "s3" and parts.netloc:
            self._store = _s3(url, retry_seconds=retry_seconds)
        elif is_plain and parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
            self._folder = Path(unquote(parts.path))
        else:
            raise ServiceError(
                f"SPOOL_URL must be s3://bucket/prefix or file:///folder, got {self._url or 'nothing'}. The variables "
                "AWS_* set the rest, such as credentials."
            )

    def open(self, folders: Sequence[str]) -> None:
        """Check that the store can be used. In a shared folder, create ``folders``, readable by their owner only.

        A store that is away may come back, so it is only reported.

        Raises:
            ServiceError: the store can't be used as it is set up.
        """
        if self._folder is not None:
            self._open_folder(self._folder, folders)
        try:
            next(iter(obstore.list(self._store, chunk_size=1)), None)
        except (BaseError, OSError) as exc:
            if _is_refusal(exc):
                raise ServiceError(
                    f"SPOOL_URL={self._url} can't be used: check it and the variables AWS_*. {_cause(exc)}"
                ) from exc
            logger.warning("⚠️ SPOOL_URL=%s can't be reached: %s", self._url, _cause(exc))

    def put(self, name: str, content: bytes) -> None:
        """Store an object; it replaces one of the same name."""
        with _translated():
            obstore.put(self._store, name, content, use_multipart=False)
            self._sync(name)

    def get(self, name: str) -> bytes:
        """Return an object.

        Raises:
            FileNotFoundError: there is none.
        """
        with _translated():
            return bytes(obstore.get(self._store, name).bytes())

    def has(self, name: str) -> bool:
        with _translated():
            try:
                obstore.head(self._store, name)
            except FileNotFoundError:
                return False
            return True

    def create(self, name: str) -> ArrivingObject:
        """Begin an object, which is there once it is complete."""
        return ArrivingObject(self, name)

    def open_object(self, name: str) -> ObjectReader:
        """Open an object for reading.

        Raises:
            FileNotFoundError: there is none.
        """
        with _translated():
            info = obstore.head(self._store, name)
        version = (info["e_tag"] or "").strip('"') or f"{info['last_modified'].timestamp()}-{info['size']}"
        return ObjectReader(self._store, name, size=info["size"], version=version)

    def pages(self, folder: str) -> Iterator[list[ObjectInfo]]:
        """Yield the objects whose names begin with ``folder`` and a slash, up to a thousand at a time."""
        with _translated():
            for page in obstore.list(self._store, f"{folder}/", chunk_size=_PAGE_OBJECTS):
                yield [ObjectInfo(info["path"], info["last_modified"]) for info in page]

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects that begin with ``folder`` and a slash."""
        return sorted(info.name for page in self.pages(folder) for info in page)

    def delete(self, names: Sequence[str]) -> None:
        """Remove those of the objects that exist."""
        for first in range(0, len(names), _PAGE_OBJECTS):
            self._delete(names[first : first + _PAGE_OBJECTS])

    def sweep(self, *, before: datetime) -> int:
        """Remove what was left, ``before`` a time, of objects whose process died while they arrived; return the number.

        S3 does that itself, by a rule of the bucket: AbortIncompleteMultipartUpload.
        """
        if self._folder is None:
            return 0
        stale = [path for path in self._folder.rglob("*#*") if _STAGED.fullmatch(path.name) and _is_older(path, before)]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def writer(self, name: str) -> WritableFile:
        """Return obstore's writer of an object."""
        return obstore.open_writer(self._store, name, buffer_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)

    def completed(self, name: str) -> None:
        """Make an object that was just written survive a power failure."""
        with _translated():
            self._sync(name)

    def _open_folder(self, root: Path, folders: Sequence[str]) -> None:
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in folders:
                (root / name).mkdir(mode=0o700, exist_ok=True)
            sync_folder(root)
            self._store = LocalStore(root)
        except OSError as exc:
            raise ServiceError(
                f"SPOOL_URL={self._url} can't be used ({exc.strerror}): use a folder that can be written."
            ) from exc

    def _delete(self, names: Sequence[str]) -> None:
        with _translated():
            if self._folder is None:
                obstore.delete(self._store, names)
                return
            for name in names:
                try:
                    obstore.delete(self._store, name)
                except FileNotFoundError:
                    continue

    def _sync(self, name: str) -> None:
        """Sync a file of a shared folder, and the folders that lead to it; S3 has stored its objects already."""
        if self._folder is not None:
            path = self._folder / name
            sync_file(path)
            for folder in path.relative_to(self._folder).parents:
                sync_folder(self._folder / folder)


class ArrivingObject:
    """An object that arrives in parts while its BLAKE2b is computed. All methods block.

    Memory holds up to two parts of it. It is not there before `complete`; either that or `abort` must be called.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store = store
        self._name = name
        self._writer = store.writer(name)
        self._hash = new_hash()
        self._size = 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes | bytearray) -> None:
        """Append to the object.

        Raises:
            DiskFull, SpoolUnavailable: it can't be stored, and must be aborted.
        """
        with _translated():
            self._writer.write(data)
        self._hash.update(data)
        self._size += len(data)

    def close(self) -> None:
        """Do nothing: the object is neither complete nor given up."""

    def complete(self) -> ReceivedAudio:
        """Store the object, all of which has been written.

        Raises:
            DiskFull, SpoolUnavailable: it may not be there.
        """
        with _translated():
            self._writer.close()
        self._store.completed(self._name)
        return ReceivedAudio(self._size, self.digest)

    def abort(self) -> None:
        """Give the object up, with the parts of it that have arrived.

        If `complete` has failed the parts stay, as after a kill.
        """
        if not self._writer.closed():
            with _translated():
                # Only an exception aborts the upload: `close` would store what there is.
                self._writer.__exit__(_Aborted, _Aborted(), None)


class _Aborted(Exception):
    """The object is not to be stored."""


class ObjectReader(StoredAudio):
    """An object opened for reading. It is read from the store as it is asked for, so it must not be removed before."""

    def __init__(self, store: S3Store | LocalStore, name: str, *, size: int, version: str) -> None:
        self._store = store
        self._name = name
        self._stream: BytesStream | None = None
        self._pending = memoryview(b"")
        self.size = size
        self.version = version

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, at most ``size`` if it is not negative; none at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK_BYTES), b""))
        if not self._pending:
            self._pending = memoryview(self._next_chunk())
        piece, self._pending = self._pending[:size], self._pending[size:]
        return bytes(piece)

    def read_range(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to ``end``, wherever `read` is."""
        end = min(end, self.size)
        with _translated():
            try:
                return bytes(obstore.get_range(self._store, self._name, start=start, end=end))
            except BaseError as exc:
                if "non-partial response" not in str(exc):
                    raise
            return self._range_of_whole(start, end)

    def close(self) -> None:
        self._stream = None

    def _next_chunk(self) -> bytes:
        with _translated():
            if self._stream is None:
                self._stream = obstore.get(self._store, self._name).stream(min_chunk_size=_CHUNK_BYTES)
            return next(self._stream, b"")

    def _range_of_whole(self, start: int, end: int) -> bytes:
        """Return a range from a store that obstore can't read one from.

        rclone 1.75 sends ranges with the status 200, which obstore takes for the whole object.
        """
        content, position = bytearray(), 0
        for chunk in obstore.get(self._store, self._name).stream(min_chunk_size=_CHUNK_BYTES):
            content += chunk[max(0, start - position) : max(0, end - position)]
            position += len(chunk)
            if position >= end:
                break
        return bytes(content)


def _s3(url: str, *, retry_seconds: float) -> S3Store:
    return S3Store.from_url(
        url,
        # An operator who sets an endpoint without TLS means it.
        client_options={"allow_http": True, "connect_timeout": "5s", "read_timeout": _READ_TIMEOUT, "timeout": "1day"},
        retry_config={
            "max_retries": 100,
            "retry_timeout": timedelta(seconds=retry_seconds),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
    )


@contextmanager
def _translated() -> Iterator[None]:
    """Translate failures of the store into errors of the service. FileNotFoundError stays as it is.

    Raises:
        DiskFull, SpoolUnavailable: instead of obstore's errors, and of those of the operating system.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as exc:
        if _FULL_DISK.search(str(exc)):
            raise disk_full() from exc
        logger.warning("⚠️ The object store failed: %s", _cause(exc))
        message = _REFUSED if _is_refusal(exc) else _AWAY
        raise SpoolUnavailable(message, retry_after_seconds=_RETRY_AFTER_SECONDS) from exc


def _cause(error: Exception) -> str:
    """Return the first line of an error, without queries of URLs, and S3's code for it."""
    text = str(error)
    code = _CODE.search(text)
    line = without_queries(text.partition("\n")[0].partition(": <")[0])
    return f"{line} ({code[1]})" if code else line


def _is_refusal(error: Exception) -> bool:
    """Return whether the store was reached, and refuses its use as it is set up."""
    return isinstance(error, PermissionDeniedError | UnauthenticatedError) or bool(_REFUSAL.search(str(error)))


def _is_older(path: Path, before: datetime) -> bool:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC) < before
    except FileNotFoundError:
        return False
