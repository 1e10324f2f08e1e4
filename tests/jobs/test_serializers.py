"""The documents that are PUT, key by key."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api import schemas
from app.domain.formats import Granularity, Rendering, ResponseFormat
from app.domain.job import Delivery, Job, JobStatus, LiveJob, Progress, Target, Upload, Webhook
from app.domain.transcript import Diarization, TranscriptionOptions
from app.jobs.estimate import Estimate
from app.jobs.retention import Retention
from app.jobs.serializers import Backlogs, body, extras, failure_document, job_view, success_document, to_json
from app.jobs.service_clock import Moment
from tests.domain.strategies import TEXTS, unhurried
from tests.jobs.rig import a_job
from tests.support.fake_transcriber import GREETING

SEGMENT, WORD = Granularity
ID = "0b6e4b3c-2f0c-4b3a-9d55-0f6a5a3f7f10"
SUCCESS = ["job_id", "status", "task", "language", "duration", "text", "segments", "usage", "model", "processing_time"]


def failed(*, at: float) -> Job:
    """Return a failed job that was first on the model at 1000."""
    job = a_job(id=ID, error="No audio.", error_type="UndecodableAudio")
    return job.moved_to(JobStatus.PROCESSING, at=1000.0).moved_to(JobStatus.FAILED, at=at)


def test_success_document_has_exactly_the_keys_of_the_contract() -> None:
    job = a_job()
    document = success_document(job, job.rendering, GREETING, processing_time=1.23456)
    assert list(document) == SUCCESS
    assert document | {"segments": len(document["segments"])} == {
        "job_id": job.id,
        "status": "completed",
        "task": "transcribe",
        "language": "german",
        "duration": 10.0,
        "text": "Grüße an alle.",
        "segments": 2,
        "usage": {"type": "duration", "seconds": 10},
        "model": "small",
        "processing_time": 1.235,
    }
    assert len(document["segments"][0]) == 10


def test_words_metadata_and_warnings_are_added_if_present() -> None:
    job = a_job(
        rendering=Rendering(granularities=frozenset({WORD})), metadata={"call": "17"}, warnings=("It was late.",)
    )
    document = success_document(job, job.rendering, GREETING, processing_time=1.0)
    assert document.keys() - set(SUCCESS) == {"words", "metadata", "warnings"}
    place = {"segment": 0, "offset": 1}
    assert document["words"][0] == {"word": "Grüße", "start": 0.5, "end": 4.0, "probability": 0.9, **place}
    assert document["metadata"] == {"call": "17"}
    assert document["warnings"] == ["It was late."]


def test_languages_are_in_the_document_if_there_are_several() -> None:
    transcript = replace(GREETING, languages=("de", "en"))
    job = a_job()
    document = success_document(job, job.rendering, transcript, processing_time=1.0)
    assert document["languages"] == [{"code": "de"}, {"code": "en"}]


def test_failure_document_has_exactly_the_keys_of_the_contract() -> None:
    job = failed(at=1000.5)
    assert failure_document(job) == {
        "job_id": job.id,
        "status": "failed",
        "error": "No audio.",
        "error_type": "UndecodableAudio",
        "processing_time": 0.5,
    }
    assert failure_document(replace(job, metadata={"call": "17"}))["metadata"] == {"call": "17"}


def test_failure_document_counts_from_the_first_slot_to_the_end() -> None:
    assert failure_document(failed(at=1002.34567))["processing_time"] == 2.346
    assert failure_document(failed(at=990.0))["processing_time"] == 0.0  # the clock was set back
    never_on_the_model = a_job(id=ID, error="No audio.", error_type="Oops").moved_to(JobStatus.FAILED, at=1002.0)
    assert failure_document(never_on_the_model)["processing_time"] == 0.0


def test_empty_metadata_is_returned_but_absent_metadata_is_not() -> None:
    assert extras(a_job(metadata={})) == {"metadata": {}}
    assert extras(a_job()) == {}


def test_document_is_unescaped_json() -> None:
    job = a_job(metadata={"who": "Zoë"})
    content = body(job, Rendering(format=ResponseFormat.DOCUMENT), GREETING, processing_time=1.0)
    assert json.loads(content) == success_document(job, job.rendering, GREETING, processing_time=1.0)
    assert "Grüße" in content.decode()
    assert "Zoë" in content.decode()


@pytest.mark.parametrize("format_", [ResponseFormat.TEXT, ResponseFormat.SRT, ResponseFormat.VTT])
def test_plain_bodies_have_only_the_transcript(format_: ResponseFormat) -> None:
    job = a_job(metadata={"call": "17"}, warnings=("It was late.",))
    text = body(job, Rendering(format=format_), GREETING, processing_time=1.0).decode()
    assert "Grüße" in text
    assert "17" not in text
    assert "late" not in text


def test_json_bodies_have_the_warnings() -> None:
    job = a_job(warnings=("It was late.",))
    content = body(job, Rendering(format=ResponseFormat.VERBOSE_JSON), GREETING, processing_time=1.0)
    assert json.loads(content)["warnings"] == ["It was late."]


def test_job_view_has_exactly_the_documented_fields() -> None:
    """A field that is added to the view or to the schema alone fails here."""
    url = "https://b.example/key"
    values: dict[str, Any] = {
        "uploads": (Upload(url=url, format=ResponseFormat.JSON, expires_at=9e9),) * 2,
        "delivery": Delivery(targets=(Target(last_error="HTTP 503"),) * 2, next_attempt_at=1.0),
        "webhook": Webhook(url=url),
        "webhook_delivery": Delivery(),
        "name": "call.mp3",
        "options": TranscriptionOptions(multichannel=True, diarization=Diarization()),
        "processing_time": 1.5,
        "metadata": {"call": "17"},
        "warnings": ("It was late.",),
        "error": "No audio.",
        "error_type": "UndecodableAudio",
        "starts": 1,
        "audio_duration": 10.0,
        "language": "german",
        "has_result": True,
        "keep_audio": True,
        "edited_at": 2.5,
    }
    job = a_job(**values).moved_to(JobStatus.PROCESSING, at=1.0).moved_to(JobStatus.FAILED, at=2.0)
    view = job_view(
        LiveJob(job),
        now=Moment(unix=3.0, service_seconds=1.0),
        retention=Retention(finished_seconds=1.0, undelivered_seconds=1.0),
        queue_position=1,
        eta_seconds=1.0,
    )
    assert {*view, "result"} == schemas.Job.__annotations__.keys()
    assert view["delivery"].keys() == schemas.Delivery.__annotations__.keys()
    for upload in view["delivery"]["uploads"]:
        assert upload.keys() == schemas.UploadState.__annotations__.keys()


def test_time_left_is_that_of_the_slower_work() -> None:
    now = 0.0
    estimate = Estimate(slots=1, clock=lambda: now)
    with estimate.model.at_work(), estimate.voices.at_work():
        now = 1.0
        estimate.model.done(100.0)
        estimate.voices.done(20.0)
    plain = LiveJob(a_job()).progressed(Progress.decoded, 600.0)
    heard = LiveJob(a_job(options=TranscriptionOptions(diarization=Diarization()))).progressed(Progress.decoded, 600.0)
    backlogs = Backlogs([plain, heard], estimate)
    assert backlogs.seconds_left(plain) == pytest.approx(12.0)
    assert backlogs.seconds_left(heard) == pytest.approx(30.0)
    heard = heard.progressed(Progress.transcribed, language="german", percent=100.0)
    heard = heard.progressed(Progress.heard, percent=50.0)
    assert Backlogs([plain, heard], estimate).seconds_left(heard) == pytest.approx(15.0)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=10,
)


@unhurried
@given(st.dictionaries(st.text(), VALUES))
def test_json_is_read_as_the_value_it_was_made_of(value: dict[str, Any]) -> None:
    assert json.loads(to_json(value)) == value


def test_json_is_compact_with_characters_as_they_are() -> None:
    assert to_json({"a": [1, 2.5, None], "ß": "你 😀\u2028"}) == '{"a":[1,2.5,null],"ß":"你 😀\u2028"}'.encode()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_no_number_that_json_lacks(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"segments": [{"text": "NaN", "avg_logprob": number}]})
    assert json.loads(to_json({"text": f"{number} NaN Infinity"})) == {"text": f"{number} NaN Infinity"}
