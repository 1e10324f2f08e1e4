"""The fields about speakers: what they ask for, what contradicts what, and what is ignored with a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from app.api.fields import Form
from app.api.forms import RESULT_FORMAT
from app.api.renderings import result_rendering
from app.api.submission import TRANSCRIPTION, TRANSLATION, Operation, Submission, SubmissionReader
from app.delivery.url_rules import UrlRules
from app.domain.access import AllowedHosts
from app.domain.errors import InvalidRequest
from app.domain.formats import Granularity, Rendering, ResponseFormat
from app.domain.job import Job
from app.domain.transcript import Diarization, TranscriptionOptions
from app.transcription.models import ModelRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping

MODELS: Final = ModelRegistry("small")
URL: Final = "https://bucket.s3.amazonaws.com/key?AWSAccessKeyId=A&Signature=secret&Expires=4102444800"
DIARIZED: Final = {"response_format": "diarized_json"}
CHANNELS: Final = {**DIARIZED, "multichannel": "true"}
#: The formats that need speakers.
OF_SPEAKERS: Final = [chosen for chosen in ResponseFormat if chosen in ("diarized_json", "rttm")]
NEEDS: Final = "it needs `diarize=true` or `response_format=diarized_json`"

Values = str | list[str]


def read(
    fields: Mapping[str, Values], *, references: int = 0, available: bool = True, operation: Operation = TRANSCRIPTION
) -> Submission:
    received = {name: value if isinstance(value, list) else [value] for name, value in fields.items()}
    reader = SubmissionReader(
        UrlRules(AllowedHosts()), has_webhook_secret=True, max_retention_seconds=60, diarization_available=available
    )
    return reader.read(received, has_file=True, reference_count=references, models=MODELS, operation=operation)


def rejection(fields: Mapping[str, Values], *, references: int = 0, available: bool = True) -> tuple[str | None, str]:
    """Return the ``param`` and the message for an invalid form."""
    with pytest.raises(InvalidRequest) as caught:
        read(fields, references=references, available=available)
    return caught.value.param, str(caught.value)


# What asks for speakers.


@pytest.mark.parametrize(
    "fields",
    [
        DIARIZED,
        {"response_format": "verbose_json", "diarize": "true"},
        {"response_format": "srt", "enable_diarization": "1"},
        {"response_format": "text", "diarize": "yes"},
        {"stored_output": "true", "diarize": "true"},
        {"upload_presigned_url": URL, "upload_format": "diarized_json"},
        {"response_format": "rttm"},
        {**DIARIZED, "stream": "true"},
        {**DIARIZED, "diarize": "false"},
    ],
)
@pytest.mark.parametrize("operation", [TRANSCRIPTION, TRANSLATION])
def test_speakers_are_told_apart_with_timed_words(fields: dict[str, Values], operation: Operation) -> None:
    submission = read(fields, operation=operation)
    assert submission.options == TranscriptionOptions(
        model="small", task=operation.task, diarization=Diarization(), word_timestamps=True
    )
    assert submission.rendering.granularities == {Granularity.SEGMENT}
    assert submission.warnings == ()


@pytest.mark.parametrize("fields", [{}, {"diarize": "false"}, {"enable_diarization": ""}, {"num_speakers": ""}])
def test_speakers_are_not_told_apart_unless_asked_for(fields: dict[str, Values]) -> None:
    assert read(fields).options == TranscriptionOptions(model="small")
    assert read(fields).warnings == ()


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        ({"num_speakers": "2"}, Diarization(min_speakers=2, max_speakers=2)),
        ({"min_speakers": "2"}, Diarization(min_speakers=2)),
        ({"max_speakers": "32"}, Diarization(max_speakers=32)),
        ({"min_speakers": "3", "max_speakers": "3"}, Diarization(min_speakers=3, max_speakers=3)),
    ],
)
def test_number_of_speakers_is_limited(fields: dict[str, Values], limits: Diarization) -> None:
    assert read({**DIARIZED, **fields}).options.diarization == limits


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["Anna", "Bob"], ("Anna", "Bob")),
        ('["Bob", "Anna, her sister"]', ("Bob", "Anna, her sister")),
        (" Zoë , Bob", ("Zoë", "Bob")),
        ("x" * 64, ("x" * 64,)),
    ],
)
def test_known_speakers_are_named_in_the_order_of_their_references(names: Values, known: tuple[str, ...]) -> None:
    assert read({**DIARIZED, "known_speaker_names[]": names}, references=len(known)).options.known_speakers == known


# Channels.


def test_channels_alone_are_as_before() -> None:
    assert read(CHANNELS).options == TranscriptionOptions(model="small", multichannel=True)


@pytest.mark.parametrize("fields", [{**CHANNELS, "diarize": "true"}, {"multichannel": "1", "diarize": "1"}])
def test_channels_are_speakers_if_asked_for(fields: dict[str, Values]) -> None:
    options = read({**fields, "stored_output": "true"}).options
    assert options.diarization == Diarization()
    assert options.multichannel


def test_names_without_references_are_those_of_channels() -> None:
    options = read({**CHANNELS, "known_speaker_names": ["Anna", "Bob"]}).options
    assert (options.diarization, options.known_speakers) == (Diarization(), ("Anna", "Bob"))


@pytest.mark.parametrize("name", ["num_speakers", "min_speakers", "max_speakers"])
def test_number_of_speakers_has_no_effect_on_channels(name: str) -> None:
    submission = read({**CHANNELS, "diarize": "true", name: "2"})
    assert submission.options.diarization == Diarization()
    assert submission.warnings == (f"`{name}` was ignored: with `multichannel=true` each channel is a speaker.",)


# Contradictions and invalid values.


@pytest.mark.parametrize("other", ["min_speakers", "max_speakers"])
def test_exact_number_and_its_limits_exclude_each_other(other: str) -> None:
    assert rejection({**DIARIZED, "num_speakers": "2", other: "2"}) == (
        "num_speakers",
        "`num_speakers` is the exact number of speakers: leave out `min_speakers` and `max_speakers`, or leave it out "
        "and send these.",
    )


def test_limits_must_be_in_order() -> None:
    assert rejection({**DIARIZED, "min_speakers": "3", "max_speakers": "2"}) == (
        "min_speakers",
        "`min_speakers` must be at most `max_speakers`, got 3 and 2: swap them, or leave one out.",
    )


def test_names_require_references_or_channels() -> None:
    assert rejection({**DIARIZED, "known_speaker_names": "Anna"}) == (
        "known_speaker_names",
        "`known_speaker_names` requires `known_speaker_references`, a recording of each voice: send them, or "
        "`multichannel=true` if each speaker has a channel.",
    )


@pytest.mark.parametrize(("names", "references"), [([], 1), (["Anna"], 2), (["Anna", "Bob"], 1)])
def test_each_name_needs_one_reference(names: list[str], references: int) -> None:
    assert rejection({**DIARIZED, "known_speaker_names[]": names}, references=references) == (
        "known_speaker_references",
        f"`known_speaker_references` must be as many as `known_speaker_names`, got {references} and {len(names)}: send "
        "one for each name, in the same order.",
    )


def test_references_and_channels_exclude_each_other() -> None:
    assert rejection({**CHANNELS, "diarize": "true", "known_speaker_names": "Anna"}, references=1) == (
        "known_speaker_references",
        "`known_speaker_references` and `multichannel=true` exclude each other: leave out the references, and "
        "`known_speaker_names` are the names of the channels.",
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Anna", ""], "have no empty name: leave the name out, or fill it in."),
        ('["", "Anna"]', "have no empty name: leave the name out, or fill it in."),
        (["Anna", "Bob", "Anna "], "have different names, got Anna, Bob, Anna."),
        ("x" * 65, f"have names of at most 64 characters, got {'x' * 60}…."),
        ("Anna\u202ebaB", "have names without control characters, got Anna\u202ebaB."),
        ('["An\\nna"]', "have names without control characters, got An\nna."),
    ],
)
def test_unusable_name_is_rejected(names: Values, message: str) -> None:
    assert rejection({"known_speaker_names[]": names}) == (
        "known_speaker_names",
        f"`known_speaker_names` must {message}",
    )


@pytest.mark.parametrize("name", ["num_speakers", "min_speakers", "max_speakers"])
@pytest.mark.parametrize("value", ["0", "33"])
def test_number_of_speakers_out_of_range_is_rejected(name: str, value: str) -> None:
    assert rejection({name: value}) == (name, f"`{name}` must be between 1 and 32, got {value}.")


# What is ignored.


@pytest.mark.parametrize("name", ["num_speakers", "min_speakers", "max_speakers", "known_speaker_names"])
def test_hint_without_speakers_is_ignored_with_a_warning(name: str) -> None:
    submission = read({"response_format": "verbose_json", f"{name}": "2"})
    assert submission.warnings == (f"`{name}` was ignored: {NEEDS}.",)
    assert submission.options == TranscriptionOptions(model="small")


def test_unused_names_and_references_are_ignored_without_contradiction() -> None:
    submission = read({"response_format": "srt", "known_speaker_names": "Anna"}, references=2)
    assert submission.options.known_speakers == ()
    assert submission.warnings == (
        f"`known_speaker_names` was ignored: {NEEDS}.",
        f"`known_speaker_references` was ignored: {NEEDS}.",
    )


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "json"),
        ({"stream": "true"}, "a stream of json"),
        ({"stream": "true", "response_format": "text"}, "a stream of text"),
    ],
)
@pytest.mark.parametrize("name", ["diarize", "enable_diarization"])
def test_speakers_are_not_told_apart_if_they_have_no_place(fields: dict[str, Values], kind: str, name: str) -> None:
    submission = read({**fields, name: "true", "max_speakers": "2"})
    reason = f"{kind} has no place for speakers, use `response_format=diarized_json`"
    assert submission.warnings == (f"`{name}` was ignored: {reason}.", f"`max_speakers` was ignored: {reason}.")
    assert submission.options == TranscriptionOptions(model="small")


# A server without a model for voices.


@pytest.mark.parametrize("chosen", OF_SPEAKERS)
@pytest.mark.parametrize("name", ["response_format", "upload_format"])
def test_formats_of_speakers_need_channels_where_voices_cannot_be_told_apart(name: str, chosen: ResponseFormat) -> None:
    assert rejection({"upload_presigned_url": URL, name: chosen.value}, available=False) == (
        name,
        f"`{name}` {chosen.value} requires `multichannel=true` on this server, which has DIARIZATION_MODEL=none: "
        "record each speaker on a channel, or use verbose_json.",
    )


def test_diarize_is_ignored_where_voices_cannot_be_told_apart() -> None:
    submission = read({"stored_output": "true", "diarize": "true", "num_speakers": "2"}, available=False)
    reason = "this server can't tell voices apart (DIARIZATION_MODEL=none)"
    assert submission.warnings == (f"`diarize` was ignored: {reason}.", f"`num_speakers` was ignored: {reason}.")
    assert submission.options == TranscriptionOptions(model="small")


def test_channels_are_speakers_on_every_server() -> None:
    submission = read({**CHANNELS, "known_speaker_names": "Anna"}, available=False)
    assert (submission.options.known_speakers, submission.warnings) == (("Anna",), ())


# Stored results.


def stored(**options: object) -> Job:
    return Job(
        id="4f0c",
        accepted_at=0,
        model="small",
        options=TranscriptionOptions(**options),  # type: ignore[arg-type]  # the options of each test
        rendering=Rendering(),
    )


@pytest.mark.parametrize("chosen", OF_SPEAKERS)
def test_result_without_speakers_has_no_format_of_speakers(chosen: ResponseFormat) -> None:
    query = Form({RESULT_FORMAT.name: [chosen.value]})
    with pytest.raises(InvalidRequest) as caught:
        result_rendering(query, stored())
    assert (caught.value.param, str(caught.value)) == (
        "response_format",
        f"`response_format` {chosen.value} needs speakers, which this job was submitted without: use verbose_json, or "
        "submit a new job with `diarize=true`.",
    )
    for job in (stored(multichannel=True), stored(diarization=Diarization())):
        assert result_rendering(query, job).format is chosen


def test_document_is_no_format_of_responses() -> None:
    assert rejection({"response_format": "document"})[1].startswith("`response_format` must be one of json, text, srt")
