"""The names of the objects of jobs, and which of them jobs still need.

``audio/ID``, ``references/ID/NUMBER``, for each result ``results/ID/RANDOM.result.json`` with its waveform beside it,
and for each edit ``results/ID/RANDOM.corrections.json``.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.jobs.results import CORRECTIONS
from app.jobs.spool import JOB_ID

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from app.cluster.object_store import ObjectInfo

_AUDIO: Final = "audio"
_REFERENCES: Final = "references"
_RESULTS: Final = "results"
#: The names in each folder. The first group is the id of the job.
NAMES: Final[Mapping[str, re.Pattern[str]]] = {
    _AUDIO: re.compile(rf"{_AUDIO}/({JOB_ID.pattern})"),
    _REFERENCES: re.compile(rf"{_REFERENCES}/({JOB_ID.pattern})/[1-9]"),
    _RESULTS: re.compile(rf"{_RESULTS}/({JOB_ID.pattern})/[0-9a-f]+\.[a-z.]+"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptObjects:
    """The objects that a job still needs: its audio with the references, and the result and corrections that it has."""

    needs_audio: bool
    result_name: str
    corrections_name: str = ""


def audio_object(job_id: str) -> str:
    return f"{_AUDIO}/{job_id}"


def reference_object(job_id: str, number: int) -> str:
    return f"{reference_folder(job_id)}/{number}"


def reference_folder(job_id: str) -> str:
    return f"{_REFERENCES}/{job_id}"


def result_folder(job_id: str) -> str:
    """Return the folder with all results of a job."""
    return f"{_RESULTS}/{job_id}"


def new_result_name(job_id: str) -> str:
    """Return a name that no result has."""
    return f"{job_id}/{secrets.token_hex(8)}"


def result_object(result_name: str, file: str) -> str:
    return f"{_RESULTS}/{result_name}.{file}"


def job_of_result(result_name: str) -> str:
    return result_name.partition("/")[0]


def is_of_result(object_name: str, result_name: str) -> bool:
    """Return whether an object is one of those that are a result."""
    return object_name.startswith(f"{_RESULTS}/{result_name}.")


def is_orphan(info: ObjectInfo, job: KeptObjects | None, *, before: datetime) -> bool:
    """Return whether ``job`` has no need of an object and never will.

    It is None if it doesn't exist. An object that is older than ``before`` is then one of no job to come either, and
    corrections that are older are none that are about to be committed or read.
    """
    if job is None:
        return info.modified < before
    if info.name.endswith(f".{CORRECTIONS}"):
        return info.modified < before and not is_of_result(info.name, job.corrections_name)
    if info.name.startswith(f"{_RESULTS}/"):
        return bool(job.result_name) and not is_of_result(info.name, job.result_name)
    return not job.needs_audio
