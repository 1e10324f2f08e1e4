"""Whole forms: the request that each field leads to, and the message for each invalid one."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from app.api.submission import Submission, SubmissionReader
from app.delivery.url_rules import UrlRules
from app.domain.access import AllowedHosts
from app.domain.errors import InvalidRequest, RefusedUrl, UnknownModel
from app.domain.formats import Granularity, Rendering, ResponseFormat
from app.domain.job import Job, Upload
from app.domain.transcript import Script, SpeechDetection, Task, TranscriptionOptions
from app.transcription.models import MODEL_ALIASES, ModelRegistry

SEGMENT, WORD = Granularity
URL: Final = "https://bucket.s3.amazonaws.com/key?AWSAccessKeyId=A&Signature=secret&Expires=4102444800"
EXPIRED: Final = "https://bucket.s3.amazonaws.com/key?AWSAccessKeyId=A&Signature=secret&Expires=1000000000"
MULTILINGUAL: Final = ModelRegistry("small")
ENGLISH: Final = ModelRegistry("small.en")

if TYPE_CHECKING:
    from collections.abc import Mapping

Values = str | list[str]


def read(*, file: bool = True, models: ModelRegistry = MULTILINGUAL, **fields: str) -> Submission:
    return read_form(fields, file=file, models=models)


def read_form(
    fields: Mapping[str, Values], *, file: bool = True, models: ModelRegistry = MULTILINGUAL, signs: bool = True
) -> Submission:
    received = {name: value if isinstance(value, list) else [value] for name, value in fields.items()}
    return reader(signs=signs).read(received, has_file=file, models=models)


def reader(*, signs: bool = True) -> SubmissionReader:
    rules = UrlRules(AllowedHosts.parse("minio.local:9000"))
    return SubmissionReader(rules, has_webhook_secret=signs, max_retention_seconds=7200)


def rejection(
    fields: Mapping[str, Values], *, file: bool = True, models: ModelRegistry = MULTILINGUAL, signs: bool = True
) -> tuple[str, str | None]:
    """Return the message and the ``param`` for an invalid form."""
    with pytest.raises(InvalidRequest) as caught:
        read_form(fields, file=file, models=models, signs=signs)
    assert "secret" not in str(caught.value)
    return str(caught.value), caught.value.param


def test_file_alone_has_the_defaults() -> None:
    submission = read()
    assert submission.options == TranscriptionOptions(model="small")
    assert submission.options.task is Task.TRANSCRIBE
    assert submission.rendering.format is ResponseFormat.JSON
    assert submission.rendering.granularities == {SEGMENT}
    assert submission.synchronous
    assert (submission.source_url, submission.uploads, submission.metadata, submission.warnings) == (
        None,
        (),
        None,
        (),
    )


def test_every_option_reaches_the_model() -> None:
    submission = read_form(
        {
            "model": "whisper-1",
            "language": "German",
            "prompt": " Kubernetes, ",
            "temperature": "0.4",
            "beam_size": "2",
            "vad_filter": "false",
            "multichannel": "true",
            "condition_on_previous_text": "1",
            "keywords[]": ["gRPC", "etcd,Istio"],
            "timestamp_granularities[]": ["word"],
            "response_format": "verbose_json",
            "unheard_of": "x",
        }
    )
    assert submission.options == TranscriptionOptions(
        model="small",
        language="de",
        prompt=" Kubernetes, ",
        hotwords="gRPC, etcd, Istio",
        temperature=0.4,
        beam_size=2,
        word_timestamps=True,
        vad_filter=False,
        multichannel=True,
        condition_on_previous_text=True,
    )
    assert submission.rendering.format is ResponseFormat.VERBOSE_JSON
    assert submission.rendering.granularities == {WORD}
    assert submission.warnings == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp_granularities[]": ["segment", "word"]},
        {"timestamp_granularities": ["segment", "word"]},
        {"timestamp_granularities": "segment,word"},
        {"timestamp_granularities[]": "word, segment"},
        {"timestamp_granularities": "word", "timestamp_granularities[]": "segment"},
    ],
)
def test_granularities_are_parsed_in_every_spelling(fields: dict[str, Values]) -> None:
    submission = read_form(fields)
    assert submission.rendering.granularities == {SEGMENT, WORD}
    assert submission.options.word_timestamps


@pytest.mark.parametrize("text", ["json", "text", "srt", "vtt", "verbose_json", "SRT"])
def test_response_format_is_case_insensitive(text: str) -> None:
    assert read(response_format=text).rendering.format == text.lower()


@pytest.mark.parametrize("name", ["small", *MODEL_ALIASES, " small ", ""])
def test_served_model_and_its_alias_are_accepted(name: str) -> None:
    assert read_form({"model": name}) == read()


def test_unknown_model_is_rejected_with_openais_code() -> None:
    with pytest.raises(UnknownModel) as caught:
        read_form({"model": "large-v9"})
    assert str(caught.value) == (
        f"`model` must be small or {' or '.join(MODEL_ALIASES)}, got 'large-v9': use one of these or omit it. "
        "WHISPER_MODELS and WHISPER_MODEL_ALIASES add names."
    )
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"response_format": "xml"},
            "response_format",
            "`response_format` must be one of json, text, srt, vtt, lrc, tsv, verbose_json, diarized_json, rttm, "
            "got xml.",
        ),
        (
            {"response_format": "document"},
            "response_format",
            "`response_format` must be one of json, text, srt, vtt, lrc, tsv, verbose_json, diarized_json, rttm, "
            "got document.",
        ),
        (
            {"timestamp_granularities[]": "sentence"},
            "timestamp_granularities",
            "`timestamp_granularities` must be one of segment, word, got sentence.",
        ),
        ({"temperature": "1.5"}, "temperature", "`temperature` must be between 0 and 1, got 1.5."),
        ({"temperature": "warm"}, "temperature", "`temperature` must be a number between 0 and 1, got warm."),
        ({"beam_size": "0"}, "beam_size", "`beam_size` must be between 1 and 10, got 0."),
        ({"beam_size": "1.5"}, "beam_size", "`beam_size` must be a whole number between 1 and 10, got 1.5."),
        ({"vad_filter": "maybe"}, "vad_filter", "`vad_filter` must be true or false, got maybe."),
        (
            {"language": "klingon"},
            "language",
            "`language` must be an ISO-639-1 code such as en or de, got klingon. Leave it out to detect the language.",
        ),
        (
            {"no_speech_threshold": "1.5"},
            "no_speech_threshold",
            "`no_speech_threshold` must be between 0 and 1, got 1.5.",
        ),
        ({"log_prob_threshold": "1"}, "log_prob_threshold", "`log_prob_threshold` must be between -1000 and 0, got 1."),
        (
            {"compression_ratio_threshold": "none"},
            "compression_ratio_threshold",
            "`compression_ratio_threshold` must be a number between 0 and 1000, got none.",
        ),
        (
            {"vad_parameters": '{"threshold": 7}'},
            "vad_parameters[threshold]",
            "`vad_parameters[threshold]` must be between 0 and 1, got 7.",
        ),
        (
            {"vad_parameters[min_silence_duration_ms]": "0.5"},
            "vad_parameters[min_silence_duration_ms]",
            "`vad_parameters[min_silence_duration_ms]` must be a whole number between 0 and 30000, got 0.5.",
        ),
        (
            {"vad_parameters": '{"threshold": 0.4, "neg_threshold": 0.6}'},
            "vad_parameters[neg_threshold]",
            "`vad_parameters[neg_threshold]` must be at most the threshold, 0.4, got 0.6.",
        ),
        ({"vad_parameters": "[1]"}, "vad_parameters", "`vad_parameters` must be a JSON object, got [1]."),
        ({"vad_parameters": "{"}, "vad_parameters", "`vad_parameters` must be valid JSON: send a JSON object."),
        (
            {"vad_parameters[threshold]": "0.4", "chunking_strategy[type]": "server_vad"},
            "vad_parameters",
            "`vad_parameters` can't be combined with a `chunking_strategy` other than auto: both tune voice activity "
            "detection, so send one of them.",
        ),
        (
            {"keep_audio": "true"},
            "keep_audio",
            "`keep_audio` is for jobs: add `stored_output=true`, or leave it out. A synchronous request ends with its "
            "response, and keeps nothing.",
        ),
        (
            {"retention_seconds": "60"},
            "retention_seconds",
            "`retention_seconds` is for jobs: add `stored_output=true`, or leave it out. A synchronous request ends "
            "with its response, and keeps nothing.",
        ),
        (
            {"retention_seconds": "7200.5", "stored_output": "true"},
            "retention_seconds",
            "`retention_seconds` must be at most 7200 here, got 7200.5: ask for less, or raise MAX_RETENTION_SECONDS.",
        ),
        (
            {"retention_seconds": "-1", "stored_output": "true"},
            "retention_seconds",
            "`retention_seconds` must be between 0 and 315360000, got -1.",
        ),
        (
            {"include[]": "usage"},
            "include",
            "`include` must be one of logprobs, got usage.",
        ),
        ({"metadata": "{"}, "metadata", "`metadata` must be valid JSON: send a JSON object."),
        ({"replace": "a=b"}, "replace", "`replace` must be valid JSON: send a JSON object."),
        ({"replace[a]": ""}, "replace", "`replace` must replace a with 1 to 200 characters, got 0."),
        (
            {"metadata": '{"a": 1}'},
            "metadata",
            '`metadata` must be a JSON object of strings, such as {"key": "value"}.',
        ),
        (
            {"metadata": '{"a": "' + "x" * 4096 + '"}'},
            "metadata",
            "`metadata` must have at most 4096 bytes, got 4105.",
        ),
        (
            {"chunking_strategy": "manual"},
            "chunking_strategy",
            "`chunking_strategy` must be `auto`, or a JSON object whose `type` is `server_vad`.",
        ),
        (
            {"chunking_strategy": "{"},
            "chunking_strategy",
            "`chunking_strategy` must be valid JSON: send a JSON object.",
        ),
        (
            {"upload_headers": '{"a": "b"}'},
            "upload_headers",
            "`upload_headers` requires `upload_presigned_url`: send both or neither.",
        ),
        (
            {"upload_format": "srt"},
            "upload_format",
            "`upload_format` requires `upload_presigned_url`: send both or neither.",
        ),
        (
            {"upload_format": "xml", "upload_presigned_url": URL},
            "upload_format",
            "`upload_format` must be one of document, json, text, srt, vtt, lrc, tsv, verbose_json, diarized_json, "
            "rttm, got xml.",
        ),
        (
            {"language": ["de", "en"]},
            "language",
            "`language` was sent more than once with different values: send it once.",
        ),
        (
            {"stored_output": "perhaps"},
            "stored_output",
            "`stored_output` must be true or false, got perhaps.",
        ),
    ],
)
def test_invalid_field_is_rejected_with_its_own_message(fields: dict[str, Values], param: str, message: str) -> None:
    assert rejection(fields) == (message, param)


def test_false_and_blank_fields_are_accepted() -> None:
    assert read(stream="false", webhook_url="", include="", keep_audio="false").synchronous


def test_english_model_rejects_other_languages() -> None:
    assert read(language="en-GB", models=ENGLISH).options.language == "en"
    assert rejection({"language": "de"}, models=ENGLISH) == (
        "`language` must be en or absent, got de: the model small.en only knows English. Set WHISPER_MODEL to a "
        "multilingual model for other languages.",
        "language",
    )


def test_candidates_must_be_known_to_the_model() -> None:
    assert rejection({"languages[]": ["en", "de"]}, models=ENGLISH) == (
        "`languages` must be en or absent, got de: the model small.en only knows English. Set WHISPER_MODEL to a "
        "multilingual model for other languages.",
        "languages",
    )
    assert rejection({"languages[]": ["en", "klingon"]}) == (
        "`languages` must be an ISO-639-1 code such as en or de, got klingon. Leave it out to detect the language.",
        "languages",
    )


@pytest.mark.parametrize("languages", ["fr", "de,fr"])
def test_candidates_with_another_language_are_rejected(languages: str) -> None:
    message, param = rejection({"language": "de", "languages": languages})
    assert message == (
        "`languages` can't be combined with another `language`: send `language` if one language is spoken, or "
        "`languages` to choose among several."
    )
    assert param == "languages"


# The audio: a file or a URL.


@pytest.mark.parametrize("name", ["s3_presigned_url", "url", "audio_url"])
def test_source_url_has_three_names(name: str) -> None:
    submission = read_form({name: f" {URL} "}, file=False)
    assert submission.source_url == URL
    assert submission.synchronous


def test_json_escaped_url_is_decoded() -> None:
    escaped = URL.replace("&", "\\u0026").replace("/", "\\/")
    assert read(file=False, s3_presigned_url=escaped).source_url == URL
    (upload,) = read(upload_presigned_url=escaped).uploads
    assert upload.url == URL


def test_exactly_one_audio_is_required() -> None:
    message = "Send exactly one of `file` and `s3_presigned_url` as the audio, got"
    assert rejection({}, file=False) == (f"{message} none.", "file")
    with pytest.raises(InvalidRequest, match=r"got none\. The part `recording` holds a file: name it `file`\."):
        reader().read({}, has_file=False, ignored_file="recording", models=MULTILINGUAL)
    assert rejection({"url": URL}) == (f"{message} more than one.", "file")
    assert rejection({"url": URL, "audio_url": URL}, file=False) == (f"{message} more than one.", "file")


def test_file_sent_as_text_is_rejected_with_an_example() -> None:
    assert rejection({"file": "@audio.mp3"}, file=False) == (
        "`file` must be a file, got text: send the audio itself, for example with curl -F file=@audio.mp3.",
        "file",
    )


@pytest.mark.parametrize("name", ["s3_presigned_url", "url", "audio_url"])
@pytest.mark.parametrize(
    "url", ["http://bucket.s3.amazonaws.com/key", "https://127.0.0.1/key", "file:///etc/passwd", "key", EXPIRED]
)
def test_refused_source_url_is_named_as_it_was_sent(name: str, url: str) -> None:
    with pytest.raises(RefusedUrl) as caught:
        read_form({name: url}, file=False)
    assert caught.value.param == name
    assert str(caught.value).startswith(f"{name} ")
    assert "secret" not in str(caught.value)


def test_allowed_host_may_be_private_and_use_http() -> None:
    assert read(file=False, url="http://minio.local:9000/b/k").source_url == "http://minio.local:9000/b/k"


# The upload.


def test_upload_url_makes_a_job_that_uploads_a_document() -> None:
    submission = read(upload_presigned_url=URL, timestamp_granularities="word")
    assert not submission.synchronous
    (upload,) = submission.uploads
    assert (upload.url, upload.headers, upload.expires_at) == (URL, (), 4102444800)
    assert upload.format is ResponseFormat.DOCUMENT
    assert submission.rendering.granularities == {WORD}


@pytest.mark.parametrize(
    ("response_format", "uploaded"),
    [("json", "document"), ("verbose_json", "document"), ("diarized_json", "document")]
    + [(plain, plain) for plain in ("text", "srt", "vtt", "lrc", "tsv", "rttm")],
)
def test_upload_has_the_response_format_if_that_is_plain_text(response_format: str, uploaded: str) -> None:
    (upload,) = read(upload_presigned_url=URL, response_format=response_format).uploads
    assert upload.format == uploaded


@pytest.mark.parametrize("upload_format", sorted(ResponseFormat))
def test_upload_format_overrides_the_response_format(upload_format: ResponseFormat) -> None:
    form = {"upload_presigned_url": URL, "response_format": "srt", "upload_format": upload_format.value}
    (upload,) = read_form({**form, "multichannel": "true"}).uploads
    assert upload.format is upload_format


@pytest.mark.parametrize(
    "fields",
    [
        {"upload_headers": '{"Content-Type": "application/json", "x-a": "b"}'},
        {"upload_headers[Content-Type]": "application/json", "upload_headers[x-a]": "b"},
    ],
)
def test_upload_headers_are_parsed_in_either_spelling(fields: dict[str, Values]) -> None:
    (upload,) = read_form({"upload_presigned_url": URL, **fields}).uploads
    assert upload.headers == (("Content-Type", "application/json"), ("x-a", "b"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"upload_presigned_url": EXPIRED}, "upload_presigned_url"),
        ({"upload_presigned_url": "http://bucket.s3.amazonaws.com/key"}, "upload_presigned_url"),
        ({"upload_presigned_url": URL, "upload_headers": '{"Host": "a"}'}, "upload_headers"),
        ({"upload_presigned_url": URL + "&x-amz-checksum-crc32=AAAAAA=="}, "upload_presigned_url"),
    ],
)
def test_upload_that_cannot_succeed_is_rejected(fields: dict[str, str], param: str) -> None:
    with pytest.raises(RefusedUrl) as caught:
        read_form(fields)
    assert caught.value.param == param
    assert "secret" not in str(caught.value)


def several(*numbers: int) -> list[str]:
    """Return upload URLs of different objects."""
    return [URL.replace("/key", f"/key-{number}") for number in numbers]


def test_each_url_has_the_format_and_headers_of_the_same_place() -> None:
    form: dict[str, Values] = {
        "upload_presigned_url[]": several(1, 2, 3),
        "upload_format[]": ["srt", "document", "srt"],
        "upload_headers": ['{"x-a": "b"}', "{}", '{"x-c": "d"}'],
    }
    submission = read_form(form)
    assert [upload.url for upload in submission.uploads] == several(1, 2, 3)
    assert [upload.format.value for upload in submission.uploads] == ["srt", "document", "srt"]
    assert [upload.headers for upload in submission.uploads] == [(("x-a", "b"),), (), (("x-c", "d"),)]
    assert not submission.synchronous


@pytest.mark.parametrize(
    ("fields", "uploaded"),
    [({}, "document"), ({"response_format": "vtt"}, "vtt"), ({"upload_format": "text"}, "text")],
)
@pytest.mark.parametrize("headers", [{"upload_headers": '{"x-a": "b"}'}, {"upload_headers[x-a]": "b"}])
def test_one_format_and_one_object_of_headers_are_for_all_urls(
    fields: dict[str, str], headers: dict[str, str], uploaded: str
) -> None:
    uploads = read_form({"upload_presigned_url": several(1, 2), **fields, **headers}).uploads
    assert [(upload.format.value, upload.headers) for upload in uploads] == [(uploaded, (("x-a", "b"),))] * 2


def test_format_may_be_repeated_for_one_url() -> None:
    (upload,) = read_form({"upload_presigned_url": URL, "upload_format": ["srt", "srt"]}).uploads
    assert upload.format is ResponseFormat.SRT


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"upload_presigned_url": several(1, 2, 3), "upload_format": ["srt", "vtt"]},
            "upload_format",
            "`upload_format` must be sent once for all uploads, or once for each `upload_presigned_url`, got 2 for 3 "
            "of these.",
        ),
        (
            {"upload_presigned_url": URL, "upload_format": ["srt", "vtt"]},
            "upload_format",
            "`upload_format` must be sent once for all uploads, or once for each `upload_presigned_url`, got 2 for 1 "
            "of these.",
        ),
        (
            {"upload_presigned_url": several(1, 2, 3), "upload_headers": ["{}", "{}"]},
            "upload_headers",
            "`upload_headers` must be sent once for all uploads, or once for each `upload_presigned_url`, got 2 for 3 "
            "of these.",
        ),
        (
            {"upload_presigned_url": several(*range(9))},
            "upload_presigned_url",
            "`upload_presigned_url` must be sent at most 8 times, got 9.",
        ),
        (
            {"upload_presigned_url": [URL, f" {URL}"], "upload_format": ["srt", "vtt"]},
            "upload_presigned_url",
            "`upload_presigned_url` has the same URL twice, where one result would replace the other: send a different "
            "URL for each format.",
        ),
        (
            {"upload_presigned_url": [URL, EXPIRED]},
            "upload_presigned_url",
            "upload_presigned_url expired at 2001-09-09 01:46:40 UTC: sign a new URL that is valid for longer. This "
            "is URL 2 of 2.",
        ),
        (
            {"upload_presigned_url": several(1, 2), "upload_headers": ["{}", '{"Host": "a"}']},
            "upload_headers",
            "upload_headers has Host, which this service sets itself: leave it out, and sign the URL without it. This "
            "is URL 2 of 2.",
        ),
        (
            {"upload_presigned_url": several(1, 2), "upload_format": ["srt", "docx"]},
            "upload_format",
            "`upload_format` must be one of document, json, text, srt, vtt, lrc, tsv, verbose_json, diarized_json, "
            "rttm, got docx.",
        ),
    ],
)
def test_uploads_that_do_not_fit_together_are_rejected(fields: dict[str, Values], param: str, message: str) -> None:
    assert rejection(fields) == (message, param)


def test_unsigned_urls_of_one_store_get_one_warning() -> None:
    urls = [url.partition("?")[0] for url in several(1, 2)]
    (warning,) = read_form({"upload_presigned_url": urls}).warnings
    assert warning.startswith("`upload_presigned_url` has no signature, so bucket.s3.amazonaws.com will probably")


def test_each_upload_can_have_speakers() -> None:
    form = {"upload_presigned_url": several(1, 2), "upload_format": ["srt", "diarized_json"]}
    assert read_form(form).options.diarization is not None


def test_upload_expires_with_its_url() -> None:
    soon = round(time.time()) + 60
    (upload,) = read(upload_presigned_url=URL.replace("4102444800", str(soon))).uploads
    assert upload.expires_at == soon


def test_stored_output_makes_a_job_without_upload() -> None:
    submission = read(stored_output="true")
    assert not submission.synchronous
    assert submission.uploads == ()
    assert read(stored_output="false").synchronous


# The webhook.


def test_webhook_url_makes_a_job_with_or_without_upload() -> None:
    alone = read(webhook_url="https://a.example/hook?token=x")
    assert (alone.synchronous, alone.uploads, alone.webhook_url) == (False, (), "https://a.example/hook?token=x")
    both = read(webhook_url="http://minio.local:9000/hook", upload_presigned_url=URL)
    assert both.webhook_url == "http://minio.local:9000/hook"
    assert len(both.uploads) == 1
    assert read(upload_presigned_url=URL).webhook_url is None


def test_webhook_url_without_a_secret_is_rejected() -> None:
    assert rejection({"webhook_url": "https://a.example/hook"}, signs=False) == (
        "`webhook_url` is not available: this server has no WEBHOOK_SECRET to sign events with. Set it, or poll "
        "/v1/jobs/<id>.",
        "webhook_url",
    )
    assert read_form({"webhook_url": ""}, signs=False).synchronous


@pytest.mark.parametrize("url", ["http://a.example/hook", "https://127.0.0.1/hook", "file:///etc/passwd", "hook"])
def test_webhook_url_follows_the_url_rules(url: str) -> None:
    with pytest.raises(RefusedUrl) as caught:
        read(webhook_url=url)
    assert caught.value.param == "webhook_url"
    assert str(caught.value).startswith("webhook_url ")


# The URL of a redelivery.


def fresh_uploads(body: bytes, *formats: ResponseFormat) -> tuple[Upload, ...]:
    """Return the uploads of a redelivery, for a job whose first uploads had ``formats``."""
    job = Job(
        id="4f0c",
        accepted_at=1.0,
        model="small",
        options=TranscriptionOptions(),
        rendering=Rendering(format=ResponseFormat.SRT),
        uploads=tuple(Upload(url="", format=chosen) for chosen in formats),
    )
    return reader(signs=False).uploads.fresh(body, job)


@pytest.mark.parametrize("body", [b"", b" \n", b"{}", b'{"upload_presigned_url": null}', b'{"other": 1}'])
def test_redelivery_without_a_url_uses_the_stored_one(body: bytes) -> None:
    assert fresh_uploads(body, ResponseFormat.JSON) == ()


def test_fresh_url_gets_the_format_of_the_first_upload() -> None:
    body = json.dumps({"upload_presigned_url": URL.replace("&", "\\u0026"), "upload_headers": {"x-a": "b"}}).encode()
    for formats, chosen in (((ResponseFormat.VTT,), ResponseFormat.VTT), ((), ResponseFormat.SRT)):
        expected = Upload(url=URL, headers=(("x-a", "b"),), format=chosen, expires_at=4102444800)
        assert fresh_uploads(body, *formats) == (expected,)


def test_fresh_urls_get_the_formats_of_the_uploads_in_their_order() -> None:
    formats = (ResponseFormat.SRT, ResponseFormat.DOCUMENT)
    for headers, expected in (({"x-a": "b"}, ["x-a", "x-a"]), ([{"x-a": "b"}, {"x-c": "d"}], ["x-a", "x-c"])):
        body = json.dumps({"upload_presigned_url": several(1, 2), "upload_headers": headers}).encode()
        uploads = fresh_uploads(body, *formats)
        assert [(upload.url, upload.format) for upload in uploads] == list(zip(several(1, 2), formats, strict=True))
        assert [name for upload in uploads for name, _ in upload.headers] == expected


@pytest.mark.parametrize("urls", [several(1)[0], several(1), several(1, 2, 3), []])
def test_redelivery_needs_a_fresh_url_for_each_upload(urls: Values) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fresh_uploads(json.dumps({"upload_presigned_url": urls}).encode(), ResponseFormat.SRT, ResponseFormat.VTT)
    got = 1 if isinstance(urls, str) else len(urls)
    assert str(caught.value) == (
        f"`upload_presigned_url` must have a URL for each upload of the job, 2 in all (srt, vtt), got {got}."
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"https://a.example/key", None),
        (b"[]", None),
        (b'"https://a.example/key"', None),
        (b"\xff\xfe", None),
        (b"[" * 60_000, None),
        (b'{"upload_presigned_url": 5}', "upload_presigned_url"),
        (b'{"upload_presigned_url": "key"}', "upload_presigned_url"),
        (b'{"upload_presigned_url": "https://127.0.0.1/key"}', "upload_presigned_url"),
        (json.dumps({"upload_presigned_url": EXPIRED}).encode(), "upload_presigned_url"),
        (json.dumps({"upload_presigned_url": URL, "upload_headers": ["x-a"]}).encode(), "upload_headers"),
        (json.dumps({"upload_presigned_url": URL, "upload_headers": {"x-a": 1}}).encode(), "upload_headers"),
    ],
)
def test_redelivery_that_cannot_succeed_is_rejected(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fresh_uploads(body, ResponseFormat.JSON)
    assert caught.value.param == param
    assert "secret" not in str(caught.value)


# Speech detection, metadata, warnings.


@pytest.mark.parametrize(
    "fields",
    [
        {
            "vad_parameters": '{"threshold": 0.4, "neg_threshold": 0.2, "min_speech_duration_ms": 100, '
            '"min_silence_duration_ms": 2000, "speech_pad_ms": 200}',
        },
        {
            "vad_parameters[threshold]": "0.4",
            "vad_parameters[neg_threshold]": "0.2",
            "vad_parameters[min_speech_duration_ms]": "100",
            "vad_parameters[min_silence_duration_ms]": "2000",
            "vad_parameters[speech_pad_ms]": "200",
            "chunking_strategy": "auto",
        },
    ],
)
def test_parameters_of_faster_whisper_are_parsed_as_json_and_in_brackets(fields: dict[str, Values]) -> None:
    submission = read_form(fields)
    assert submission.options.speech_detection == SpeechDetection(
        threshold=0.4, end_threshold=0.2, min_speech_ms=100, min_silence_ms=2000, padding_ms=200
    )
    assert submission.warnings == ()


def test_parameters_of_faster_whisper_have_this_services_defaults() -> None:
    fields: dict[str, Values] = {"vad_parameters": '{"neg_threshold": null, "speech_pad_ms": 100}'}
    assert read_form(fields).options.speech_detection == SpeechDetection(padding_ms=100)


@pytest.mark.parametrize(
    "fields",
    [
        {"vad_parameters": '{"max_speech_duration_s": 15, "threshold": 0.5}'},
        {"vad_parameters[max_speech_duration_s]": "15"},
    ],
)
def test_parameter_without_counterpart_gives_a_warning(fields: dict[str, Values]) -> None:
    assert read_form(fields).warnings == ("`vad_parameters[max_speech_duration_s]` is not supported and was ignored.",)


def test_thresholds_are_those_of_the_request() -> None:
    fields = {"no_speech_threshold": "0.3", "log_prob_threshold": "-2.5", "compression_ratio_threshold": "3"}
    submission = read_form(fields)
    options = submission.options
    assert (options.no_speech_threshold, options.log_prob_threshold) == (0.3, -2.5)
    assert options.compression_ratio_threshold == 3
    assert submission.warnings == ()


@pytest.mark.parametrize("response_format", ["verbose_json", "srt", "vtt"])
def test_stream_is_ignored_with_formats_that_have_none(response_format: str) -> None:
    submission = read(stream="true", response_format=response_format)
    assert (submission.synchronous, submission.streamed) == (True, False)
    assert submission.warnings == ("`stream` requires `response_format` json, text or diarized_json and was ignored.",)


@pytest.mark.parametrize(
    "fields",
    [
        {"chunking_strategy": '{"type": "server_vad", "threshold": 0.3, "prefix_padding_ms": 200}'},
        {"chunking_strategy": ' {"type":"server_vad","threshold":"0.3","prefix_padding_ms":"200"}'},
        {
            "chunking_strategy[type]": "server_vad",
            "chunking_strategy[threshold]": "0.3",
            "chunking_strategy[prefix_padding_ms]": "200",
        },
    ],
)
def test_speech_detection_is_parsed_as_json_and_in_brackets(fields: dict[str, Values]) -> None:
    assert read_form(fields).options.speech_detection == SpeechDetection(threshold=0.3, padding_ms=200)


@pytest.mark.parametrize(
    "fields",
    [
        {"chunking_strategy": "auto"},
        {"chunking_strategy": " auto "},
        {"chunking_strategy": '{"type": "auto"}'},
        {"chunking_strategy[type]": "auto"},
        {"chunking_strategy": "server_vad"},
        {"chunking_strategy": ""},
    ],
)
def test_speech_detection_has_defaults(fields: dict[str, Values]) -> None:
    assert read_form(fields).options.speech_detection == SpeechDetection()


def test_speech_detection_accepts_zero() -> None:
    zeros = {"threshold": "0", "prefix_padding_ms": "0", "silence_duration_ms": "0"}
    fields = {f"chunking_strategy[{key}]": value for key, value in zeros.items()}
    detection = read_form({"chunking_strategy[type]": "server_vad", **fields}).options.speech_detection
    assert detection == SpeechDetection(threshold=0.0, padding_ms=0, min_silence_ms=0)


@pytest.mark.parametrize(
    ("member", "value", "requirement"),
    [
        ("threshold", "2", "be between 0 and 1"),
        ("prefix_padding_ms", "-1", "be between 0 and 5000"),
        ("silence_duration_ms", "loud", "be a number between 0 and 30000"),
        ("silence_duration_ms", "1.5", "be a whole number between 0 and 30000"),
    ],
)
def test_invalid_speech_detection_is_rejected_by_its_member(member: str, value: str, requirement: str) -> None:
    name = f"chunking_strategy[{member}]"
    message = f"`{name}` must {requirement}, got {value}."
    assert rejection({"chunking_strategy[type]": "server_vad", name: value}) == (message, name)
    assert rejection({"chunking_strategy": f'{{"type": "server_vad", "{member}": "{value}"}}'}) == (message, name)


@pytest.mark.parametrize("text", ["[1]", "null", "5", '{"threshold": 0.5}', '{"type": 5}', '{"type": ["server_vad"]}'])
def test_unknown_chunking_strategy_is_rejected(text: str) -> None:
    message = "`chunking_strategy` must be `auto`, or a JSON object whose `type` is `server_vad`."
    assert rejection({"chunking_strategy": text}) == (message, "chunking_strategy")


@pytest.mark.parametrize(
    "fields", [{"metadata": '{"call": "17", "who": "Zoë"}'}, {"metadata[call]": "17", "metadata[who]": "Zoë"}]
)
def test_metadata_is_parsed_in_either_spelling(fields: dict[str, Values]) -> None:
    assert read_form(fields).metadata == {"call": "17", "who": "Zoë"}


@pytest.mark.parametrize("name", ["without_timestamps", "return_speaker_embeddings"])
def test_unsupported_field_gives_a_warning(name: str) -> None:
    assert read_form({name: "2"}).warnings == (f"`{name}` is not supported and was ignored.",)
    for value in ("", "false"):
        assert read_form({name: value}).warnings == ()


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"hotwords": "etcd, gRPC"}, {"hotwords": "etcd, gRPC"}),
        ({"keywords": '["etcd", "a, b"]'}, {"hotwords": "etcd, a, b"}),
        ({"initial_prompt": "Names."}, {"prompt": "Names."}),
        ({"languages[]": "de"}, {"language": "de", "languages": ("de",)}),
        ({"languages[]": ["de-AT", "French", "de"]}, {"languages": ("de", "fr")}),
        ({"languages": "de, french"}, {"languages": ("de", "fr")}),
        ({"languages": '["de", "fr"]'}, {"languages": ("de", "fr")}),
        ({"languages": ["zh-TW", "en"]}, {"languages": ("zh", "en"), "script": Script.TRADITIONAL}),
        ({"languages": ["en-SG", "ja"]}, {"languages": ("en", "ja")}),
        ({"languages": "auto"}, {}),
        ({"language": "de", "languages": "German"}, {"language": "de", "languages": ("de",)}),
        ({"language": "auto"}, {}),
        ({"language": "detect", "languages": ["de", "fr"]}, {"languages": ("de", "fr")}),
        ({"language": "jv"}, {"language": "jw"}),
        ({"language": "nb-NO"}, {"language": "no"}),
        ({"language": "Mandarin"}, {"language": "zh"}),
        ({"task": "transcribe"}, {}),
        ({"word_timestamps": "true"}, {"word_timestamps": True}),
        ({"max_line_width": "20"}, {"word_timestamps": True}),
        ({"utterances": "true"}, {"word_timestamps": True}),
        ({"replace": '{"Kubernets": "Kubernetes"}'}, {"replacements": (("Kubernets", "Kubernetes"),)}),
        ({"replace[a b]": " c "}, {"replacements": (("a b", "c"),)}),
        ({"replace": ""}, {}),
        ({"include[]": "logprobs"}, {"token_logprobs": True}),
        ({"include": '["logprobs"]'}, {"token_logprobs": True}),
    ],
)
def test_fields_of_other_servers_are_accepted(fields: Mapping[str, Values], changed: dict[str, Any]) -> None:
    assert read_form(fields).options == TranscriptionOptions(**{"model": "small", **changed})


@pytest.mark.parametrize(
    ("fields", "warnings"),
    [
        ({"highlight_words": "1"}, ["`highlight_words` requires srt or vtt and was ignored."]),
        ({"highlight_words": "1", "response_format": "vtt"}, []),
        ({"always_include_hours": "1"}, ["`always_include_hours` requires srt or vtt and was ignored."]),
        ({"always_include_hours": "1", "response_format": "srt"}, []),
        (
            {"timestamp_granularities": "word"},
            ["`timestamp_granularities` requires `response_format=verbose_json` and was ignored."],
        ),
        ({"timestamp_granularities": "word", "stored_output": "true"}, []),
        (
            {"utterances": "true", "response_format": "srt"},
            ["`utterances` requires verbose_json, or diarized_json without `stream`, and was ignored."],
        ),
        (
            {"utterances": "true", "response_format": "diarized_json", "stream": "true"},
            ["`utterances` requires verbose_json, or diarized_json without `stream`, and was ignored."],
        ),
        ({"utterances": "true", "response_format": "diarized_json"}, []),
        ({"utterances": "true", "stored_output": "true"}, []),
        ({"utterances": "false"}, []),
        ({"best_of": "3"}, ["`best_of` is not supported and was ignored."]),
    ],
)
def test_ignored_field_gives_a_warning(fields: Mapping[str, Values], warnings: list[str]) -> None:
    assert list(read_form(fields).warnings) == warnings


def test_other_task_is_rejected_with_its_route() -> None:
    message, param = rejection({"task": "translate"})
    assert (param, "/v1/audio/translations" in message) == ("task", True)


@pytest.mark.parametrize(("sent", "seconds"), [("0", 0.0), ("90.5", 90.5), ("7200", 7200.0), ("", None)])
def test_retention_is_read(sent: str, seconds: float | None) -> None:
    assert read(retention_seconds=sent, stored_output="true").retention_seconds == seconds
