"""The files that are the result of a job: their names, and how they are written and read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import ConfigDict, TypeAdapter

from app.domain.corrections import Corrections
from app.domain.transcript import Transcript  # noqa: TC001  # pydantic reads the annotation
from app.domain.waveform import Waveform

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULT: Final = "result.json"
WAVEFORM: Final = "waveform.json"
CORRECTIONS: Final = "corrections.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """A finished transcription as it is written to the disk. ``processing_time`` is in seconds.

    Results of earlier versions lack members that have a default.
    """

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="constants")  # of its parts too

    transcript: Transcript
    processing_time: float


@cache
def _stored_results() -> TypeAdapter[StoredResult]:
    """Return the adapter between results and JSON. It is built once, by the first result that is stored or read."""
    return TypeAdapter(StoredResult)


def result_files(
    transcript: Transcript, *, processing_time: float, waveform: Waveform | None
) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the files that are a result, in the order in which they are to be stored."""
    if waveform is not None:  # before the result, because a job with a result is not transcribed again
        yield WAVEFORM, _json(waveform.to_dict())
    stored = StoredResult(transcript=transcript, processing_time=processing_time)
    yield RESULT, _stored_results().dump_json(stored)


def corrections_file(corrections: Corrections) -> bytes:
    """Return the content of a file of corrections."""
    return _json(corrections.to_dict())


def read_result(content: bytes) -> StoredResult:
    return _stored_results().validate_json(content)


def read_waveform(content: bytes) -> Waveform:
    return Waveform.from_dict(json.loads(content))


def read_corrections(content: bytes) -> Corrections:
    return Corrections.from_dict(json.loads(content))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
